"""What is measured of one patient for the verdict never turns on who else is there, not even by rounding."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from client.cohort.cache import Cache
from client.cohort.consent import ConsentingCohort
from client.cohort.image_blocks import parts
from client.evaluation import votes, yardstick
from client.evaluation.candidate import Candidate
from client.evaluation.nearness import Points
from client.evaluation.tstr import Classifier
from client.evaluation.yardstick import Yardstick
from common.images.encoder import Encoder
from common.model.linear_start import LinearStart
from common.model.study_model import initial
from common.model.vae import Vae
from common.plan.evaluation import EvaluationPlan
from common.plan.study_plan import StudyPlan
from tests.client.cohorts import small_cohort, small_plan

pytestmark = pytest.mark.usefixtures("one_thread")


def plan(*, near_rmse: float = 0.1, **rules: float) -> StudyPlan:
    evaluation = EvaluationPlan(held_out_share=0.5, near_rmse=near_rmse, **rules)  # type: ignore[arg-type]
    small = small_plan()
    model = dataclasses.replace(small.model, latent=32, base=16)  # as real plans: kernels keep images of few apart
    return dataclasses.replace(small, model=model, evaluation=evaluation)


def candidate(model: Vae) -> Candidate:
    """Of a model, and of images of black and white dots, which are far from everybody's."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn((60, 28, 28), generator=generator).sign()
    labels = torch.arange(60) % 2
    return Candidate("c" * 64, model.eval(), images, labels, Classifier(images, labels, classes=2))


def only(cache: Cache, *kept: int) -> Cache:
    return ConsentingCohort(cache, list(kept), secret=bytes(32))


def several_components(rules: StudyPlan) -> StudyPlan:
    """The same with a choice among components, as closed-form studies have it."""
    privacy = dataclasses.replace(rules.privacy, phases=("moments", "sgd"))
    return dataclasses.replace(rules, model=dataclasses.replace(rules.model, components=3), privacy=privacy)


def worst_move(rules: StudyPlan, judged: Candidate, cohort: Cache) -> tuple[float, float]:
    """The most that one patient moves an entry of the votes, and all of them in L2 norm: set aside, and trained."""
    everybody, moves, slots = range(cohort.patients), [], yardstick.slots_of(rules, judged)
    for trains in (False, True):

        def votes_of(some: Cache, *, trains: bool = trains) -> NDArray[np.float64]:
            nobody = only(cohort)
            with pytest.MonkeyPatch.context() as patch:  # tried once, not for each of these cohorts
                patch.setattr(votes, "slots_of", lambda *_: slots)
                return votes.tally(rules, judged, *((some, nobody) if trains else (nobody, some)))

        whole = votes_of(cohort)
        moves += [whole - votes_of(only(cohort, *(i for i in everybody if i != gone))) for gone in everybody]
    return max(float(np.abs(move).max()) for move in moves), max(float(np.linalg.norm(move)) for move in moves)


def lay_bare(model: Vae) -> None:
    """Weights whose latents are the rounding of a sum of large terms, and whose pictures show them in their lower half.

    As `tests.client.test_apart.magnify`, whose pictures are too large to show anything once they are clamped.
    """
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data.zero_()
    upper = torch.arange(model.size**2) < model.size**2 // 2
    basis = torch.randn(model.start.basis.shape, generator=generator)
    basis[upper] -= basis[upper].mean(0)
    model.start.basis.data.copy_(basis)
    model.start.mean.data.copy_(upper * 1e7)
    model.start.gain.data.copy_(torch.eye(model.latent_size))
    model.start.factor.data.copy_(torch.eye(model.latent_size) * 0.02)


def own_errors(model: Vae, cohort: Cache) -> list[float]:
    """Each image's error of reconstruction, all images side by side."""
    (together,) = parts(cohort, at_once=1000)
    rebuilt = model.reconstruct(together.images.unsqueeze(1), together.labels).clamp(-1, 1)[:, 0]
    squares: Tensor = (rebuilt - together.images).flatten(1).double().square().mean(1)
    return squares.sqrt().tolist()


