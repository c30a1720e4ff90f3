"""Book-kept gradients are each patient's own, in any layout, layer or count; what has no rule is refused."""

import gc
import weakref
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from client.mechanism.gradients import BookKept, DenseGradients, Layout, book_keep, clip_factors, clipped_sum
from client.mechanism.gradients_layers import Owners
from common.errors import PlanRefused
from common.model.study_model import initial
from tests.client.cohorts import small_plan

COUNTS = ((3, 1), (3, 2), (2, 9))
"""Patients, and images of each: one of each, a few, and so many that each patient has a library call of its own."""


@pytest.fixture(autouse=True)
def _seeded(one_thread: None) -> None:
    torch.manual_seed(0)


def images_of(counts: tuple[int, int]) -> int:
    return counts[0] * counts[1]


def shares_of(counts: tuple[int, int]) -> Tensor:
    """What each image weighs: the last place of every second patient is padding, where there is more than one."""
    there = torch.ones(counts)
    if counts[1] > 1:
        there[::2, -1] = 0.0
    return (there / there.sum(1, keepdim=True)).flatten()


def kept(
    layout: Layout, losses: Callable[[], Tensor], counts: tuple[int, int], shares: Tensor | None = None
) -> BookKept:
    owners = Owners(patients=counts[0], each=counts[1])
    return book_keep(layout, losses, owners=owners, shares=shares_of(counts) if shares is None else shares)


def one_by_one(model: nn.Module, losses: Callable[[slice], Tensor], counts: tuple[int, int]) -> Tensor:
    """[patients, parameters]: the gradient of each patient's mean loss by plain autograd, padding left out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for patient, shares in enumerate(shares_of(counts).split(counts[1])):
        first = patient * counts[1]
        mean = losses(slice(first, first + int((shares > 0).sum()))).mean()
        found = torch.autograd.grad(mean, trained, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, trained, strict=True)]
        rows.append(torch.cat([part.flatten() for part in parts]).double())
    return torch.stack(rows)


def book_kept(model: nn.Module, losses: Callable[[slice], Tensor], counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The same rows from book-keeping, and the squared norms that the clip would use."""
    layout = Layout(model)
    gradients = kept(layout, partial(losses, slice(None)), counts)
    rows = torch.zeros(counts[0], layout.size, dtype=torch.float64)
    for i, row in enumerate(rows):
        gradients.add_to(row, (torch.arange(counts[0]) == i).double())
    return rows, gradients.squared_norms()


def agree(model: nn.Module, losses: Callable[[slice], Tensor], counts: tuple[int, int]) -> None:
    true = one_by_one(model, losses, counts)
    rows, squared = book_kept(model, losses, counts)
    assert true.norm(dim=1).min() > 0
    assert float(((rows - true).norm(dim=1) / true.norm(dim=1)).max()) < 1e-5
    torch.testing.assert_close(squared.sqrt(), rows.norm(dim=1), rtol=1e-9, atol=0)
    assert (squared >= rows.square().sum(1) * (1 - 1e-14)).all()


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize(("size", "hidden"), [(28, ()), (64, ()), (28, (24, 12)), (64, (16,))])
def test_every_patient_of_the_real_model_gets_its_own_gradient(
    counts: tuple[int, int], size: int, hidden: tuple[int, ...]
) -> None:
    model = initial(small_plan(image_size=size, channels=() if hidden else (8, 16), hidden=hidden))
    n = images_of(counts)
    x, y, noise = torch.rand(n, 1, size, size) * 2 - 1, torch.arange(n) % 2, torch.randn(n, 4)
    agree(model, lambda s: model.loss(x[s], y[s], noise[s]), counts)


