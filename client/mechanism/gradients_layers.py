"""What one pass through a layer says about each patient: rules for convolutions, linear maps and group normalisation.

Each rule runs its layer as PyTorch does, with the parameters cut off from the graph. When the backward pass comes by
the layer's output, the rule turns the layer's input and the output's gradient into per-patient gradients:

    convolution   [P, weight] sums over the patient's images of patches times output gradients (a weight is small)
    linear        inputs [n, in] and output gradients [n, out] as they are; the product is never formed by patient
    group norm    [P, channels], from PyTorch's own backward with every image taken as groups of its own

Nothing here depends on the memory layout of what comes in: every rule makes its inputs contiguous first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import PlanRefused

_LOOP_FROM = 8
"""Images per patient from which a library call for each patient is as fast as one grouped call for all images."""

_Pair = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Owners:
    """Which images of a pass belong to which patient: they stand patient by patient, as many of each.

    Attributes:
        patients: P, at least 1.
        each: Images of each, at least 1.
    """

    patients: int
    each: int

    @property
    def images(self) -> int:
        """Number of images n."""
        return self.patients * self.each

    def blocks(self, per_image: Tensor) -> Tensor:
        """[n, m] -> [P, each, m], a view."""
        return per_image.view(self.patients, self.each, -1)

    def sums(self, per_image: Tensor) -> Tensor:
        """Sum over each patient's images: [n, m] -> [P, m]. One patient's values never touch another's row."""
        return per_image if self.each == 1 else self.blocks(per_image).sum(1)


class Inputs:
    """The inputs [n, in] of one or more linear layers, taken to float64 once."""

    def __init__(self, source: Tensor) -> None:
        self._source = source.detach()  # not the graph: the graph holds the tape, and the tape holds this

    @cached_property
    def values(self) -> Tensor:
        """[n, in] float64."""
        return self._source.double()

    @cached_property
    def squared_norms(self) -> Tensor:
        """Of each row, [n]."""
        return squared_norms(self.values)


def squared_norms(rows: Tensor) -> Tensor:
    """Squared L2 norms of the rows of [p, m] float64: [p]."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square()


class Sink(Protocol):
    """Takes what the rules find out about the parameters of one layer."""

    owners: Owners

    def keep_rows(self, parameter: Tensor, rows: Tensor) -> None:
        """Keep per-patient gradients [P, any shape] of a parameter."""

    def share(self, inputs: Tensor) -> Inputs:
        """Return what all linear layers on this very input share."""

    def keep_product(self, weight: Tensor, bias: Tensor | None, inputs: Inputs, deltas: Tensor) -> None:
        """Keep a linear layer's inputs [n, in] and output gradients [n, out].

        Args:
            weight: The layer's weight.
            bias: Its bias; None without one.
            inputs: Its inputs, [n, in].
            deltas: The gradients of its outputs, [n, out].
        """


def conv2d(
    sink: Sink,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair | str = 0,
    dilation: _Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Run `torch.conv2d`, arguments as there, and keep its per-patient gradients."""
    if isinstance(padding, str):
        raise PlanRefused(f"a convolution is padded by {padding!r}; only numbers have a per-patient rule")
    geometry = _Geometry(_pair(stride), _pair(padding), _pair(dilation), transposed=False, spare=(0, 0), groups=groups)
    return _convolve(sink, input, weight, bias, geometry)


def conv_transpose2d(
    sink: Sink,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair = 0,
    output_padding: _Pair = 0,
    groups: int = 1,
    dilation: _Pair = 1,
) -> Tensor:
    """Run `torch.conv_transpose2d`, arguments as there, and keep its per-patient gradients."""
    spare = _pair(output_padding)
    geometry = _Geometry(_pair(stride), _pair(padding), _pair(dilation), transposed=True, spare=spare, groups=groups)
    return _convolve(sink, input, weight, bias, geometry)


