"""The traps of docs/sharp_edges.md on the installed Opacus, beside what our own code does with the same input.

A test that turns red here after an upgrade says that a trap was mended: then the page may forget it.
"""

import warnings

import pytest
import torch
from opacus import GradSampleModule, PrivacyEngine
from opacus.accountants import GaussianAccountant
from opacus.optimizers import DPOptimizer
from opacus.utils.adaptive_clipping.adaptive_clipping_utils import PrivacyEngineAdaptiveClipping
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from client.mechanism.gradients import Layout, book_keep, clipped_sum
from client.mechanism.gradients_layers import Owners
from common.accountant.accounting import GaussianEvent, epsilon

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(5)


def image_losses(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).square().flatten(1).sum(1)


def by_loop(model: nn.Module, images: Tensor) -> Tensor:
    """The gradient of each image, [images, parameters], by one backward pass each."""
    rows = []
    for image in images:
        found = torch.autograd.grad(image_losses(model, image.unsqueeze(0)).sum(), list(model.parameters()))
        rows.append(torch.cat([part.flatten() for part in found]))
    return torch.stack(rows)


def by_opacus(model: nn.Module, images: Tensor) -> Tensor:
    """The same by Opacus' hooks."""
    hooked = GradSampleModule(model, loss_reduction="sum")
    image_losses(hooked, images).sum().backward()
    rows = torch.cat([p.grad_sample.flatten(1) for p in hooked.parameters()], dim=1)
    hooked.remove_hooks()
    return rows


def by_us(model: nn.Module, images: Tensor) -> Tensor:
    """The same by book-keeping: what an image adds to a sum that clips nobody."""
    layout, rows = Layout(model), []
    for i in range(len(images)):
        total = torch.zeros(layout.size, dtype=torch.float64)
        image, owners = images[i : i + 1], Owners(patients=1, each=1)
        part = book_keep(layout, lambda image=image: image_losses(model, image), owners=owners, shares=torch.ones(1))
        rows.append(clipped_sum([part], clip_norm=1e9, total=total).float())
    return torch.stack(rows)


def off(rows: Tensor, right: Tensor) -> float:
    return float((rows - right).norm() / right.norm())


def channels_last(images: Tensor) -> Tensor:
    return images.to(memory_format=torch.channels_last)


def permuted(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


@pytest.mark.parametrize("layout", [channels_last, permuted])
def test_opacus_convolution_gradients_are_silently_wrong_on_other_memory_layouts_and_ours_are_right(layout) -> None:
    model, images = nn.Conv2d(3, 4, 3, padding=1), torch.randn(4, 3, 8, 8)
    right = by_loop(model, images)
    assert off(by_opacus(model, images), right) < 1e-5
    assert off(by_opacus(model, layout(images)), right) > 0.3
    assert off(by_us(model, layout(images)), right) < 1e-5


def test_opacus_leaves_the_padding_mode_out_of_convolution_gradients() -> None:
    model, images = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), torch.randn(4, 3, 8, 8)
    assert off(by_opacus(model, images), by_loop(model, images)) > 0.1


def test_opacus_clips_images_so_a_patient_of_many_moves_the_sum_by_several_clips() -> None:
    model, image = nn.Linear(6, 3), torch.randn(1, 6)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=1
    )
    hooked = GradSampleModule(model, loss_reduction="sum")
    (100 * image_losses(hooked, image.repeat(8, 1))).sum().backward()
    optimizer.clip_and_accumulate()
    opacus = torch.cat([p.summed_grad.flatten() for p in hooked.parameters()])
    hooked.remove_hooks()
    layout = Layout(model)
    part = book_keep(layout, lambda: 100 * image_losses(model, image.repeat(8, 1)),
                     owners=Owners(patients=1, each=8), shares=torch.full((8,), 1 / 8))  # fmt: skip
    ours = clipped_sum([part], clip_norm=1.0, total=torch.zeros(layout.size, dtype=torch.float64))
    assert float(opacus.norm()) == pytest.approx(8.0, rel=1e-3)
    assert 0.999 < float(ours.norm()) <= 1.0