def test_a_trained_start_and_a_plan_without_labels_change_nothing() -> None:
    model = initial(small_plan(labels=(), phases=("moments", "sgd")))
    for parameter in model.start.parameters():
        parameter.data.normal_(0, 0.1)
    x, y, noise = torch.rand(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64), torch.randn(4, 4)
    layout = Layout(model)
    assert not any(name.startswith("start.") for name in layout.parameters)
    for parameter in layout.parameters.values():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    agree(model, lambda s: model.loss(x[s], y[s], noise[s]), (2, 2))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "conv without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "conv of uneven kernel, stride and padding": lambda: nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 2)),
    "conv in groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "dilated conv": lambda: nn.Conv2d(4, 6, 3, dilation=2),
    "conv of reflected edges": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "transposed conv": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed conv in groups": lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2, bias=False),
    "group norm": lambda: nn.GroupNorm(2, 4),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "rotated": lambda x: torch.rot90(x, 1, (2, 3)),
    "every other": lambda x: x.repeat(1, 1, 2, 2)[:, :, ::2, ::2],
}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_also_stands_first(layer: str) -> None:
    model = nn.Sequential(LAYERS[layer](), nn.GELU())
    x = torch.randn(6, 4, 9, 9)
    agree(model, lambda s: model(x[s]).square().sum((1, 2, 3)), (2, 3))


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_in_every_memory_layout(layer: str, counts: tuple[int, int]) -> None:
    for change in LAYOUTS.values():
        model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), LAYERS[layer](), nn.GELU())
        x = torch.randn(images_of(counts), 2, 9, 9)
        before, after = model[:2], model[2:]
        agree(model, lambda s, x=x, f=change, a=before, b=after: f(b(f(a(f(x[s]))))).square().sum((1, 2, 3)), counts)


def test_layers_on_one_input_and_a_linear_layer_without_bias() -> None:
    model = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 2, bias=False), nn.Linear(6, 6)])
    x = torch.randn(6, 6)

    def losses(s: slice) -> Tensor:
        h = model[2](x[s]).tanh()
        return torch.cat([model[0](h), model[1](h)], 1).square().sum(1)

    agree(model, losses, (2, 3))
    agree(model, losses, (6, 1))


def test_the_norm_is_not_understated_where_a_patients_images_cancel() -> None:
    """Two images of a million times the gradient of their sum: float64 products alone lose it, the bound does not."""
    model = nn.Linear(64, 8, bias=False)
    layout = Layout(model)
    understated = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        a = (random.normal(size=64) * 1e7).astype(np.float32)
        near = np.nextafter(a, np.float32(np.inf) * random.choice([-1, 1], 64).astype(np.float32))
        g = (random.normal(size=8) * 1e7).astype(np.float32)
        inputs, deltas = torch.from_numpy(np.stack([a, near])), torch.from_numpy(np.stack([g, -g]))
        half = torch.full((2,), 0.5)
        found = kept(layout, lambda i=inputs, d=deltas: (model(i) * d).sum(1), (1, 2), half)
        exact = 0
        for i in range(64):
            for j in range(8):
                entry = (Fraction(float(a[i])) - Fraction(float(near[i]))) * Fraction(float(g[j])) / 2
                exact += entry * entry
        assert float(found.squared_norms()) >= float(exact)
        direct = ((inputs.double() @ inputs.double().T) * (deltas.double() @ deltas.double().T)).sum() / 4
        understated += float(direct) < float(exact)
    assert understated > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("counts", COUNTS)
def test_a_patient_that_is_not_finite_changes_no_bit_of_the_others(counts: tuple[int, int], value: float) -> None:
    model = initial(small_plan())
    layout = Layout(model)
    n = images_of(counts)
    x, y, noise = torch.rand(n, 1, 28, 28), torch.arange(n) % 2, torch.randn(n, 4)
    spoilt = x.clone()
    spoilt[counts[1] : 2 * counts[1], 0, 4, 4] = value
    sums = []
    for images, others in ((x, [0.0 if i == 1 else 1.0 for i in range(counts[0])]), (spoilt, None)):
        found = kept(layout, partial(model.loss, images, y, noise), counts)
        factors = clip_factors(found.squared_norms(), clip_norm=0.1)
        assert others is not None or factors[1] == 0
        sums.append(torch.zeros(layout.size, dtype=torch.float64))
        found.add_to(sums[-1], factors if others is None else factors * torch.tensor(others))
    assert torch.equal(*sums)
    assert sums[0].isfinite().all()


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e6, 1e15])
def test_one_patient_adds_at_most_the_clip_norm_whatever_weights_a_server_sends(scale: float) -> None:
    model = initial(small_plan())
    for parameter in model.parameters():
        parameter.data.mul_(scale)
    layout = Layout(model)
    for counts in ((1, 1), (1, 5)):
        n = images_of(counts)
        losses = partial(model.loss, torch.rand(n, 1, 28, 28), torch.zeros(n, dtype=torch.int64), torch.randn(n, 4))
        total = torch.zeros(layout.size, dtype=torch.float64)
        clipped_sum([kept(layout, losses, counts)], clip_norm=0.25, total=total)
        assert float(total.norm()) <= 0.25


