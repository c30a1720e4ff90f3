"""What of a patient enters a step: whole patients in passes, at most K images, and views that count as one patient."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from client.cache import Cache
from client.views import Pass, images_at_once, passes, shifted
from common.errors import PlanError
from common.plan import TrainingPlan
from tests.client.cohorts import small_cohort


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gather(cache: Cache, patients: list[int], *, k: int = 4, views: int = 1, seed: int = 1) -> list[Pass]:
    training = TrainingPlan(images_per_patient=k, augmentations=views)
    generator = torch.Generator().manual_seed(seed)
    return list(passes(cache, patients, training=training, latent=3, generator=generator))


def test_passes_hold_every_patient_whole_and_in_order(tmp_path: Path) -> None:
    counts = [1 + i % 5 for i in range(70)]
    cache = small_cohort(tmp_path, patients=70, images=counts)
    patients = [*range(69, -1, -1), 3, 3]
    found = gather(cache, patients, k=5)
    assert len(found) > 2
    assert [c for part in found for c in part.counts] == [counts[i] for i in patients]
    assert all(sum(part.counts) == len(part.images) <= images_at_once(28) for part in found)
    images = torch.cat([part.images for part in found])
    labels = torch.cat([part.labels for part in found])
    assert torch.equal(images, torch.cat([cache.patient(i)[0] for i in patients]))
    assert torch.equal(labels, torch.cat([cache.patient(i)[1] for i in patients]))
    assert all(part.noise.shape == (len(part.images), 3) for part in found)


def test_nobody_drawn_is_no_pass(tmp_path: Path) -> None:
    assert gather(small_cohort(tmp_path), []) == []


def test_a_patient_of_more_images_than_a_pass_still_goes_whole(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=2, images=[20, 2], image_size=128)
    assert [part.counts for part in gather(cache, [0, 1], k=20)] == [(20,), (2,)]
    assert images_at_once(128) < 20


def test_the_draws_of_a_patient_do_not_depend_on_who_comes_after(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=6, images=3)
    for views in (1, 3):
        alone, among = gather(cache, [2], views=views)[0], gather(cache, [2, 4, 5], views=views)[0]
        assert torch.equal(alone.images, among.images[: 3 * views])
        assert torch.equal(alone.noise, among.noise[: 3 * views])


def test_views_are_the_image_itself_and_small_shifts_of_it(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=2, images=[1, 2], image_size=64)
    (part,) = gather(cache, [0, 1], views=8)
    assert part.counts == (8, 16)
    originals = torch.cat([cache.patient(0)[0], cache.patient(1)[0]])
    views = part.images.view(3, 8, 64, 64)
    assert torch.equal(views[:, :1], originals)
    assert part.labels.view(3, 8).unique(dim=1).shape == (3, 1)
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
    assert len(part.noise.unique(dim=0)) == 24  # every view has its own latent


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
