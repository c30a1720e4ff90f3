"""Writing synthetic sets from a signed release: which labels, how many of each, screened, whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from common.dicom.export import Edition
from common.dicom.file_set import MOST_FILES
from common.errors import DataError
from common.host.files import write_atomically
from common.model.output_screening import Screening
from common.model.synthesis import Decoder
from common.wire.release_bundle import Bundle
from deploy.release.drafts import whole_folder
from deploy.release.sinks import Format, SetForm, open_sink

Mix = Literal["balanced", "prevalence"]


def generate(
    release: Path,
    out: Path,
    *,
    count: int,
    labels: tuple[str, ...] = (),
    mix: Mix = "balanced",
    form: Format = "dicom",
    seed: int = 0,
    trusted: str = "",
    edition: Edition = "current",
    dicomdir: bool = False,
    on_image: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Draw a synthetic set into `out`: whole or not at all.

    Args:
        release: A bundle, or a run folder after its release. Nothing else is needed.
        out: Folder to create; must be absent or empty.
        count: Images of each label; with mix "prevalence", that many times the number of labels in all.
        labels: Labels to draw; empty draws every label of the study.
        mix: "balanced" draws as many of each label; "prevalence" draws labels as often as the study's own noised
            counts say they occur.
        form: "dicom", "png" and "nifti" write one file an image, "npz" one file in all.
        seed: Same seed and bundle, same bytes on one machine; another seed never repeats an image.
        trusted: Fingerprint of the only signer to accept; "" accepts any.
        edition: Of the DICOM standard.
        dicomdir: Lay DICOM files out as a disc's, with a DICOMDIR.
        on_image: Called with the number of images just written.

    Returns:
        Number of images by label, and what the screening dropped by reason.

    Raises:
        SignatureInvalid: The release was altered, or signed by another key.
        CheckpointCorrupt: Its parts do not belong together.
        PlanError: A label that the study does not have.
        DataError: Nearly every image is broken, or more images than a DICOMDIR takes.
        OutputInUse: `out` holds something.
    """
    bundle = Bundle.load(release, trusted=trusted)
    decoder, data = bundle.decoder, bundle.decoder.plan.data
    counts = shares(decoder, count, labels=labels, mix=mix)
    if dicomdir and sum(counts.values()) > MOST_FILES:
        raise DataError(
            f"a DICOMDIR of {sum(counts.values())} images was asked for, and it takes {MOST_FILES}. "
            "Draw several sets with seeds of their own, or leave --dicomdir out"
        )
    what = SetForm(
        counts=counts,
        label_names=decoder.labels,
        size=data.image_size,
        modality=(data.modality or ("OT",))[0],
        body_part=data.body_part,
        provenance=bundle.provenance(seed=seed),
        edition=edition,
        window=None if isinstance(data.window, str) else data.window,
        dicomdir=dicomdir,
    )
    screening = Screening(decoder)
    with whole_folder(out) as draft:
        with open_sink(draft, form, what) as sink:
            for label, wanted in counts.items():
                for indices, images in screening.draw(label, wanted, seed=seed):
                    sink.add(label, indices, images)
                    on_image(len(indices))
        result = {"images": counts, "screening": screening.report(), "signer": bundle.signer}
        write_atomically(draft / "set.json", json.dumps({**result, "seed": seed}, indent=1, sort_keys=True).encode())
    return result


def shares(decoder: Decoder, count: int, *, labels: tuple[str, ...], mix: Mix) -> dict[str, int]:
    """Return how many images of each label make the set; whole numbers that add up, largest remainders first.

    Args:
        decoder: The released decoder.
        count: Number of images of the whole set.
        labels: Labels that were asked for; none means all.
        mix: By prevalence or balanced.

    Raises:
        PlanError: A label that the study does not have.
    """
    chosen = list(dict.fromkeys(labels)) or list(decoder.labels)
    for label in chosen:
        decoder.index(label)
    if mix == "balanced":
        return dict.fromkeys(chosen, count)
    prevalence = decoder.prevalence()
    whole = sum(prevalence[label] for label in chosen) or 1.0
    exact = {label: count * len(chosen) * prevalence[label] / whole for label in chosen}
    counts = {label: int(value) for label, value in exact.items()}
    missing = count * len(chosen) - sum(counts.values())
    for label in sorted(chosen, key=lambda name: counts[name] - exact[name])[:missing]:
        counts[label] += 1
    return counts