def test_clip_factors_bring_every_norm_to_at_most_the_clip_norm() -> None:
    norms = torch.tensor([0.0, 1e-30, 0.5, 1.0, 1.0 + 1e-9, 3.0, 1e30, 1e150], dtype=torch.float64)
    factors = clip_factors(norms.square(), clip_norm=1.0)
    assert (norms * factors <= 1.0).all()
    assert (norms * factors >= norms.clamp(max=1.0) * (1 - 1e-7)).all()
    broken = torch.tensor([float("nan"), float("inf")], dtype=torch.float64)
    assert not clip_factors(broken, clip_norm=1.0).any()


def test_sums_are_float64_however_many_patients_and_passes() -> None:
    """Float32 would lose the small patient beside the large ones."""
    large, small = torch.full((500, 3), 1e8), torch.full((1, 3), 1.0)
    total = torch.zeros(3, dtype=torch.float64)
    clipped_sum([DenseGradients(large), DenseGradients(small), DenseGradients(-large)], clip_norm=1e12, total=total)
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), rtol=1e-7, atol=0)


class _Scaled(nn.Module):
    """A parameter of its own, used by an operation that has no rule."""

    def __init__(self, use: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(x, self.scale).sum(1)


@pytest.mark.parametrize(
    "use",
    [
        lambda x, p: x * p,
        lambda x, p: p * x,
        lambda x, p: x + p.view(1, 3),
        lambda x, p: torch.cat([x, p[None].expand(len(x), 3)], 1),
        lambda x, p: torch.stack([p, p])[0] * x,
        lambda x, p: functional.linear(x, torch.diag(p)),
        lambda x, p: functional.layer_norm(x, (3,), weight=p),
    ],
)
def test_a_parameter_that_enters_anything_without_a_rule_is_refused(use: Callable[..., Tensor]) -> None:
    model = _Scaled(use)
    with pytest.raises(PlanRefused, match="no rule"):
        kept(Layout(model), partial(model, torch.rand(2, 3)), (2, 1))


def test_a_layer_used_twice_in_one_pass_is_refused() -> None:
    model = nn.Linear(3, 3)
    with pytest.raises(PlanRefused, match="twice"):
        kept(Layout(model), lambda: model(model(torch.rand(2, 3))).sum(1), (2, 1))


@pytest.mark.parametrize(
    ("model", "losses"),
    [
        (nn.Linear(3, 3), lambda m: m(torch.rand(2, 4, 3)).sum((1, 2))),
        (nn.Linear(3, 3), lambda m: m(torch.rand(6, 3)).view(2, -1).sum(1)),
        (nn.Conv2d(1, 1, 1), lambda m: m(torch.rand(4, 1, 3, 3)).view(2, -1).sum(1)),
        (nn.Conv2d(1, 1, 1), lambda m: m(torch.rand(1, 2, 3)).expand(2, 2, 3).sum((1, 2))),
        (nn.Conv2d(1, 1, 3, padding="same"), lambda m: m(torch.rand(2, 1, 3, 3)).sum((1, 2, 3))),
        (nn.GroupNorm(1, 2), lambda m: m(torch.rand(2, 2)).sum(1)),
    ],
)
def test_an_input_that_is_not_image_by_image_is_refused(
    model: nn.Module, losses: Callable[[nn.Module], Tensor]
) -> None:
    with pytest.raises(PlanRefused):
        kept(Layout(model), partial(losses, model), (2, 1))


def test_a_pass_leaves_no_gradient_on_the_model_and_frees_its_activations_at_once() -> None:
    model = initial(small_plan())
    layout = Layout(model)
    seen: list[weakref.ref[Tensor]] = []
    for module in model.modules():
        module.register_forward_hook(lambda _m, _i, output: seen.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        losses = partial(model.loss, torch.rand(2, 1, 28, 28), torch.tensor([0, 1]), torch.randn(2, 4))
        found = kept(layout, losses, (2, 1))
        found.squared_norms()
        del found
        assert len(seen) > 10
        assert not [one for one in seen if one() is not None]
    finally:
        gc.enable()
    assert all(parameter.grad is None for parameter in model.parameters())
