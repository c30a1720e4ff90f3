"""The end of a study: decoder, card, synthetic DICOM and report, all from the global model and the receipts alone."""

import hashlib
import importlib.metadata
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from common.dicom.export import Provenance
from common.dicom.stamp import Stamp
from common.host.files import write_atomically
from common.images.pixels import unit_to_uint8
from common.model.output_screening import Screening
from common.model.synthesis import Decoder
from common.wire.not_run import NotRun, not_run
from common.wire.release_bundle import CARD, DECODER, REPORT, seal_bundle
from common.wire.signing import Key
from common.wire.verdicts import to_json
from server.model import warm
from server.protocol import gate, settings
from server.protocol.gate import Verdicts
from server.report.page import ReportData, RoundLine, SiteLine, write_report
from server.study.study import Study

log = logging.getLogger(__name__)

SCHEMA = 2
SIGNING_KEY = "signing/coordinator.key"
"""The key, below a study's folder, that its bundle is signed with; made on first use if there is none."""
RELEASE_SEED = 1
"""Seed of the images that a study writes by itself. Public: the decoder is, too."""
_SHEET = 18


def publish(
    study: Study,
    *,
    simulated: bool,
    verdicts: Verdicts | None = None,
    out: Path | None = None,
    evaluation: dict[str, Any] | None = None,
    audit: dict[str, Any] | None = None,
) -> None:
    """Write the signed bundle (`decoder.safetensors`, `card.json`, `report.html`), and the study's own images.

    Args:
        study: A study whose rounds are all done.
        simulated: Whether the sites were simulated; the card and the report say so.
        verdicts: Checked verdicts by site; every site's yes is needed where the plan has a gate.
        out: Folder of the bundle, which then holds the bundle alone; None takes the study's folder, with `synthetic/`.
        evaluation: Raw figures by site, of a simulation on public data; None leaves them out.
        audit: What an audit of a simulation's own mechanism found, or why there was none. None: not reported.

    Raises:
        VerdictMissing: A site has not judged the candidate; nothing was written.
        GateFailed: A site said no; nothing was written.
    """
    verdicts = verdicts or {}
    gate.require(study, verdicts)
    folder = out or study.folder
    decoder = Decoder.of(study.plan, study.released)
    decoder.save(folder / DECODER)
    dropped = _write_synthetic(study, decoder, verdicts) if out is None else None
    card = build_card(study, decoder, folder, verdicts=verdicts, simulated=simulated)
    absent = not_run(NotRun.BEFORE_RELEASE if simulated else NotRun.NOT_SIMULATED)
    card |= {"evaluation": evaluation or {}, "audit": audit or absent, "screening": dropped}
    write_atomically(folder / CARD, json.dumps(card, indent=1, sort_keys=True).encode())
    write_report(_report_data(study, decoder, card), folder / REPORT)
    seal_bundle(folder, Key.at(study.folder / SIGNING_KEY))
    log.info("released %s", folder)


def build_card(study: Study, decoder: Decoder, folder: Path, *, verdicts: Verdicts, simulated: bool) -> dict[str, Any]:
    """Return the model card: what was trained, on whose receipts, at which cost. Plain JSON types.

    Args:
        study: The finished study.
        decoder: Its decoder.
        folder: Folder of the bundle.
        verdicts: Checked verdicts by site.
        simulated: Whether the study was a simulation.
    """
    privacy = study.plan.privacy
    spent = epsilon_by_site(study, verdicts)
    return {
        "schema": SCHEMA,
        "study": study.plan.name,
        "plan": study.plan.to_dict(),
        "plan_digest": study.plan.digest,
        "decoder_digest": decoder.digest,
        "decoder_sha256": hashlib.sha256((folder / DECODER).read_bytes()).hexdigest(),
        "code_version": importlib.metadata.version("wardround"),
        "simulated": simulated,
        "privacy": {
            "enabled": privacy.enabled,
            "unit": "patient",
            "relation": "add or remove one patient",
            "accountant": "min(privacy loss distributions, RDP) upper bounds, composed from the site's ledger events",
            "delta": privacy.delta,
            "epsilon_by_site": {site: _finite(value) for site, value in spent.items()},
        },
        "prevalence": decoder.prevalence(),
        "text_searched": settings.text_searched(study),
        "verdicts": {site: to_json(verdict) for site, verdict in sorted(verdicts.items())},
        "utility_rmse": study.records[-1].utility,
        "warm": warm.in_the_card(study.plan, study.folder),
        "rounds": [_round(record.plain()) for record in study.records],
    }


