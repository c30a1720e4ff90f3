"""A site whose moments are not an honest site's is left out, the others go on, and the card says who and why."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, RecordDict
from numpy.typing import NDArray

from common.mechanism.moments import COUNT_WEIGHT, triangle, unpack_matrix
from common.mechanism.registry import release_length
from common.plan.schedule import schedule
from common.wire.messages import Hello, TrainRequest
from server.mechanism.half import Case
from server.mechanism.moments import HALVES
from server.protocol import rounds
from server.study import release
from server.study.study import Study
from tests.server.sites import PLAN, Fault, ScriptedExchange

PHASES = {1: "mean", 2: "subspace", 3: "prior"}
Harm = NDArray[np.float32]


def huge(values: Harm) -> Harm:
    return values * np.float32(1e12)


def not_a_number(values: Harm) -> Harm:
    return np.where(np.arange(len(values)) == 3, np.float32(np.nan), values)


def infinite(values: Harm) -> Harm:
    return np.where(np.arange(len(values)) == len(values) - 1, np.float32(np.inf), values)


def too_short(values: Harm) -> Harm:
    return values[:-1]


def too_long(values: Harm) -> Harm:
    return np.append(values, np.float32(0))


def a_matrix(values: Harm) -> Harm:
    """A whole matrix, which alone could fail to be symmetric, in the place of its triangle."""
    side = int(np.sqrt(len(values))) + 1
    return np.resize(values, (side, side))


def nothing(values: Harm) -> Harm:
    return values[:0]


def negated(values: Harm) -> Harm:
    """Of a cohort so large that noise cannot have turned the sign of its counts."""
    return values * np.float32(-1e3)


def moments_without_patients(values: Harm) -> Harm:
    """Within the norm that the plan's largest cohort could have, but not that of the patients it counts last."""
    return np.append(values[:-2] * np.float32(1e5), values[-2:]).astype(np.float32)


def a_count_that_takes_back_all_others(values: Harm) -> Harm:
    return np.append(values[:-1], -np.float32(1e3)).astype(np.float32)


HARMS = {
    huge: "NormOverBound",
    negated: "NoCohort",
    moments_without_patients: "NoCohort",
    a_count_that_takes_back_all_others: "NoCohort",
    not_a_number: "NotFinite",
    infinite: "NotFinite",
    too_short: "WrongShape",
    too_long: "WrongShape",
    a_matrix: "WrongShape",
    nothing: "WrongShape",
}


def from_hill(harm: object, number: int) -> Fault:
    def fault(question: Hello | TrainRequest, record: RecordDict) -> RecordDict:
        if isinstance(question, TrainRequest) and question.round == number:
            record["arrays"]["release"] = Array(harm(record["arrays"]["release"].numpy()).astype(np.float32))  # type: ignore[operator]
        return record

    return fault


def begin(folder: Path, components: int = 1, covariance: str = "shared") -> Study:
    text = (
        PLAN.replace("rounds = 2", "rounds = 0") + '[privacy]\nphases = ["moments"]\n[release]\nimages_per_label = 0\n'
    )
    model = f'base = 4\ncomponents = {components}\ncovariance = "{covariance}"\n'
    (folder / "plan.toml").write_text(text.replace("base = 4\n", model))
    return Study.begin(folder)


@pytest.mark.parametrize("number", PHASES)
@pytest.mark.parametrize("harm", HARMS)
def test_moments_that_no_honest_site_could_send_are_quarantined_and_the_card_says_so(
    tmp_path: Path, number: int, harm: object
) -> None:
    study = begin(tmp_path)
    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north", "river"), {"hill": from_hill(harm, number)}))
    reason = HARMS[harm]  # type: ignore[index]
    assert [record.missing for record in study.records] == [{"hill": reason} if r == number else {} for r in PHASES]
    assert all(np.isfinite(array).all() for array in study.weights.values())
    alone = begin_alone(tmp_path / "alone", number)
    assert alone.records[number - 1].weights == study.records[number - 1].weights  # nothing of it was added
    if harm is huge and number == 1:
        release.publish(study, simulated=True)
        card = json.loads((tmp_path / "card.json").read_text())
        assert card["rounds"][0]["missing"] == {"hill": reason}
        assert "hill" not in card["rounds"][0]["replied"]
        assert f"Site hill is missing from round 1: {reason}." in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("harm", [huge, negated, moments_without_patients, not_a_number])
