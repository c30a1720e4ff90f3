"""The moments phase at the coordinator: what each release claims, and what its sum makes of the start.

The layouts are those of `client.mechanism.moments`.
"""

import dataclasses

from common.mechanism.mechanism import Array
from common.mechanism.moments import COUNT_WEIGHT, axes, spreads_length, triangle
from common.plan.study_plan import StudyPlan
from server.aggregation.plausible import Claim
from server.mechanism.patient_sum import PatientSums
from server.model.closed_form import FORMS


def _of_mean(plan: StudyPlan, release: Array) -> Claim:
    base, unit = plan.model.base**2, plan.privacy.mean_clip
    row = release[None] / unit
    return Claim(counts=row[:, base:], sums=row[:, :base], scatters=row[:, :0], energies=row[:, :0],
                 count_weight=1.0, unit=unit)  # fmt: skip


def _of_groups(rows: Array, scattered: int, *, unit: float = 1.0) -> Claim:
    """The claim of groups of patients, a row each, in units of a clip: second moments, sums of vectors, a count."""
    return Claim(
        counts=rows[:, -1:] / COUNT_WEIGHT,
        sums=rows[:, scattered:-1],
        scatters=rows[:, :scattered],
        energies=rows[:, :0],
        count_weight=COUNT_WEIGHT,
        unit=unit,
    )


def _of_subspace(plan: StudyPlan, release: Array) -> Claim:
    return _of_groups(release[None], triangle(plan.model.base**2))


def _of_spreads(plan: StudyPlan, release: Array) -> Claim:
    return _of_groups(release.reshape(-1, spreads_length(plan)), triangle(plan.model.latent))


def _of_centres(plan: StudyPlan, release: Array) -> Claim:
    return _of_groups(release.reshape(-1, plan.model.latent + 1), 0)


def _of_means(plan: StudyPlan, release: Array) -> Claim:
    unit = plan.privacy.mean_clip
    return _of_groups(release.reshape(len(plan.data.labels), -1) / unit, 0, unit=unit)


def _of_scatters(plan: StudyPlan, release: Array) -> Claim:
    """As groups; what lies between second moments and count is energies by band, no sums of vectors."""
    claim = _of_groups(release.reshape(len(plan.data.labels), -1), triangle(axes(plan)))
    return dataclasses.replace(claim, sums=claim.energies, energies=claim.sums)


HALVES = {
    "mean": PatientSums(form=FORMS["mean"], claim=_of_mean),
    "subspace": PatientSums(form=FORMS["subspace"], claim=_of_subspace),
    "prior": PatientSums(form=FORMS["prior"], claim=_of_spreads),
    "centres": PatientSums(form=FORMS["centres"], claim=_of_centres),
    "mixture": PatientSums(form=FORMS["mixture"], claim=_of_spreads),
    "means": PatientSums(form=FORMS["means"], claim=_of_means),
    "scatters": PatientSums(form=FORMS["scatters"], claim=_of_scatters),
}
