"""Writing synthetic images from a run's decoder as DICOM, PNG or npz; needs the released files and nothing else."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from common.dicom_export import Provenance, write_synthetic
from common.errors import CheckpointCorrupt
from common.images import unit_to_uint8
from common.synthesis import Decoder
from common.weights import write_atomically
from deploy.drafts import whole_folder

Format = Literal["dicom", "png", "npz"]


def generate(
    run: Path,
    out: Path,
    *,
    count: int,
    labels: tuple[str, ...],
    form: Format,
    seed: int,
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Draw `count` images of each label into `out`: whole or not at all.

    Args:
        run: Folder with `decoder.safetensors` and `card.json`.
        out: Folder to create; must be absent or empty.
        count: Images of each label.
        labels: Labels to draw; empty draws every label of the study.
        form: "dicom" and "png" write one file an image, "npz" one file in all.
        seed: Same seed, same bytes.
        on_image: Called after each image.

    Returns:
        Number of images by label.

    Raises:
        CheckpointCorrupt: The release was altered or is not there.
        PlanError: A label that the study does not have.
        OutputInUse: `out` holds something.
    """
    decoder, provenance = load_release(run, seed=seed)
    chosen = labels or decoder.labels
    for label in chosen:
        next(decoder.draw(label, 1, seed=seed))
    with whole_folder(out) as draft:
        _write_all(draft, decoder, provenance, count, chosen, form, on_image)
    return dict.fromkeys(chosen, count)


def load_release(run: Path, *, seed: int) -> tuple[Decoder, Provenance]:
    """Read a run's decoder and card and check that they belong together.

    Raises:
        CheckpointCorrupt: One of them is absent, altered, or of another study.
    """
    decoder = Decoder.load(run / "decoder.safetensors")
    try:
        card = json.loads((run / "card.json").read_text())
        digests = card["decoder_digest"], card["plan_digest"]
        spent = [value for value in card["privacy"]["epsilon_by_site"].values() if value is not None]
        epsilon = max(spent) if card["privacy"]["enabled"] else float("inf")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(
            f"{run}/card.json: cannot be read ({type(error).__name__}). Restore the release"
        ) from error
    if digests != (decoder.digest, decoder.plan.digest):
        raise CheckpointCorrupt(f"{run}: card.json and decoder.safetensors are not of one study. Restore the release")
    return decoder, Provenance(
        study=decoder.plan.name,
        plan_digest=decoder.plan.digest,
        decoder_digest=decoder.digest,
        epsilon=epsilon,
        delta=decoder.plan.privacy.delta,
        seed=seed,
    )


def _write_all(
    out: Path,
    decoder: Decoder,
    provenance: Provenance,
    count: int,
    labels: tuple[str, ...],
    form: Format,
    on_image: Callable[[], None],
) -> None:
    if form == "npz":
        _write_npz(out, decoder, provenance, count, labels, on_image)
        return
    listing = io.StringIO()
    manifest = csv.writer(listing, lineterminator="\n")
    manifest.writerow(["file", "label", "index"])
    modality = (decoder.plan.data.modality or ("OT",))[0]
    for label in labels:
        (out / label).mkdir()
        for index, image in enumerate(decoder.draw(label, count, seed=provenance.seed)):
            path = out / label / f"{index:06d}.{'dcm' if form == 'dicom' else 'png'}"
            if form == "dicom":
                write_synthetic(
                    path,
                    unit_to_uint8(image),
                    modality=modality,
                    body_part=decoder.plan.data.body_part,
                    label=label,
                    index=index,
                    provenance=provenance,
                )
            else:
                Image.fromarray(unit_to_uint8(image)).save(path)
            manifest.writerow([f"{label}/{path.name}", label, index])
            on_image()
    write_atomically(out / "manifest.csv", listing.getvalue().encode())


def _write_npz(
    out: Path,
    decoder: Decoder,
    provenance: Provenance,
    count: int,
    labels: tuple[str, ...],
    on_image: Callable[[], None],
) -> None:
    """One file: images uint8 [n, size, size], labels int64 [n], names of the labels, provenance as JSON."""

    def counted(image: Tensor) -> np.ndarray:
        on_image()
        return unit_to_uint8(image)

    images = [counted(image) for label in labels for image in decoder.draw(label, count, seed=provenance.seed)]
    size = decoder.plan.data.image_size
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.array(images, np.uint8).reshape(-1, size, size),
        labels=np.repeat([decoder.labels.index(label) for label in labels], count),
        label_names=np.array(decoder.labels),
        provenance=np.array(json.dumps(vars(provenance), default=str)),
    )
    write_atomically(out / "synthetic.npz", buffer.getvalue())
