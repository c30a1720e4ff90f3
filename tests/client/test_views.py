"""What of a patient enters a step: whole patients in passes, at most K images, and views that count as one patient."""

from pathlib import Path

import pytest
import torch

from client.cohort.cache import Cache
from client.mechanism.patient_views import Pass, images_at_once, passes, shifted, slots_of
from common.errors import PlanError
from common.plan.study_plan import TrainingPlan
from tests.client.cohorts import small_cohort

pytestmark = pytest.mark.usefixtures("one_thread")


def gather(
    cache: Cache, patients: list[int], *, k: int = 4, views: int = 1, seed: int = 1, slots: int = 4
) -> list[Pass]:
    training = TrainingPlan(images_per_patient=k, augmentations=views)
    generator = torch.Generator().manual_seed(seed)
    return list(passes(cache, patients, training=training, draws=3, generator=generator, slots=slots))


def test_passes_hold_every_patient_in_order_and_all_have_one_shape(tmp_path: Path) -> None:
    counts = [1 + i % 5 for i in range(30)]
    cache = small_cohort(tmp_path, patients=30, images=counts)
    patients = [*range(29, -1, -1), 3, 3]
    found = gather(cache, patients, k=5, slots=5)
    assert len(found) == 7
    for part in found:
        assert (part.images.shape, part.labels.shape, part.noise.shape) == ((25, 1, 28, 28), (25,), (25, 3))
        assert part.slots == 5
    there = torch.cat([part.shares for part in found]) > 0
    images, labels = (torch.cat(parts) for parts in zip(*((part.images, part.labels) for part in found), strict=True))
    assert torch.equal(images[there], torch.cat([cache.patient(i)[0] for i in patients]))
    assert torch.equal(labels[there], torch.cat([cache.patient(i)[1] for i in patients]))
    assert not images[~there].any()
    assert not labels[~there].any()
    shares = torch.cat([part.shares for part in found]).view(-1, 5)
    torch.testing.assert_close(shares.sum(1), torch.tensor([1.0] * 32 + [0.0] * 3))
    assert [int((row > 0).sum()) for row in shares[:32]] == [counts[i] for i in patients]


def test_nobody_drawn_is_no_pass(tmp_path: Path) -> None:
    assert gather(small_cohort(tmp_path), []) == []


@pytest.mark.parametrize(
    ("expected", "size", "slots"), [(1200.0, 28, 64), (20.0, 28, 29), (70.0, 28, 44), (0.01, 28, 1)]
)
def test_a_pass_has_room_for_a_usual_sample_and_little_padding(expected: float, size: int, slots: int) -> None:
    assert slots_of(TrainingPlan(images_per_patient=1), size=size, expected=expected) == slots


def test_a_patient_of_more_images_than_a_pass_still_goes_whole() -> None:
    assert images_at_once(128) < 20
    assert slots_of(TrainingPlan(images_per_patient=20), size=128, expected=100.0) == 1


def test_the_draws_of_a_patient_do_not_depend_on_who_comes_after(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=6, images=3)
    for views in (1, 3):
        (alone,), (among,) = gather(cache, [2], views=views), gather(cache, [2, 4, 5], views=views)
        assert torch.equal(alone.images[: 4 * views], among.images[: 4 * views])
        assert torch.equal(alone.noise, among.noise)


def test_views_are_the_image_itself_and_small_shifts_of_it(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=2, images=[1, 2], image_size=64)
    (part,) = gather(cache, [0, 1], k=2, views=8, slots=2)
    shares = part.shares.view(2, 2, 8)
    assert shares[0, 0].tolist() == [1 / 8] * 8
    assert not shares[0, 1].any()
    assert shares[1].flatten().tolist() == [1 / 16] * 16
    there = shares.view(4, 8)[:, 0] > 0
    originals = torch.cat([cache.patient(0)[0], cache.patient(1)[0]])
    views = part.images.view(4, 8, 64, 64)[there]
    assert torch.equal(views[:, :1], originals)
    assert part.labels.view(4, 8)[there].unique(dim=1).shape == (3, 1)
    for original, of_it in zip(originals[:, 0], views, strict=True):
        moves = set()
        for view in of_it:
            match = [
                (down, right)
                for down in range(-4, 5)
                for right in range(-4, 5)
                if torch.equal(view[4:-4, 4:-4], torch.roll(original, (down, right), (0, 1))[4:-4, 4:-4])
            ]
            moves.update(match)
            assert match
        assert len(moves) > 3
    assert len(part.noise.unique(dim=0)) == 32  # every view has its own latent


def test_shifts_repeat_the_edge() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    down = shifted(image, torch.tensor([[1, 0]]))[0, 0]
    assert down.tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    right = shifted(image, torch.tensor([[0, 1]]))[0, 0]
    assert right.tolist() == [[0, 0, 1], [3, 3, 4], [6, 6, 7]]
    both = shifted(torch.cat([image, image]), torch.tensor([[-1, -2], [0, 0]]))
    assert both[0, 0].tolist() == [[5, 5, 5], [8, 8, 8], [8, 8, 8]]
    assert torch.equal(both[1:], image)


@pytest.mark.parametrize(("k", "views"), [(2, 0), (2, 33), (64, 2), (1, 65)])
def test_more_views_than_a_patient_may_bring_are_refused(k: int, views: int) -> None:
    with pytest.raises(PlanError, match="augmentations"):
        TrainingPlan(images_per_patient=k, augmentations=views)
