"""Noise is Gaussian, secret at a hospital, repeatable in simulation only."""

import numpy as np
import scipy.stats

from client.mechanism.randomness import SecureRandom


def test_two_streams_from_the_operating_system_never_agree() -> None:
    assert not np.array_equal(SecureRandom.from_os().uniform(100), SecureRandom.from_os().uniform(100))


def test_simulated_streams_repeat_by_seed_and_context() -> None:
    def draw(seed: int, *context: str | int) -> np.ndarray:
        return SecureRandom.simulated(seed, *context).normal((50,), std=1.0)

    assert np.array_equal(draw(1, "north", 2), draw(1, "north", 2))
    for other in (draw(2, "north", 2), draw(1, "hill", 2), draw(1, "north", 3)):
        assert not np.array_equal(draw(1, "north", 2), other)


def test_noise_is_gaussian_of_the_asked_deviation() -> None:
    noise = SecureRandom.simulated(3).normal((200, 500), std=2.5)
    assert noise.dtype == np.float64
    assert scipy.stats.kstest(noise.ravel() / 2.5, "norm").pvalue > 1e-3
    assert abs(noise.std() / 2.5 - 1) < 0.01
    halves = noise.ravel().reshape(2, -1)
    assert abs(np.corrcoef(halves)[0, 1]) < 0.02


def test_odd_and_empty_shapes_are_filled() -> None:
    random = SecureRandom.simulated(4)
    assert random.normal((7,), std=1.0).shape == (7,)
    assert random.normal((), std=1.0).shape == ()
    assert random.normal((0, 3), std=1.0).shape == (0, 3)


class Ones:
    """A cipher whose key stream is all ones: the largest integer there is."""

    def update(self, data: bytes) -> bytes:
        return b"\xff" * len(data)


def test_a_uniform_value_is_never_1_and_at_a_rate_of_1_everybody_is_drawn() -> None:
    random = SecureRandom.simulated(8)
    random._stream = Ones()  # type: ignore[assignment]
    assert (random.uniform(5) < 1).all()
    assert len(random.poisson_sample(50, rate=1.0)) == 50


def test_sampling_is_poisson_each_patient_on_its_own() -> None:
    random = SecureRandom.simulated(5)
    sizes = np.array([len(random.poisson_sample(400, rate=0.1)) for _ in range(500)])
    assert abs(sizes.mean() - 40) < 1.5
    assert abs(sizes.var() - 36) < 10
    assert len(SecureRandom.simulated(6).poisson_sample(50, rate=1.0)) == 50


def test_torch_generators_follow_the_stream() -> None:
    first, second = (SecureRandom.simulated(7).torch_generator().initial_seed() for _ in range(2))
    assert first == second
    assert SecureRandom.from_os().torch_generator().initial_seed() != first
