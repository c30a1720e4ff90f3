"""One DP-SGD step is the mechanism that the ledger books: clipped by patient, noised, divided by a constant."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from client.cohort.cache import Cache
from client.mechanism.randomness import SecureRandom
from client.mechanism.trainer import PatientTrainer, refuse_unsafe
from common.accountant.accounting import GaussianEvent
from common.errors import PlanRefused
from common.model.study_model import initial
from common.model.vae import Vae
from common.plan.study_plan import StudyPlan
from tests.client.cohorts import small_cohort, small_plan

pytestmark = pytest.mark.usefixtures("one_thread")

SIGMA = 0.7


def trainer(
    cache: Cache,
    plan: StudyPlan | None = None,
    *,
    seed: int | None = 1,
    rate: float = 0.5,
    steps: int = 2,
    sigma: float = SIGMA,
    divisor: int = 8,
) -> PatientTrainer:
    plan = plan or small_plan()
    return PatientTrainer(
        initial(plan),
        cache,
        plan=plan,
        event=GaussianEvent(sigma=sigma, sample_rate=rate, steps=steps),
        random=SecureRandom.from_os() if seed is None else SecureRandom.simulated(seed),
        divisor_patients=divisor,
        device=torch.device("cpu"),
    )


def clipped_sum(of: PatientTrainer, patients: list[int]) -> Tensor:
    of.accumulate(patients)
    return torch.cat([p.summed_grad.double().flatten() for p in trainable(of.model)])


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def weights(of: PatientTrainer) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in trainable(of.model)])


def gradient(model: Vae, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """The gradient of the mean loss over one patient's images, by plain autograd."""
    total = model.loss(x, y, noise).mean()
    return torch.cat([g.flatten().double() for g in torch.autograd.grad(total, trainable(model))])


def by_hand(of: PatientTrainer, patients: list[int], *, seed: int, k: int, clip: float) -> Tensor:
    """The clipped sum by a loop over patients, with the trainer's own draws; none may have more than K images."""
    generator = SecureRandom.simulated(seed).torch_generator()
    total = torch.zeros(len(weights(of)), dtype=torch.float64)
    for first in range(0, len(patients), of.slots):
        noise = torch.randn((of.slots, k, 1, of.model.latent_size), generator=generator)
        for place, i in enumerate(patients[first : first + of.slots]):
            x, y = of.cache.patient(i)
            g = gradient(of.model, x, y, noise[place, : len(x), 0])
            total += g * min(1.0, clip / float(g.norm()))
    return total


@pytest.mark.parametrize("clip", [0.01, 5.0, 1e3])
@pytest.mark.parametrize("k", [1, 3])
def test_clipped_sum_equals_a_naive_loop_over_patients(tmp_path: Path, clip: float, k: int) -> None:
    cache = small_cohort(tmp_path, patients=20, images=[1 + i % k for i in range(20)])
    of = trainer(cache, small_plan(clip_norm=clip, images_per_patient=k), seed=5)
    ours = clipped_sum(of, list(range(20)))
    assert all(p.summed_grad.dtype == torch.float64 for p in trainable(of.model))
    naive = by_hand(of, list(range(20)), seed=5, k=k, clip=clip)
    assert float((ours - naive).norm() / naive.norm()) < 1e-5
    assert (clip < 1e3) or float(naive.norm()) < 20 * 500  # at the largest clip norm, nothing is clipped


def test_removing_one_patient_moves_the_clipped_sum_by_at_most_the_clip_norm(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=6, images=[1, 2, 3, 4, 1, 2])
    plan = small_plan(clip_norm=0.5, images_per_patient=4)
    whole = clipped_sum(trainer(cache, plan), [0, 1, 2, 3, 4, 5])
    without_last = clipped_sum(trainer(cache, plan), [0, 1, 2, 3, 4])
    alone = [clipped_sum(trainer(cache, plan), [i]).norm() for i in range(6)]
    assert 0.99 * 0.5 < float((whole - without_last).norm()) <= 0.5 * (1 + 1e-5)
    assert max(alone) <= 0.5 * (1 + 1e-6)


def test_a_patient_of_many_images_weighs_as_one_of_few(tmp_path: Path) -> None:
    """The mean over four copies of an image is that image; three empty places beside one image are nothing."""
    sums = []
    for copies in (1, 4):
        cache = small_cohort(tmp_path / str(copies), patients=1, images=copies, alike=True)
        of = trainer(cache, small_plan(clip_norm=1e3, images_per_patient=4))
        of.model.logvar.weight.data.zero_()
        of.model.logvar.bias.data.fill_(-20.0)  # the posterior is narrow, so the draw of each copy hardly matters
        sums.append(clipped_sum(of, [0]))
    assert float((sums[0] - sums[1]).norm() / sums[0].norm()) < 0.02


