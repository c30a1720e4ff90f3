"""Per-patient gradients by book-keeping: one forward and one backward pass, then norms and the clipped sum.

Formal guarantee
    Neighbouring relation: add or remove all images of one patient. `clipped_sum` adds, for every patient, that
    patient's gradient scaled to an L2 norm of at most C, in float64. So removing a patient moves the sum by at most C,
    its L2 sensitivity, for any images, any weights and any number of images:

    - The norm is never underestimated. Norms are taken in float64 of the very float32 numbers that are summed. Where
      the product of a linear layer is never formed, cancellation between a patient's images could hide digits. A
      bound on what can be hidden (`_DOUBT`) is added to the square of the norm.
    - C is aimed at from below by `_MARGIN`, more than all float64 rounding of norms and sums together.
    - A patient whose gradient is not finite counts as zero: it cannot void or steer the others' step.

    The bound does not rest on the gradients being right, only on each row being a function of its patient's images.
    So a model is refused whose layers could mix images (`client.mechanism.trainer.refuse_unsafe`), every use of a
    trainable parameter outside the known layers is refused when it happens, and all passes have one shape, in which it
    was tried that this machine's kernels keep patients apart to the last bit (`client.mechanism.isolation`: evidence,
    no proof). Sums over a patient's images are taken in the order of its places, the same for any other patients.

Source
    Book-keeping: Bu, Wang, Zha & Karypis, 2210.00038. Norms of products: Goodfellow, 1510.01799. Float64 sums:
    Casacuberta, Shoemate, Vadhan & Wagaman, 2207.10635.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from client.mechanism.gradients_layers import RULES, Inputs, Owners, squared_norms
from common.errors import PlanRefused

_MARGIN = 1e-8
_SMALL = 1024
"""Values per patient below which parameters are handled side by side."""
_DOUBT = 1e-10
"""Relative error of a float64 product sum: (in + out + images squared) units of 1.1e-16, with room for 10^5 terms; a
layer of more has its own (`_doubt`)."""


class PatientGradients(Protocol):
    """The unclipped gradients of some patients, in any form that knows norms and can be summed."""

    def squared_norms(self) -> Tensor:
        """Squares of the gradients' L2 norms, [patients] float64, never too small; infinite or NaN where unusable."""

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add each gradient times its factor [patients] to the flat `total`, float64; factor 0 adds nothing at all."""


def clipped_sum(parts: Iterable[PatientGradients], *, clip_norm: float, total: Tensor) -> Tensor:
    """Add every patient's gradient, clipped to `clip_norm`, to `total` (flat, float64) and return it.

    Args:
        parts: The patients' gradients, a pass each.
        clip_norm: Bound on the L2 norm of one patient's gradient, above 0.
        total: The sum so far, [parameters] float64; changed in place.
    """
    for gradients in parts:
        gradients.add_to(total, clip_factors(gradients.squared_norms(), clip_norm=clip_norm))
    return total


def clip_factors(squared_norms: Tensor, *, clip_norm: float) -> Tensor:
    """Factors [patients] that bring gradients of these norms to at most `clip_norm`; 0 for what is not finite."""
    factors = clip_norm * (1 - _MARGIN) / squared_norms.sqrt().clamp(min=clip_norm)
    return torch.where(squared_norms.isfinite(), factors, 0.0)


@dataclass(frozen=True)
class DenseGradients:
    """Gradients written out in full, [patients, parameters]: what an audit's artificial patients have."""

    rows: Tensor

    def squared_norms(self) -> Tensor:
        """See `PatientGradients`."""
        return squared_norms(self.rows.double())

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """See `PatientGradients`."""
        kept = factors > 0
        rows, weights = (self.rows, factors) if bool(kept.all()) else (self.rows[kept], factors[kept])
        total += weights @ rows.double()


class Layout:
    """Where each trainable parameter of a model stands in one flat vector; `size` is the vector's length."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.places: dict[int, slice] = {}
        self.size = 0
        for parameter in self.parameters.values():
            self.places[id(parameter)] = slice(self.size, self.size + parameter.numel())
            self.size += parameter.numel()

    def views(self, flat: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each parameter with its part of a flat vector, in the parameter's shape."""
        for parameter in self.parameters.values():
            yield parameter, flat[self.places[id(parameter)]].view_as(parameter)


def book_keep(layout: Layout, losses: Callable[[], Tensor], *, owners: Owners, shares: Tensor) -> "BookKept":
    """Run one forward and one backward pass and keep what the patients' gradients are made of.

    Args:
        layout: The model's trainable parameters.
        losses: The forward pass: the loss of each image, [n], images standing patient by patient.
        owners: Whose images they are.
        shares: What each image weighs in its patient's loss, [n]; 0 for padding.

    Returns:
        Gradients of each patient's weighted loss over its images.

    Raises:
        PlanRefused: A trainable parameter is used by anything but a known layer, or twice.
    """
    tape = _Tape(layout, owners)
    with tape:
        values = losses()
    torch.autograd.backward(values, shares)
    return tape.gradients()