def linear(sink: Sink, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Run `torch.nn.functional.linear`, arguments as there, and keep its inputs and output gradients."""
    _check(sink, input, dimensions=2)
    inputs = sink.share(input)
    output = functional.linear(input, weight.detach(), None if bias is None else bias.detach())
    return _watched(output, lambda delta: sink.keep_product(weight, bias, inputs, delta))


def group_norm(
    sink: Sink,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Run `torch.nn.functional.group_norm`, arguments as there, and keep its per-patient gradients."""
    _check(sink, input, dimensions=4)
    if weight is None or bias is None:
        raise PlanRefused("a group normalisation has a weight or a bias but not both; it has no per-patient rule")
    x = input if input.requires_grad else input.detach().requires_grad_()  # or the backward pass would not come by
    kept = _Kept(sink, weight, bias)
    output: Tensor = _GroupNorm.apply(x, weight.detach(), bias.detach(), num_groups, eps, kept)  # type: ignore[no-untyped-call]
    return output


RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.conv2d: conv2d,
    torch.conv_transpose2d: conv_transpose2d,
    functional.linear: linear,
    functional.group_norm: group_norm,
}
"""The only functions that a trainable parameter may enter, and the rule of each."""


def _watched(output: Tensor, keep: Callable[[Tensor], None]) -> Tensor:
    """Have `keep` called with the gradient of `output` when the backward pass comes by."""
    if not output.requires_grad:
        output.requires_grad_()
    output.register_hook(keep)  # type: ignore[no-untyped-call]
    return output


def _check(sink: Sink, input: Tensor, *, dimensions: int) -> None:
    if input.dim() != dimensions or len(input) != sink.owners.images:
        raise PlanRefused(
            f"a layer's input is {tuple(input.shape)}; per-patient gradients need {dimensions} axes, the images first"
        )


def _pair(value: _Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


@dataclass(frozen=True)
class _Geometry:
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    transposed: bool
    spare: tuple[int, int]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, self.transposed, self.spare, self.groups
        )

    def of_weight(self, delta: Tensor, x: Tensor, weight: Tensor, owners: Owners) -> Tensor:
        """Per-patient gradients of the weight, [P, weight]."""
        if owners.each >= _LOOP_FROM:
            pairs = zip(torch.split(delta, owners.each), torch.split(x, owners.each), strict=True)
            return torch.stack([self._summed(*pair, weight) for pair in pairs]).flatten(1)
        # The images become groups of channels of one image, so that each has a weight, and a gradient, of its own.
        images = len(x)
        weights = weight.new_empty((images * weight.shape[0], *weight.shape[1:]))
        by_image = self._summed(_as_channels(delta), _as_channels(x), weights, copies=images)
        return owners.sums(by_image.view(images, -1))

    def _summed(self, delta: Tensor, x: Tensor, weight: Tensor, *, copies: int = 1) -> Tensor:
        """Gradient of the weight, summed over the images given."""
        gradients: list[Tensor] = torch.ops.aten.convolution_backward.default(
            delta, x, weight, None, self.stride, self.padding, self.dilation, self.transposed, self.spare,
            self.groups * copies, (False, True, False),
        )  # fmt: skip
        return gradients[1]


def _as_channels(images: Tensor) -> Tensor:
    """[n, channels, height, width] -> [1, n * channels, height, width], a view."""
    return images.view(1, -1, *images.shape[2:])


def _convolve(sink: Sink, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
    _check(sink, input, dimensions=4)
    x = input.contiguous()

    def keep(delta: Tensor) -> None:
        delta = delta.contiguous()
        sink.keep_rows(weight, geometry.of_weight(delta, x, weight, sink.owners))
        if bias is not None:
            sink.keep_rows(bias, sink.owners.sums(delta.sum((2, 3))))

    return _watched(geometry.forward(x, weight.detach(), None if bias is None else bias.detach()), keep)


@dataclass(frozen=True)
class _Kept:
    sink: Sink
    weight: Tensor
    bias: Tensor


class _GroupNorm(torch.autograd.Function):
    """PyTorch's group norm; its backward takes the images for channels of one image, so that each has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, kept: _Kept) -> Tensor:
        x = x.contiguous()
        images, channels, height, width = x.shape
        output, mean, rstd = torch.native_group_norm(x, weight, bias, images, channels, height * width, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups, ctx.kept = groups, kept
        return output

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        images, channels, height, width = x.shape
        back, of_weight, of_bias = torch.ops.aten.native_group_norm_backward.default(
            deltas[0].contiguous(), x, mean.view(1, -1), rstd.view(1, -1), weight.expand(images, -1).reshape(-1),
            1, images * channels, height * width, images * ctx.groups, (True, True, True),
        )  # fmt: skip
        sink = ctx.kept.sink
        sink.keep_rows(ctx.kept.weight, sink.owners.sums(of_weight.view(images, channels)))
        sink.keep_rows(ctx.kept.bias, sink.owners.sums(of_bias.view(images, channels)))
        return back.view_as(x), None, None, None, None, None