@pytest.mark.parametrize("number", [4, 7])
def test_the_rounds_of_a_mixture_leave_such_a_site_out_too(tmp_path: Path, number: int, harm: object) -> None:
    study = begin(tmp_path, components=2)
    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north", "river"), {"hill": from_hill(harm, number)}))
    phases = ["mean", "subspace", "prior", "centres", "centres", "centres", "mixture"]
    assert [record.phase for record in study.records] == phases
    reason = HARMS[harm]  # type: ignore[index]
    assert [record.missing for record in study.records] == [
        {"hill": reason} if r == number else {} for r in range(1, 8)
    ]
    assert all(np.isfinite(array).all() for array in study.weights.values())


def negative_energies(values: Harm) -> Harm:
    """Of the fine detail alone: a spread that nobody has, within the norm of its patients."""
    rows = values.copy().reshape(2, -1)
    rows[0, triangle(16)] = -45.0
    return rows.reshape(-1)


def energies_without_patients(values: Harm) -> Harm:
    rows = values.copy().reshape(2, -1)
    rows[0, triangle(16) : -1] = 1e4
    return rows.reshape(-1)


BY_CLASS = {negative_energies: "NoCohort", energies_without_patients: "NoCohort"}


@pytest.mark.parametrize(
    ("number", "harm"),
    [
        *itertools.product([1, 2], [huge, negated, moments_without_patients, not_a_number]),
        *itertools.product([2], BY_CLASS),
    ],
)
def test_the_rounds_of_moments_by_class_leave_such_a_site_out_too(tmp_path: Path, number: int, harm: object) -> None:
    study = begin(tmp_path, covariance="class")
    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north", "river"), {"hill": from_hill(harm, number)}))
    assert [record.phase for record in study.records] == ["means", "scatters"]
    reason = {**HARMS, **BY_CLASS}[harm]  # type: ignore[index]
    assert [record.missing for record in study.records] == [{"hill": reason} if r == number else {} for r in (1, 2)]
    assert all(np.isfinite(array).all() for array in study.weights.values())


def begin_alone(folder: Path, number: int) -> Study:
    """The same study in which hill says nothing at all in that round."""
    folder.mkdir()
    study = begin(folder)

    def silent(question: Hello | TrainRequest, record: RecordDict) -> object:
        return None if isinstance(question, TrainRequest) and question.round == number else record

    rounds.run(study, ScriptedExchange(study.plan, ("hill", "north", "river"), {"hill": silent}))
    return study


def test_a_packed_matrix_cannot_be_anything_but_symmetric(tmp_path: Path) -> None:
    plan = begin(tmp_path).plan
    base = plan.model.base**2
    assert release_length(plan, schedule(plan)[1].phase) == triangle(base) + 1
    whatever = np.random.default_rng(0).normal(size=triangle(base)) * 1e6
    matrix = unpack_matrix(whatever, base)
    np.testing.assert_array_equal(matrix, matrix.T)


def test_a_component_that_has_next_to_nothing_of_anybody_is_no_contradiction(tmp_path: Path) -> None:
    """Without noise a far component's share may be a number that float32 holds with few bits: 5e-41 was refused."""
    plan = begin(tmp_path, components=2).plan
    plan = dataclasses.replace(plan, privacy=dataclasses.replace(plan.privacy, enabled=False))
    step = schedule(plan)[3]
    direction = np.random.default_rng(0).normal(size=plan.model.latent)
    vector = np.append(direction / np.linalg.norm(direction), COUNT_WEIGHT)
    rows = np.stack([share * vector for share in np.geomspace(1e-44, 1e-37, num=2 * len(plan.data.labels))])
    sent = rows.astype(np.float32).astype(np.float64)
    passes = np.linalg.norm(sent[:, :-1], axis=1) / (sent[:, -1] / COUNT_WEIGHT)
    assert passes.max() > 1.001, "float32 holds all of these well"
    assert HALVES[step.phase].contradiction(Case.of_site(plan, step, {}), sent.reshape(-1)) is None