def epsilon_by_site(study: Study, verdicts: Verdicts) -> dict[str, float]:
    """What the study has cost a patient at each site, the verdict included where there is one."""
    return {site: verdicts[site].epsilon if site in verdicts else study.epsilon(site) for site in study.sites()}


def _write_synthetic(study: Study, decoder: Decoder, verdicts: Verdicts) -> dict[str, Any]:
    """Write the plan's own images, whole set or none: a draft, then a rename. Returns what was screened."""
    spent = max(epsilon_by_site(study, verdicts).values())
    provenance = provenance_of(study.plan, decoder, epsilon=spent, seed=RELEASE_SEED)
    draft = study.folder / ".synthetic.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    data, wanted = study.plan.data, study.plan.release.images_per_label
    screening = Screening(decoder)
    for label in decoder.labels if wanted else ():
        (draft / label).mkdir()
        stamp = Stamp(
            label=label,
            modality=(data.modality or ("OT",))[0],
            body_part=data.body_part,
            provenance=provenance,
            window=None if isinstance(data.window, str) else data.window,
        )
        for indices, images in screening.draw(label, wanted, seed=RELEASE_SEED):
            for index, image in zip(indices, images, strict=True):
                (draft / label / f"{index:06d}.dcm").write_bytes(stamp.file(image, index=index))
    final = study.folder / "synthetic"
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    return screening.report()


def provenance_of(plan: Any, decoder: Decoder, *, epsilon: float, seed: int) -> Provenance:
    """What every synthetic image states about where it comes from.

    Args:
        plan: The plan.
        decoder: The released decoder.
        epsilon: The largest epsilon of any site.
        seed: Seed of the draw.
    """
    return Provenance(
        study=plan.name,
        plan_digest=plan.digest,
        decoder_digest=decoder.digest,
        epsilon=epsilon,
        delta=plan.privacy.delta,
        seed=seed,
    )


def _report_data(study: Study, decoder: Decoder, card: dict[str, Any]) -> ReportData:
    spent = {site: math.inf if value is None else value for site, value in card["privacy"]["epsilon_by_site"].items()}
    sheets = {
        label: np.stack([unit_to_uint8(image) for image in decoder.draw(label, _SHEET, seed=RELEASE_SEED)])
        for label in decoder.labels
    }
    return ReportData(
        plan=study.plan.to_dict(),
        plan_digest=study.plan.digest,
        decoder_digest=decoder.digest,
        sites=[_site_line(study, site, spent[site], card["text_searched"][site]) for site in study.sites()],
        rounds=[
            RoundLine(
                number=r.number,
                phase=r.phase,
                replied=tuple(sorted(r.replied)),
                missing=r.missing,
                epsilon=max(receipt.epsilon for receipt in r.replied.values()),
                phantom_error=r.utility,
                seconds=r.seconds,
                readings=r.readings,
            )
            for r in study.records
        ],
        epsilon_limit=study.plan.privacy.epsilon,
        delta=study.plan.privacy.delta,
        simulated=card["simulated"],
        images=sheets,
        notes=warm.in_words(study.plan, study.folder)
        + [
            f"Site {site} is missing from round {r.number}: {reason}."
            for r in study.records
            for site, reason in sorted(r.missing.items())
        ],
        code_version=importlib.metadata.version("wardround"),
        created="",
        verdicts={site: verdict["outcome"] for site, verdict in card["verdicts"].items()},
        evaluation=card["evaluation"],
        audit=card["audit"],
    )


def _site_line(study: Study, site: str, spent: float, text_searched: str) -> SiteLine:
    joined = [record for record in study.records if site in record.replied]
    reasons = [record.missing[site] for record in study.records if site in record.missing]
    return SiteLine(
        name=site,
        epsilon=spent,
        delta=study.plan.privacy.delta,
        rounds_joined=len(joined),
        rounds_missed=len(study.records) - len(joined),
        last_refusal=reasons[-1] if reasons else "",
        text_searched=text_searched,
    )


def _round(record: dict[str, Any]) -> dict[str, Any]:
    for receipt in record["replied"].values():
        receipt["epsilon"] = _finite(receipt["epsilon"])
    return record


def _finite(epsilon: float) -> float | None:
    """JSON has no infinity; a study without noise has no epsilon at all."""
    return epsilon if math.isfinite(epsilon) else None
