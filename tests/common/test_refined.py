"""A generator with a denoiser starts as its closed form, treats every image alone, and draws the same for a seed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import PlanError
from common.model.denoiser import LEAST_LEVEL, MOST_LEVEL, drawing_levels, levels
from common.model.folding import folding
from common.model.linear_start import ClassStart
from common.model.refined import RefinedVae
from common.model.study_model import initial
from common.model.synthesis import Decoder
from common.plan.study_plan import StudyPlan

TEXT = """
name = "refined"
[data]
image_size = {size}
labels = ["no", "yes"]
[model]
covariance = "class"
latent = 3
base = 6
channels = []
denoiser = [4, 8]
"""


def refined_plan(*, size: int = 28) -> StudyPlan:
    """A plan whose gradient rounds train a denoiser."""
    return StudyPlan.parse(TEXT.format(size=size))


def refined_model(*, size: int = 28, spoken: bool = False) -> RefinedVae:
    """A model with a start of its own for each class; `spoken` gives the denoiser something to say."""
    model = initial(refined_plan(size=size))
    assert isinstance(model, RefinedVae)
    generator = torch.Generator().manual_seed(1)
    start, pixels = model.start, size**2
    for index in range(2):
        basis, _ = torch.linalg.qr(torch.randn((pixels, 3), generator=generator))
        start.basis.data[:, 3 * index : 3 * index + 3] = basis
    start.mean.data.copy_(torch.randn((2, pixels), generator=generator) * 0.1)
    start.factor.data.copy_(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
    start.texture.data.copy_(torch.rand((2, pixels), generator=generator) * 0.2)
    if spoken:
        for parameter in model.refiner.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def pictures(count: int, size: int = 28) -> Tensor:
    return torch.rand((count, size, size), generator=torch.Generator().manual_seed(3)) * 2 - 1


def exact_posterior(start: ClassStart, noisy: Tensor, index: int, level: float) -> tuple[Tensor, float]:
    """The Gaussian posterior by dense linear algebra: its mean, and the root mean square error per pixel."""
    size = noisy.shape[-1]
    axis = torch.from_numpy(_cosine_axis(size))
    cosines = torch.kron(axis, axis)  # rows are frequencies
    basis = start.basis[:, 3 * index : 3 * index + 3].double()
    covariance = basis @ torch.diag(start.factor[index].diagonal().double().square()) @ basis.T
    covariance += cosines.T @ torch.diag(start.texture[index].double().square()) @ cosines
    gain = covariance @ torch.linalg.inv(covariance + level**2 * torch.eye(size**2).double())
    mean = start.mean[index].double()
    found = mean + gain @ (noisy.flatten().double() - mean)
    left = covariance - gain @ covariance
    return found.view(size, size), float((left.diagonal().sum() / size**2).sqrt())


def _cosine_axis(size: int) -> np.ndarray:
    rows, places = np.mgrid[0:size, 0:size]
    axis = np.sqrt(2 / size) * np.cos(np.pi * (places + 0.5) * rows / size)
    axis[0] /= np.sqrt(2)
    return axis


@pytest.mark.parametrize("part", ["factor", "texture"])
def test_the_posterior_is_that_of_the_gaussian_that_the_closed_form_means(part: str) -> None:
    """Exact where the image varies along the directions alone, or in its texture alone."""
    start = refined_model().start
    other = "texture" if part == "factor" else "factor"
    getattr(start, other).data.zero_()
    if part == "texture":
        start.basis.data.zero_()
    noisy, level = pictures(2), torch.tensor([0.1, 0.6])
    chosen = torch.eye(2)
    found, error = start.posterior(noisy, chosen, level)
    for index in range(2):
        mean, expected = exact_posterior(start, noisy[index], index, float(level[index]))
        torch.testing.assert_close(found[index].double(), mean, rtol=0, atol=1e-4)
        assert float(error[index]) == pytest.approx(expected, rel=1e-3)


def test_a_fresh_denoiser_adds_nothing_to_the_closed_form() -> None:
    model = refined_model()
    noisy, level = pictures(4), torch.full((4,), 0.3)
    chosen = model.one_hot(torch.tensor([0, 1, 0, 1]))
    assert torch.equal(model.denoise(noisy, chosen, level), model.start.posterior(noisy, chosen, level)[0])


def test_silence_takes_back_what_the_denoiser_had_learnt() -> None:
    model = refined_model(spoken=True)
    noisy, level, chosen = pictures(2), torch.full((2,), 0.3), torch.eye(2)
    assert not torch.equal(model.denoise(noisy, chosen, level), model.start.posterior(noisy, chosen, level)[0])
    model.silence()
    assert torch.equal(model.denoise(noisy, chosen, level), model.start.posterior(noisy, chosen, level)[0])


def test_no_image_changes_the_loss_of_another() -> None:
    model = refined_model(spoken=True)
    images, labels = pictures(3)[:, None], torch.tensor([0, 1, 1])
    noise = torch.randn((3, model.noise_size), generator=torch.Generator().manual_seed(4))
    before = model.loss(images, labels, noise)
    images[2] = float("nan")
    after = model.loss(images, labels, noise)
    torch.testing.assert_close(after[:2], before[:2], rtol=1e-5, atol=1e-6)
    assert torch.isnan(after[2])


def test_levels_of_noise_lie_between_the_public_limits_and_are_even_in_the_logarithm() -> None:
    drawn = levels(torch.randn(20_000, generator=torch.Generator().manual_seed(5)))
    assert float(drawn.min()) >= LEAST_LEVEL
    assert float(drawn.max()) <= MOST_LEVEL
    share = (drawn / LEAST_LEVEL).log() / np.log(MOST_LEVEL / LEAST_LEVEL)
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.std()) == pytest.approx(12**-0.5, abs=0.01)
    steps = drawing_levels()
    assert steps == sorted(steps, reverse=True)
    assert LEAST_LEVEL <= steps[-1] < steps[0] <= MOST_LEVEL


def test_a_trained_denoiser_takes_off_noise_that_the_closed_form_leaves() -> None:
    """What it is for: images that no Gaussian describes (a bright disc somewhere) come out nearer."""
    torch.manual_seed(0)
    model = refined_model()
    model.start.factor.data.zero_()
    model.start.texture.data.fill_(0.4)
    model.start.mean.data.zero_()
    axis = torch.linspace(-1, 1, 28)
    places = torch.rand((256, 2)) - 0.5
    rows, columns = (axis[None, :] - places[:, :1])[:, :, None], (axis[None, :] - places[:, 1:])[:, None, :]
    discs = ((rows.square() + columns.square()) < 0.1).float() * 2 - 1
    labels = torch.zeros(256, dtype=torch.int64)
    optimizer = torch.optim.Adam(model.refiner.parameters(), lr=3e-3)
    noise = torch.randn((256, model.noise_size))
    held = slice(192, 256)
    before = float(model.loss(discs[held, None], labels[held], noise[held]).mean().detach())
    for _ in range(60):
        chosen = torch.randint(192, (32,))
        optimizer.zero_grad()
        model.loss(discs[chosen, None], labels[chosen], torch.randn((32, model.noise_size))).mean().backward()
        optimizer.step()
    assert float(model.loss(discs[held, None], labels[held], noise[held]).mean().detach()) < 0.7 * before


def test_a_seed_draws_the_same_images_and_a_longer_draw_begins_with_the_shorter(tmp_path: Path) -> None:
    plan, model = refined_plan(), refined_model(spoken=True)
    decoder = Decoder.of(plan, model.arrays())
    decoder.save(tmp_path / "decoder.safetensors")
    again = Decoder.load(tmp_path / "decoder.safetensors")
    assert again.digest == decoder.digest
    long, short = list(decoder.draw("yes", 70, seed=1)), list(again.draw("yes", 3, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))
    assert not torch.equal(long[0], long[1])
    assert all(float(image.abs().max()) <= 1 for image in long)
    assert not torch.equal(long[0], next(iter(decoder.draw("yes", 1, seed=2))))


def test_a_drawing_uses_the_denoiser() -> None:
    plan, model = refined_plan(), refined_model(spoken=True)
    spoken = next(iter(Decoder.of(plan, model.arrays()).draw("no", 1, seed=1)))
    model.silence()
    assert not torch.equal(spoken, next(iter(Decoder.of(plan, model.arrays()).draw("no", 1, seed=1))))


@pytest.mark.parametrize(("size", "cell"), [(28, 2), (32, 2), (64, 4), (128, 8), (16, 1)])
def test_pixels_fold_into_a_grid_of_sixteen_cells_at_most(size: int, cell: int) -> None:
    assert folding(size) == cell


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"covariance": "shared"}, "model.covariance"),
        ({"channels": (8, 8)}, "model.channels"),
        ({"denoiser": (4, 8, 8)}, "model.denoiser"),
        ({"denoiser": (0, 8)}, "model.denoiser"),
    ],
)
def test_a_plan_that_a_denoiser_cannot_serve_is_refused_by_its_key(change: dict[str, object], key: str) -> None:
    plan = refined_plan()
    with pytest.raises(PlanError, match=key.replace(".", r"\.")):
        dataclasses.replace(plan, model=dataclasses.replace(plan.model, **change))  # type: ignore[arg-type]


def test_a_plan_with_a_denoiser_has_a_texture_already() -> None:
    plan = refined_plan()
    with pytest.raises(PlanError, match=r"release\.texture"):
        dataclasses.replace(plan, release=dataclasses.replace(plan.release, texture=0.5))
