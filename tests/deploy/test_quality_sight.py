"""The judges that see what a person sees tell edges from grain, and real images from nothing but themselves."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from common.images.phantoms import public_phantoms
from tests.benchmarks import quality_generator, quality_results, quality_sight


def phantoms(count: int, seed: int) -> Tensor:
    images, labels = public_phantoms(2 * count, size=32, labels=2, seed=seed)
    return images[labels == 0][:count, 0]


def grainy(images: Tensor) -> Tensor:
    """Images with the mean and the spectrum of these, and grain where these have edges."""
    mean = images.mean(dim=0)
    plane = torch.fft.fft2(images - mean).abs()
    chance = torch.fft.fft2(torch.randn(images.shape, generator=torch.Generator().manual_seed(0)))
    grain: Tensor = torch.fft.ifft2(plane.square().mean(0).sqrt() * chance / chance.abs()).real
    return mean + grain


def test_the_scattering_distance_tells_grain_of_the_same_spectrum_from_edges() -> None:
    real, others = phantoms(80, 1), phantoms(80, 2)
    alike = quality_sight.scattering_distance(real, others)
    assert quality_sight.scattering_distance(real, grainy(others)) > 4 * alike


def test_the_spectrum_says_by_how_much_an_octave_is_too_strong() -> None:
    real = phantoms(60, 1)
    white = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    octaves = quality_sight.spectrum(real, real + white)
    assert len(octaves) == math.log2(32)
    assert octaves[-1] > 10.0 > octaves[0]
    assert quality_sight.spectrum(real, real) == [0.0] * len(octaves)
    twice = quality_sight.spectrum(real, 2 * real)
    assert all(abs(value - 20 * math.log10(2)) < 1e-4 for value in twice)


def test_a_fixed_net_tells_grain_from_images_and_not_images_from_images() -> None:
    real, others = (functional.avg_pool2d(phantoms(60, seed), 4) for seed in (1, 2))
    assert quality_sight.told_apart(real, grainy(others), seed=0) > 0.9
    assert 0.2 < quality_sight.told_apart(real, others, seed=0) < 0.8


def test_the_page_shows_what_the_results_print() -> None:
    results = quality_results.lines(quality_generator.RESULTS)
    assert results
    assert quality_generator.table(results) in quality_generator.PAGE.read_text()
    assert all(quality_generator.holds(line) for line in results), "a line of a plan that its place no longer has"