def ghost(engine: PrivacyEngine, images: Tensor, labels: Tensor, **options: object) -> Tensor:
    """The clipped sum, without noise, that one step of a ghost-clipping engine leaves."""
    model = nn.Linear(images.shape[1], 2)
    loader = DataLoader(TensorDataset(images, labels), batch_size=len(images))
    model, _, criterion, _ = engine.make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), criterion=nn.CrossEntropyLoss(),
        data_loader=loader, noise_multiplier=0.0, max_grad_norm=1.0, poisson_sampling=False,
        grad_sample_mode="ghost", **options,
    )  # fmt: skip
    criterion(model(images), labels).backward()
    return torch.cat([p.grad.flatten() if p.grad is not None else p.summed_grad.flatten() for p in model.parameters()])


def test_opacus_adaptive_ghost_clipping_does_not_clip() -> None:
    images, labels = 1000 * torch.randn(8, 6), torch.randint(0, 2, (8,))
    plain = ghost(PrivacyEngine(accountant="rdp"), images, labels)
    adaptive = ghost(
        PrivacyEngineAdaptiveClipping(accountant="rdp"), images, labels,
        target_unclipped_quantile=0.5, min_clipbound=1.0, max_clipbound=1.0, clipbound_learning_rate=0.0,
        max_clipbound_learning_rate=0.0,
    )  # fmt: skip
    assert float(plain.norm()) <= 8.001
    assert float(adaptive.norm()) > 80


def private(images: Tensor, *, noise: float) -> tuple[nn.Module, DPOptimizer, DataLoader, PrivacyEngine]:
    engine, model = PrivacyEngine(accountant="rdp"), nn.Linear(images.shape[1], 2)
    loader = DataLoader(TensorDataset(images), batch_size=len(images))
    return (*engine.make_private(module=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
            data_loader=loader, noise_multiplier=noise, max_grad_norm=1.0, poisson_sampling=False), engine)  # fmt: skip


def test_opacus_memory_manager_that_is_left_early_skips_the_next_rounds_step() -> None:
    model, optimizer, loader, _ = private(torch.randn(8, 6), noise=1.0)
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=2, optimizer=optimizer) as parts:
        for number, (images,) in enumerate(parts):
            if number == 1:
                break  # the round's local steps are done
            optimizer.zero_grad()
            image_losses(model, images).sum().backward()
            optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    image_losses(model, torch.randn(8, 6)).sum().backward()
    optimizer.step()  # the first step of the next round: neither taken nor noised
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_new_opacus_engine_for_each_round_forgets_the_rounds_before() -> None:
    spent = []
    for _ in range(2):
        model, optimizer, _, engine = private(torch.randn(8, 6), noise=1.0)
        image_losses(model, torch.randn(8, 6)).sum().backward()
        optimizer.step()
        spent.append(engine.get_epsilon(1e-5))
    one = GaussianEvent(sigma=1.0, sample_rate=1.0, steps=1)
    assert spent[0] == spent[1]
    assert epsilon([one, one], delta=1e-5) > 1.3 * epsilon([one], delta=1e-5)


def test_opacus_noise_is_a_function_of_the_public_seed() -> None:
    def noised() -> Tensor:
        torch.manual_seed(1)
        model, optimizer, _, _ = private(torch.zeros(8, 6), noise=1.0)
        (0 * image_losses(model, torch.zeros(8, 6))).sum().backward()
        optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(noised(), noised())


def test_the_gdp_accountant_reports_less_than_is_true() -> None:
    accountant = GaussianAccountant()
    for _ in range(2000):
        accountant.step(noise_multiplier=1.0, sample_rate=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gdp = accountant.get_epsilon(1e-5)
    assert gdp < 5.3 < 5.6158  # by Google's PLD accountant, tests/common/test_privacy.py
    assert epsilon([GaussianEvent(sigma=1.0, sample_rate=0.02, steps=2000)], delta=1e-5) >= 5.6158
