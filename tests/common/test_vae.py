"""The model is the plan's and nothing else's; it has no state that a patient could leak into."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.model.array_table import PREFIX as START
from common.model.array_table import shapes
from common.model.study_model import initial, model_of
from common.plan.study_plan import StudyPlan

CONVOLUTIONS, PERCEPTRONS = "channels = [8, 16]", "channels = []\nhidden = [40, 20]"


def posterior(model: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the latents of images."""
    found: tuple[Tensor, Tensor] = model._posterior(images, model.one_hot(labels), model._components(images, labels))
    return found


def plan(
    size: int = 32, phases: str = '["moments", "sgd"]', nets: str = CONVOLUTIONS, covariance: str = "shared"
) -> StudyPlan:
    return StudyPlan.parse(
        f'name = "a"\n[data]\nimage_size = {size}\nlabels = ["normal", "lesion"]\n'
        f'[model]\nlatent = 6\n{nets}\ncovariance = "{covariance}"\n[privacy]\nphases = {phases}'
    )


@pytest.mark.parametrize("covariance", ["shared", "class"])
@pytest.mark.parametrize("nets", [CONVOLUTIONS, PERCEPTRONS])
@pytest.mark.parametrize("size", [28, 32, 64, 128])
def test_images_of_every_size_come_back_in_their_shape(size: int, nets: str, covariance: str) -> None:
    model = initial(plan(size, nets=nets, covariance=covariance))
    images, labels = torch.rand(3, 1, size, size) * 2 - 1, torch.tensor([0, 1, 1])
    assert model.reconstruct(images, labels).shape == images.shape
    assert model.loss(images, labels, torch.randn(3, 6)).shape == (3,)


def test_perceptrons_are_of_the_widths_that_the_plan_names() -> None:
    found = {name: shape for name, shape in shapes(plan(nets=PERCEPTRONS)).items() if name.endswith("weight")}
    found = {name: shape for name, shape in found.items() if not name.startswith(START)}
    assert list(found.values()) == [(40, 1024), (20, 40), (40, 20), (1024, 40), (6, 22), (6, 22), (20, 8)]


@pytest.mark.parametrize("nets", [CONVOLUTIONS, PERCEPTRONS])
def test_model_has_no_buffers_and_no_batch_statistics(nets: str) -> None:
    model = initial(plan(nets=nets))
    assert not list(model.buffers())
    assert not any("BatchNorm" in type(module).__name__ for module in model.modules())


def test_one_image_is_not_changed_by_its_neighbours() -> None:
    model = initial(plan(phases='["sgd"]')).train()
    images, labels = torch.rand(4, 1, 32, 32), torch.tensor([0, 1, 0, 1])
    together = posterior(model, images, labels)[0]
    alone = posterior(model, images[:1], labels[:1])[0]
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)


def test_initial_weights_depend_on_the_plan_alone_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, second = initial(plan()).arrays(), initial(plan()).arrays()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert {name: array.shape for name, array in first.items()} == shapes(plan())


def test_initial_weights_are_the_same_whatever_another_thread_builds_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two hospitals of a simulation are threads of one process, and PyTorch has one generator for both."""
    alone = initial(plan()).arrays()
    building, built = threading.Event(), threading.Event()
    draw = torch.nn.Linear.reset_parameters

    def slowly(layer: torch.nn.Linear) -> None:
        draw(layer)
        if threading.current_thread() is threading.main_thread() and not building.is_set():
            building.set()
            built.wait(timeout=1.0)  # as long as the other thread has its turn, if it takes one

    def beside() -> None:
        building.wait()
        model_of(plan())
        built.set()

    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", slowly)
    other = threading.Thread(target=beside)
    other.start()
    together = initial(plan()).arrays()
    other.join()
    assert building.is_set()
    assert all(np.array_equal(alone[name], together[name]) for name in alone)


@pytest.mark.parametrize("nets", [CONVOLUTIONS, PERCEPTRONS])
def test_residual_nets_start_at_the_linear_model(nets: str) -> None:
    model = initial(plan(nets=nets))
    start = model.start
    start.mean.data.normal_()
    start.basis.data = torch.linalg.qr(torch.randn(32 * 32, 6))[0]
    start.factor.data = torch.eye(6).repeat(2, 1, 1) * torch.tensor([1.0, 2.0])[:, None, None]
    start.centre.data.normal_()
    latent, labels = torch.randn(2, 6), torch.tensor([0, 1])
    by_hand = torch.stack(
        [
            start.mean + start.basis @ (start.centre[c] + start.factor[c] @ u)
            for u, c in zip(latent, labels, strict=True)
        ]
    )
    torch.testing.assert_close(model.decode_latents(latent, labels).flatten(1), by_hand, rtol=1e-4, atol=1e-4)


def test_with_a_covariance_of_each_class_the_linear_model_is_that_of_the_label() -> None:
    model = initial(plan(covariance="class"))
    start = model.start
    start.mean.data.normal_()
    start.basis.data = torch.linalg.qr(torch.randn(32 * 32, 12))[0]
    start.factor.data = torch.diag_embed(torch.rand(2, 6) + 0.5)
    latent, labels = torch.randn(4, 6), torch.tensor([0, 1, 1, 0])
    by_hand = torch.stack(
        [
            start.mean[c] + start.basis[:, 6 * c : 6 * c + 6] @ start.factor[c] @ u
            for u, c in zip(latent, labels.tolist(), strict=True)
        ]
    )
    drawn = model.decode_latents(latent, labels)
    torch.testing.assert_close(drawn.flatten(1), by_hand, rtol=1e-4, atol=1e-4)
    start.gain.data = torch.linalg.inv(start.factor)  # of pixels without noise
    torch.testing.assert_close(posterior(model, drawn, labels)[0], latent, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("covariance", ["shared", "class"])
def test_gradients_leave_the_linear_start_alone(covariance: str) -> None:
    model = initial(plan(covariance=covariance))
    model.loss(torch.rand(2, 1, 32, 32), torch.tensor([0, 1]), torch.randn(2, 6)).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(START)


def test_label_changes_the_image() -> None:
    model = initial(plan(phases='["sgd"]'))
    latent = torch.randn(1, 6)
    normal, lesion = (model.decode_latents(latent, torch.tensor([c])) for c in (0, 1))
    assert not torch.allclose(normal, lesion)