def book_keep_pass(
    layout: Layout,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    noise: Tensor,
    shares: Tensor,
    *,
    slots: int,
) -> "BookKept":
    """`book_keep` one pass of a round: training and the trial of `client.mechanism.isolation` do the very same thing.

    Args:
        layout: The model's trainable parameters.
        loss: `common.model.generator.Generator.loss` of that model.
        images: As in `client.mechanism.patient_views.Pass`.
        labels: As there.
        noise: As there.
        shares: As there.
        slots: As there.

    Raises:
        PlanRefused: See `book_keep`.
    """
    owners = Owners(patients=slots, each=len(images) // slots)
    return book_keep(layout, partial(loss, images, labels, noise), owners=owners, shares=shares)


@dataclass(frozen=True)
class _Product:
    """A linear layer: a gradient of the weight is a sum over images of delta times input, of the bias one of delta."""

    weight: slice
    bias: slice | None
    inputs: Inputs
    deltas: Tensor

    def squared_norms(self, owners: Owners) -> Tensor:
        """At least the square of each patient's norm, [patients] float64."""
        one = 0.0 if self.bias is None else 1.0
        sizes = ((self.inputs.squared_norms + one) * squared_norms(self.deltas)).unsqueeze(1)
        if owners.each == 1:
            return sizes[:, 0] * (1 + self._doubt(owners))
        a, d = owners.blocks(self.inputs.values), owners.blocks(self.deltas)
        squares = ((a @ a.mT + one) * (d @ d.mT)).sum((1, 2))
        return squares.clamp(min=0.0) + self._doubt(owners) * owners.sums(sizes.sqrt())[:, 0].square()

    def _doubt(self, owners: Owners) -> float:
        terms = self.deltas.shape[1] + self.inputs.values.shape[1] + owners.each**2
        return _DOUBT * max(1.0, terms / 1e5)

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add the gradients times the factors of their images [n, 1]; images of factor 0 are left out."""
        inputs, deltas = self.inputs.values, self.deltas
        if not bool((kept := factors[:, 0] > 0).all()):
            inputs, deltas, factors = inputs[kept], deltas[kept], factors[kept]
        weighted = deltas * factors
        total[self.weight].view(deltas.shape[1], inputs.shape[1]).addmm_(weighted.T, inputs)
        if self.bias is not None:
            total[self.bias] += weighted.sum(0)


class BookKept:
    """Gradients as a pass left them: rows of the small parameters, factors of the linear layers."""

    def __init__(self, owners: Owners, rows: list[tuple[slice, Tensor]], products: list[_Product]) -> None:
        self._owners = owners
        self._products = products
        small = [(place, row) for place, row in rows if row.shape[1] < _SMALL]
        self._rows = [([place], DenseGradients(row)) for place, row in rows if row.shape[1] >= _SMALL]
        if small:
            beside = DenseGradients(torch.cat([row for _, row in small], dim=1))
            self._rows.append(([place for place, _ in small], beside))

    def squared_norms(self) -> Tensor:
        """See `PatientGradients`."""
        parts = [product.squared_norms(self._owners) for product in self._products]
        return torch.stack(parts + [rows.squared_norms() for _, rows in self._rows]).sum(0)

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """See `PatientGradients`."""
        for places, rows in self._rows:
            added = total.new_zeros(rows.rows.shape[1])
            rows.add_to(added, factors)
            for place, part in zip(places, torch.split(added, [p.stop - p.start for p in places]), strict=True):
                total[place] += part
        by_image = factors.repeat_interleave(self._owners.each).unsqueeze(1)
        for product in self._products:
            product.add_to(total, by_image)

    def by_patient(self) -> list[Tensor]:
        """Everything the pass left of each patient, each part [patients, m]: to be compared bit for bit."""
        blocks = [self._owners.blocks(part) for p in self._products for part in (p.inputs.values, p.deltas)]
        return [rows.rows for _, rows in self._rows] + [block.flatten(1) for block in blocks]


class _Tape(TorchFunctionMode):
    """Sees every function that a trainable parameter enters, and lets only those with a rule run."""

    def __init__(self, layout: Layout, owners: Owners) -> None:
        super().__init__()
        self.owners = owners
        self._places = layout.places
        self._used: set[int] = set()
        self._inputs: list[tuple[Tensor, Inputs]] = []
        self._rows: list[tuple[slice, Tensor]] = []
        self._products: list[_Product] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        used = self._parameters_in((*args, *kwargs.values()))
        if not used:
            return func(*args, **kwargs)
        if (rule := RULES.get(func)) is None:
            name = getattr(func, "__name__", str(func))
            raise PlanRefused(f"a trained parameter enters {name!r}, which has no rule for per-patient gradients")
        if used & self._used:
            raise PlanRefused("a trained parameter is used twice in one pass; its per-patient gradient has no rule")
        self._used |= used
        return rule(self, *args, **kwargs)

    def _parameters_in(self, values: Iterable[Any]) -> set[int]:
        used: set[int] = set()
        for value in values:
            if id(value) in self._places:
                used.add(id(value))
            elif isinstance(value, list | tuple):
                used |= self._parameters_in(value)
        return used

    def __exit__(self, *exception: Any) -> None:
        """End the forward pass; holding on to its tensors would close a cycle that only the collector could free."""
        self._inputs.clear()
        super().__exit__(*exception)  # type: ignore[no-untyped-call]

    def keep_rows(self, parameter: Tensor, rows: Tensor) -> None:
        """See `Sink`."""
        if (place := self._places.get(id(parameter))) is not None:
            self._rows.append((place, rows.flatten(1).double()))

    def share(self, inputs: Tensor) -> Inputs:
        """See `Sink`."""
        for known, shared in self._inputs:
            if known is inputs:
                return shared
        self._inputs.append((inputs, Inputs(inputs)))
        return self._inputs[-1][1]

    def keep_product(self, weight: Tensor, bias: Tensor | None, inputs: Inputs, deltas: Tensor) -> None:
        """See `Sink`."""
        place = None if bias is None else self._places[id(bias)]
        self._products.append(_Product(self._places[id(weight)], place, inputs, deltas.double()))

    def gradients(self) -> BookKept:
        """What the backward pass has left."""
        return BookKept(self.owners, self._rows, self._products)
