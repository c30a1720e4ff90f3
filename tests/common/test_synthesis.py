"""Images drawn from a decoder have the model's own mean and spread, and the texture the latents leave out."""

import dataclasses

import numpy as np
import torch

from common.mechanism.moments import cosine_basis, cosine_images
from common.model.study_model import initial
from common.model.synthesis import Decoder
from common.plan.study_plan import StudyPlan

PLAN = StudyPlan.parse('name = "drawn"\n[data]\nimage_size = 28\n[model]\nlatent = 2\nchannels = [4, 8]\nbase = 4\n')


def decoder(*, texture: float) -> Decoder:
    arrays = initial(PLAN).arrays()
    arrays["start.texture"] = np.linspace(0.2, 0.0, 16).astype(np.float32)
    plan = dataclasses.replace(PLAN, release=dataclasses.replace(PLAN.release, texture=texture))
    return Decoder.of(plan, arrays)


def test_cosine_images_are_the_basis_times_the_coefficients() -> None:
    coefficients = np.random.default_rng(1).normal(size=(3, 25))
    expected = coefficients @ cosine_basis(32, 5).T
    np.testing.assert_allclose(cosine_images(coefficients, size=32).reshape(3, -1), expected, atol=1e-12)


def test_texture_has_the_spectrum_that_the_start_names() -> None:
    drawn = torch.stack(list(decoder(texture=1.0).draw("any", 2000, seed=1))).flatten(1).numpy()
    coefficients = drawn @ cosine_basis(28, 4)
    np.testing.assert_allclose(coefficients.std(axis=0), np.linspace(0.2, 0.0, 16), atol=0.02)


def test_each_class_has_a_texture_of_its_own_up_to_the_finest_frequency() -> None:
    plan = dataclasses.replace(
        PLAN,
        data=dataclasses.replace(PLAN.data, labels=("a", "b")),
        model=dataclasses.replace(PLAN.model, covariance="class"),
        release=dataclasses.replace(PLAN.release, texture=1.0),
    )
    arrays, random = initial(plan).arrays(), np.random.default_rng(3)
    arrays["start.texture"] = random.uniform(0, 0.2, (2, 28 * 28)).astype(np.float32)
    drawn = Decoder.of(plan, arrays)
    for index, label in enumerate(drawn.labels):
        images = torch.stack(list(drawn.draw(label, 2000, seed=1))).flatten(1).numpy()
        found = (images @ cosine_basis(28, 28)).std(axis=0)
        np.testing.assert_allclose(found, arrays["start.texture"][index], atol=0.02)


def test_texture_can_be_left_out_and_a_longer_draw_begins_with_the_shorter_one() -> None:
    plain = list(decoder(texture=0.0).draw("any", 3, seed=1))
    assert torch.equal(plain[0], plain[1])  # an untrained decoder knows one image
    long, short = (list(decoder(texture=1.0).draw("any", count, seed=1)) for count in (130, 70))
    assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False))
    assert not torch.equal(long[0], long[64])


def test_temperature_widens_the_draws_from_the_prior_and_nothing_else() -> None:
    arrays = initial(PLAN).arrays()
    random = np.random.default_rng(2)
    arrays["start.basis"] = np.linalg.qr(random.normal(size=(28 * 28, 2)))[0].astype(np.float32)
    arrays["start.factor"] = np.eye(2, dtype=np.float32)[None] * np.float32(0.5)
    arrays["start.centre"] = np.array([[0.4, -0.3]], np.float32)

    def coordinates(temperature: float) -> np.ndarray:
        plan = dataclasses.replace(
            PLAN, release=dataclasses.replace(PLAN.release, temperature=temperature, texture=0.0)
        )
        drawn = torch.stack(list(Decoder.of(plan, arrays).draw("any", 500, seed=1))).flatten(1).numpy()
        return drawn @ arrays["start.basis"] - arrays["start.centre"]

    as_it_is, wider = coordinates(1.0), coordinates(1.5)
    np.testing.assert_allclose(as_it_is.std(axis=0), 0.5, rtol=0.1)
    np.testing.assert_allclose(wider, 1.5 * as_it_is, atol=1e-4)