def test_views_are_averaged_inside_the_patient_before_the_clip(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=2, images=[1, 2])
    clipped = [
        float(clipped_sum(trainer(cache, small_plan(clip_norm=0.5, augmentations=views)), [i]).norm())
        for views in (1, 5)
        for i in (0, 1)
    ]
    assert max(clipped) <= 0.5
    assert min(clipped) > 0.499
    free = [clipped_sum(trainer(cache, small_plan(clip_norm=1e3, augmentations=views)), [1]) for views in (1, 4)]
    assert 0.5 < float(free[1].norm() / free[0].norm()) < 2.0  # a mean over views, not a sum
    of = trainer(cache, small_plan(augmentations=3))
    of.run()
    assert weights(of).isfinite().all()


def test_images_of_a_patient_are_drawn_at_random_and_at_most_k(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, patients=1, images=5)
    of = trainer(cache, small_plan(clip_norm=1e3, images_per_patient=2))
    seen = []
    original = cache.patients_images

    def watched(indices: list[int] | Tensor, k: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        x, y, w = original(indices, k, generator)
        seen.append(tuple(sorted(float(image.sum()) for image in x[w > 0])))
        return x, y, w

    cache.patients_images = watched  # type: ignore[method-assign,assignment]
    for _ in range(12):
        clipped_sum(of, [0])
    assert {len(images) for images in seen} == {2}
    assert len({image for images in seen for image in images}) == 5
    assert len(set(seen)) > 1


def spoil(cache: Cache, patient: int, value: float) -> None:
    """Make one patient's images not finite, as a decoder's error would; the stored form could not hold it."""
    original = cache.patients_images

    def spoilt(
        indices: list[int] | Tensor, k: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, y, w = original(indices, k, generator)
        for place, i in enumerate(indices):
            if int(i) == patient:
                x[place, 0, 0, 3, 3] = value
        return x, y, w

    cache.patients_images = spoilt  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_broken_image_of_one_patient_does_not_void_the_others_step(tmp_path: Path, value: float) -> None:
    cache = small_cohort(tmp_path, patients=3, images=2)
    plan = small_plan()
    sound = clipped_sum(trainer(cache, plan, seed=3), [0, 1, 2])
    first = clipped_sum(trainer(cache, plan, seed=3), [0])
    spoil(cache, 1, value)
    spoilt = clipped_sum(trainer(cache, plan, seed=3), [0, 1, 2])
    assert spoilt.isfinite().all()
    assert float((spoilt - sound).norm()) <= 1.0 + 1e-5  # patient 1 contributes nothing in place of at most C
    of = trainer(cache, plan, seed=3)
    assert not clipped_sum(of, [1]).any()
    torch.testing.assert_close(clipped_sum(trainer(cache, plan, seed=3), [0]), first)
    of.run()
    assert weights(of).isfinite().all()


def test_an_empty_draw_still_adds_noise_and_moves_the_weights(tmp_path: Path) -> None:
    of = trainer(small_cohort(tmp_path), rate=1e-9, steps=1)
    before = weights(of)
    of.run()
    assert (weights(of) != before).float().mean() > 0.99


def test_every_step_counts_even_when_nobody_is_drawn(tmp_path: Path) -> None:
    of = trainer(small_cohort(tmp_path), rate=1e-9, steps=5)
    states = [weights(of)]
    optimizer = of.optimizer.original_optimizer
    optimizer.register_step_post_hook(lambda *_: states.append(weights(of)))
    of.run()
    assert len(states) == 6
    assert len({float(state.sum()) for state in states}) == 6


def released(
    tmp_path: Path, *, rate: float = 1e-9, divisor: int = 8, sigma: float = SIGMA, clip: float = 1.0, seed: int = 1
) -> Tensor:
    """What one step hands to the optimizer: plain descent at rate 1 from known weights shows it."""
    cache = small_cohort(tmp_path)
    of = trainer(
        cache,
        small_plan(optimizer="sgd", learning_rate=1.0, clip_norm=clip),
        rate=rate,
        steps=1,
        divisor=divisor,
        sigma=sigma,
        seed=seed,
    )
    before = weights(of)
    of.run()
    return before - weights(of)


@pytest.mark.parametrize(("sigma", "clip"), [(0.7, 1.0), (3.0, 0.25)])
def test_noise_has_the_deviation_that_was_booked(tmp_path: Path, sigma: float, clip: float) -> None:
    noise = released(tmp_path, rate=0.001, divisor=8000, sigma=sigma, clip=clip).numpy() * 0.001 * 8000
    assert abs(noise.std() / (sigma * clip) - 1) < 0.02
    assert abs(noise.mean()) < 4 * sigma * clip / len(noise) ** 0.5
    assert scipy.stats.kstest(noise / (sigma * clip), "norm").pvalue > 1e-3


def test_noise_falls_on_every_coordinate_on_its_own(tmp_path: Path) -> None:
    noise = released(tmp_path, rate=0.001, divisor=8000).numpy()
    assert len(np.unique(noise)) > 0.99 * len(noise)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.03
    half = len(noise) // 2
    assert abs(np.corrcoef(noise[:half], noise[half : 2 * half])[0, 1]) < 0.05


def test_a_sum_is_noised_once(tmp_path: Path) -> None:
    """The mean of two noised copies of one sum would hold less noise than was booked."""
    of = trainer(small_cohort(tmp_path))
    of.accumulate([0, 1])
    of.optimizer.add_noise()
    with pytest.raises(RuntimeError, match="noised before"):
        of.optimizer.add_noise()


def test_the_divisor_is_the_public_constant_and_not_the_sample(tmp_path: Path) -> None:
    """The whole cohort takes part in both; only the declared size differs."""
    small = released(tmp_path / "a", rate=1.0, divisor=8, sigma=0.0)
    large = released(tmp_path / "b", rate=1.0, divisor=80, sigma=0.0)
    torch.testing.assert_close(small, 10 * large, rtol=1e-3, atol=1e-6)
    nobody = released(tmp_path / "c", rate=1e-9, divisor=8, sigma=0.0)
    assert not nobody.any()


def final(cache: Cache, **values: int | None) -> Tensor:
    of = trainer(cache, steps=3, **values)  # type: ignore[arg-type]
    of.run()
    return weights(of)


def test_two_rounds_of_the_same_simulated_seed_are_bit_identical(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path, images=[1, 2, 3, 1, 2, 3, 1, 2])
    assert torch.equal(final(cache, seed=11), final(cache, seed=11))
    assert not torch.equal(final(cache, seed=11), final(cache, seed=12))


def test_a_second_thread_does_not_change_what_is_drawn(tmp_path: Path) -> None:
    """With one thread the noise is drawn beside the gradients, with two after them."""
    cache = small_cohort(tmp_path)
    plain = final(cache, seed=11)
    torch.set_num_threads(2)
    torch.testing.assert_close(final(cache, seed=11), plain, rtol=1e-3, atol=1e-5)


def test_two_rounds_at_a_hospital_never_repeat_whatever_seed_the_process_was_given(tmp_path: Path) -> None:
    cache = small_cohort(tmp_path)
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        results.append(final(cache, seed=None))
    assert not torch.equal(*results)


def test_the_closed_form_start_is_left_alone(tmp_path: Path) -> None:
    of = trainer(small_cohort(tmp_path), rate=1.0)
    before = {name: p.clone() for name, p in of.model.named_parameters() if not p.requires_grad}
    of.run()
    assert before
    for name, parameter in of.model.named_parameters():
        assert parameter.requires_grad != (name in before)
        assert name not in before or torch.equal(parameter, before[name])


class _Buffered(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("seen", torch.zeros(1))


class _Subclassed(nn.Linear):
    """Has a known layer's name and parameters, and may do anything with them."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input - input.mean(0))


@pytest.mark.parametrize(
    "layer",
    [
        _Buffered,
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm1d(4, track_running_stats=False),
        lambda: nn.Dropout(0.1),
    ],
)
def test_a_model_that_mixes_patients_or_keeps_state_is_refused(layer: Callable[[], nn.Module]) -> None:
    with pytest.raises(PlanRefused):
        refuse_unsafe(nn.Sequential(nn.Linear(2, 2), layer()))


class _Shift(nn.Module):
    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2), requires_grad=trained)


def test_a_generators_own_layer_is_known_unless_it_is_pytorchs_or_gradients_train_it() -> None:
    refuse_unsafe(nn.Sequential(nn.Linear(2, 2), _Shift(trained=False)), own=(_Shift,))
    for layer in (_Shift(trained=True), nn.BatchNorm1d(2, affine=False, track_running_stats=False), nn.Dropout(0.1)):
        with pytest.raises(PlanRefused, match="not known to keep patients apart"):
            refuse_unsafe(nn.Sequential(nn.Linear(2, 2), layer), own=(type(layer),))


def test_the_trainer_refuses_such_a_model_before_any_patient_is_read(tmp_path: Path) -> None:
    plan = small_plan()
    model = initial(plan)
    model.intermediate = nn.BatchNorm2d(8)
    with pytest.raises(PlanRefused, match=r"intermediate|buffer"):
        PatientTrainer(
            model,
            small_cohort(tmp_path),
            plan=plan,
            event=GaussianEvent(sigma=1.0, sample_rate=0.5, steps=1),
            random=SecureRandom.from_os(),
            divisor_patients=8,
            device=torch.device("cpu"),
        )