def where_rounding_decides(model: Vae, cohort: Cache) -> tuple[Cache, float]:
    """Two patients and a threshold: both are below it side by side, and one is above it when alone."""
    for first, second in itertools.permutations(range(cohort.patients), 2):
        pair = only(cohort, first, second)
        beside, (alone,) = max(own_errors(model, pair)), own_errors(model, only(cohort, first))
        if beside < alone:
            return pair, (beside + alone) / 2
    pytest.skip("the kernels of this machine round one image as they round two")


def test_weights_made_to_magnify_rounding_move_the_votes_by_the_sensitivity_at_most(tmp_path: Path) -> None:
    cohort = small_cohort(tmp_path, patients=8, images=1)
    model = initial(plan()).eval()
    lay_bare(model)
    pair, threshold = where_rounding_decides(model, cohort)
    for some in (pair, cohort):
        entry, norm = worst_move(plan(near_rmse=threshold), candidate(model), some)
        assert entry <= 1 + 1e-9
        assert norm <= votes.SENSITIVITY


def by_place(plain: Callable[..., Tensor], size: float) -> Callable[..., Tensor]:
    """The same, but for a little more in odd places."""

    def uneven(*arguments: Any, **named: Any) -> Tensor:
        found = plain(*arguments, **named)
        return found + size * (torch.arange(len(found)) % 2).view(-1, *[1] * (found.dim() - 1))

    return uneven


def together(rules: StudyPlan, judged: Candidate) -> int:
    """How many images share a pass here; a test of what several in a pass may do needs more than one."""
    slots = yardstick.slots_of(rules, judged)
    if slots == 1:
        pytest.skip("no two images of this shape can share a pass on this machine")
    return slots


@pytest.mark.parametrize(
    ("where", "name", "size"),
    [
        (Vae, "reconstruct", 0.5),
        (Points, "squared_distances", 100.0),
        (Yardstick, "in_pixels", 0.5),
        (Encoder, "forward", 5.0),
        (functional, "relu", 5.0),  # the classifier's alone
        (LinearStart, "scores", 1e-3),  # which only choose a component
    ],
)
def test_where_a_library_rounds_by_place_every_image_goes_alone_and_moves_no_other_vote(
    where: Any, name: str, size: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So much by place that votes turn: were it a matter of places at all, one patient less would turn many."""
    rules = several_components(plan(near_rmse=0.7))
    judged = candidate(initial(rules))
    cohort = small_cohort(tmp_path, patients=9, images=[1, 2, 3] * 3)
    together(rules, judged)
    monkeypatch.setattr(where, name, by_place(getattr(where, name), size))
    assert yardstick.slots_of(rules, judged) == 1
    entry, norm = worst_move(rules, judged, cohort)
    assert entry <= 1 + 1e-9
    assert norm <= votes.SENSITIVITY


def test_every_pass_has_one_shape_whoever_is_in_the_cohort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[int] = []
    plain = Vae.reconstruct

    def watched(self: Vae, images: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(images))
        return plain(self, images, labels)

    cohort = small_cohort(tmp_path, patients=6, images=[1, 90, 2, 3, 4, 5])  # one fills more than a pass
    judged = candidate(initial(plan()))
    slots = together(plan(), judged)
    monkeypatch.setattr(Vae, "reconstruct", watched)
    monkeypatch.setattr(votes, "slots_of", lambda *_: slots)
    for some in (cohort, only(cohort, 0), only(cohort, 1)):
        votes.tally(plan(), judged, some, some)
    assert set(seen) == {slots}


def test_a_patient_is_judged_by_all_images_whatever_passes_they_fall_into(tmp_path: Path) -> None:
    cohort = small_cohort(tmp_path, patients=4, images=[1, 90, 2, 7])
    ballot = lambda images, _: (images.mean((1, 2)) > 0).numpy()[:, None]  # noqa: E731
    found = yardstick.shares(cohort, ballot, slots=16)
    for i in range(cohort.patients):
        assert found[i] == pytest.approx(float((cohort.patient(i)[0].mean((1, 2, 3)) > 0).double().mean()))
    assert yardstick.shares(only(cohort), ballot, slots=16).sum() == 0
