"""The end of a study: decoder, card, synthetic DICOM and report, all from the global model and the receipts alone."""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import math
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from common.dicom_export import Provenance, write_synthetic
from common.images import unit_to_uint8
from common.synthesis import Decoder
from common.weights import write_atomically
from server.report import ReportData, RoundLine, SiteLine, write_report
from server.study import Study

log = logging.getLogger(__name__)

SCHEMA = 1
RELEASE_SEED = 1
"""Seed of the images that a study writes by itself. Public: the decoder is, too."""
_SHEET = 18


def publish(study: Study, *, simulated: bool, on_image: Callable[[], None] = lambda: None) -> None:
    """Write `decoder.safetensors`, `synthetic/`, `card.json` and `report.html` into the study's folder.

    Args:
        study: A study whose rounds are all done.
        simulated: Whether the sites were simulated; the card and the report say so.
        on_image: Called after each synthetic image.
    """
    decoder = Decoder.of(study.plan, study.weights)
    decoder.save(study.folder / "decoder.safetensors")
    _write_synthetic(study, decoder, on_image)
    card = build_card(study, decoder, simulated=simulated)
    write_atomically(study.folder / "card.json", json.dumps(card, indent=1, sort_keys=True).encode())
    write_report(_report_data(study, decoder, simulated=simulated), study.folder / "report.html")
    log.info("released %s", study.folder)


def build_card(study: Study, decoder: Decoder, *, simulated: bool) -> dict[str, Any]:
    """Return the model card: what was trained, on whose receipts, at which cost. Plain JSON types."""
    privacy = study.plan.privacy
    return {
        "schema": SCHEMA,
        "study": study.plan.name,
        "plan": study.plan.to_dict(),
        "plan_digest": study.plan.digest,
        "decoder_digest": decoder.digest,
        "decoder_sha256": hashlib.sha256((study.folder / "decoder.safetensors").read_bytes()).hexdigest(),
        "code_version": importlib.metadata.version("wardround"),
        "simulated": simulated,
        "privacy": {
            "enabled": privacy.enabled,
            "unit": "patient",
            "relation": "add or remove one patient",
            "accountant": "min(PRV, RDP) upper bounds, composed from the site's ledger events",
            "delta": privacy.delta,
            "epsilon_by_site": {site: _finite(study.epsilon(site)) for site in study.sites()},
        },
        "utility_rmse": study.records[-1].utility,
        "rounds": [_round(dataclasses.asdict(record)) for record in study.records],
    }


def _write_synthetic(study: Study, decoder: Decoder, on_image: Callable[[], None]) -> None:
    """Write the plan's own images, whole set or none: built beside, then put in place."""
    provenance = provenance_of(study.plan, decoder, epsilon=largest_epsilon(study), seed=RELEASE_SEED)
    draft = study.folder / ".synthetic.draft"
    shutil.rmtree(draft, ignore_errors=True)
    modality = (study.plan.data.modality or ("OT",))[0]
    for label in decoder.labels:
        images = decoder.draw(label, study.plan.release.images_per_label, seed=RELEASE_SEED)
        for index, image in enumerate(images):
            path = draft / label / f"{index:06d}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_synthetic(
                path,
                unit_to_uint8(image),
                modality=modality,
                body_part=study.plan.data.body_part,
                label=label,
                index=index,
                provenance=provenance,
            )
            on_image()
    draft.mkdir(exist_ok=True)
    final = study.folder / "synthetic"
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)


def provenance_of(plan: Any, decoder: Decoder, *, epsilon: float, seed: int) -> Provenance:
    """What every synthetic image states about where it comes from."""
    return Provenance(
        study=plan.name,
        plan_digest=plan.digest,
        decoder_digest=decoder.digest,
        epsilon=epsilon,
        delta=plan.privacy.delta,
        seed=seed,
    )


def largest_epsilon(study: Study) -> float:
    """Epsilon of the site whose patients paid most: the bound that holds for every patient of the study."""
    return max(study.epsilon(site) for site in study.sites())


def _report_data(study: Study, decoder: Decoder, *, simulated: bool) -> ReportData:
    sheets = {
        label: np.stack([unit_to_uint8(image) for image in decoder.draw(label, _SHEET, seed=RELEASE_SEED)])
        for label in decoder.labels
    }
    return ReportData(
        plan=study.plan.to_dict(),
        plan_digest=study.plan.digest,
        decoder_digest=decoder.digest,
        sites=[_site_line(study, site) for site in study.sites()],
        rounds=[
            RoundLine(
                number=r.number,
                phase=r.phase,
                replied=tuple(sorted(r.replied)),
                missing=r.missing,
                epsilon=max(receipt.epsilon for receipt in r.replied.values()),
                utility=r.utility,
                seconds=r.seconds,
            )
            for r in study.records
        ],
        epsilon_limit=study.plan.privacy.epsilon,
        delta=study.plan.privacy.delta,
        simulated=simulated,
        images=sheets,
        notes=[
            f"Site {site} is missing from round {r.number}: {reason}."
            for r in study.records
            for site, reason in sorted(r.missing.items())
        ],
        code_version=importlib.metadata.version("wardround"),
        created="",
    )


def _site_line(study: Study, site: str) -> SiteLine:
    joined = [record for record in study.records if site in record.replied]
    reasons = [record.missing[site] for record in study.records if site in record.missing]
    return SiteLine(
        name=site,
        epsilon=study.epsilon(site),
        delta=study.plan.privacy.delta,
        rounds_joined=len(joined),
        rounds_missed=len(study.records) - len(joined),
        last_refusal=reasons[-1] if reasons else "",
    )


def _round(record: dict[str, Any]) -> dict[str, Any]:
    for receipt in record["replied"].values():
        receipt["epsilon"] = _finite(receipt["epsilon"])
    return record


def _finite(epsilon: float) -> float | None:
    """JSON has no infinity; a study without noise has no epsilon at all."""
    return epsilon if math.isfinite(epsilon) else None
