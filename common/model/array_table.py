"""The arrays of each generator by name, shape and use, without PyTorch: what a proposal counts and a message must hold.

A command that only shows or approves a plan must not import PyTorch, which takes seconds. `common.model.vae`,
`refined` and `linear_start` make the arrays; `tests/common/test_array_table.py` compares them with this table.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from common.model.folding import folding
from common.plan.study_plan import StudyPlan

Shape = tuple[int, ...]
_Named = tuple[str, Shape]

PREFIX = "start."
"""Prefix of the arrays that the moments phase sets and gradients leave alone: a generator's part is so called."""
READING = ("encode.", "mu.", "logvar.")
"""Prefixes of the VAE's arrays that read an image and draw none."""
WAVES = 8
"""Sines, and as many cosines, that tell the denoiser how much noise there is."""
_KERNEL = (3, 3)


@dataclass(frozen=True, kw_only=True)
class Array:
    """One array of a generator.

    Attributes:
        shape: Its shape.
        trained: Whether gradients train it.
        reads: Whether it reads images and draws none.
    """

    shape: Shape
    trained: bool
    reads: bool


@functools.lru_cache(maxsize=64)
def arrays_of(plan: StudyPlan) -> dict[str, Array]:
    """Every array of the plan's generator by name, in the model's own order; not to be changed by the caller."""
    nets = _denoiser(plan) if plan.model.denoiser else _vae(plan)
    found = {name: Array(shape=shape, trained=True, reads=name.startswith(READING)) for name, shape in nets}
    start = start_shapes(plan).items()
    return found | {PREFIX + name: Array(shape=shape, trained=False, reads=False) for name, shape in start}


def shapes(plan: StudyPlan) -> dict[str, Shape]:
    """Name and shape of every array of the plan's model."""
    return {name: array.shape for name, array in arrays_of(plan).items()}


def shared_shapes(plan: StudyPlan) -> dict[str, Shape]:
    """Name and shape of every array that the coordinator and the sites share: all, or all but the encoder's."""
    whole = plan.training.federated == "all"
    return {name: array.shape for name, array in arrays_of(plan).items() if whole or not array.reads}


def trained_shapes(plan: StudyPlan) -> dict[str, Shape]:
    """Name and shape of every array that gradients train, whether it is shared or not."""
    return {name: array.shape for name, array in arrays_of(plan).items() if array.trained}


def start_shapes(plan: StudyPlan) -> dict[str, Shape]:
    """Name and shape of the arrays of the closed form, see `common.model.linear_start`."""
    pixels, latent, classes = plan.data.image_size**2, plan.model.latent, plan.data.classes
    cells, own = classes * plan.model.components, plan.model.covariance == "class"
    return {
        "mean": (classes, pixels) if own else (pixels,),
        "basis": (pixels, classes * latent) if own else (pixels, latent),
        "centre": (cells, latent),
        "factor": (cells, latent, latent),
        "gain": (cells, latent, latent),
        "spread": (cells, latent),
        "frequency": (classes,),
        "texture": (classes, pixels) if own else (plan.model.base**2,),
        "weight": (cells,),
        "evidence": (cells,),
        **_public_shapes(plan),
    }


def _public_shapes(plan: StudyPlan) -> dict[str, Shape]:
    """Of the arrays that say what public images are like, where the plan has public directions."""
    pixels, directions = plan.data.image_size**2, plan.warm.directions
    if not directions:
        return {}
    return {
        "public_mean": (pixels,),
        "public_basis": (pixels, directions),
        "public_variance": (directions,),
        "public_rest": (pixels,),
    }


def _vae(plan: StudyPlan) -> Iterator[_Named]:
    """The two nets, and the layers between them and the latents."""
    latent, classes, size = plan.model.latent, plan.data.classes, plan.data.image_size
    if plan.model.hidden:
        yield from _perceptrons((size**2, *plan.model.hidden))
        flat = plan.model.hidden[-1]
    else:
        channels = plan.model.channels
        yield from _convolutions(channels)
        flat = channels[-1] * (size // 2 ** len(channels)) ** 2
    yield from _layer("mu", (latent, flat + classes))
    yield from _layer("logvar", (latent, flat + classes))
    yield from _layer("decodeL", (flat, latent + classes))


def _perceptrons(widths: tuple[int, ...]) -> Iterator[_Named]:
    """Layers with an activation after each, hence the step of two."""
    for side, order in (("encode", widths), ("decode", widths[::-1])):
        for i, (before, after) in enumerate(itertools.pairwise(order)):
            yield from _layer(f"{side}.{2 * i}", (after, before))


def _convolutions(channels: tuple[int, ...]) -> Iterator[_Named]:
    """MONAI's blocks (`monai.networks.nets.VarAutoEncoder`): a convolution and, but for the last, its group norm."""
    for i, (before, after) in enumerate(itertools.pairwise((1, *channels))):
        yield from _layer(f"encode.encode_{i}.conv", (after, before, *_KERNEL))
        yield from _layer(f"encode.encode_{i}.adn.N", (after,))
    order = (*channels[::-1], 1)
    for i, (before, after) in enumerate(itertools.pairwise(order)):
        yield f"decode.decode_{i}.conv.conv.weight", (before, after, *_KERNEL)
        yield f"decode.decode_{i}.conv.conv.bias", (after,)
        if i < len(channels) - 1:
            yield from _layer(f"decode.decode_{i}.conv.adn.N", (after,))


def _denoiser(plan: StudyPlan) -> Iterator[_Named]:
    """The net of `common.model.denoiser`."""
    (fine, coarse), cell = plan.model.denoiser, folding(plan.data.image_size) ** 2
    told = 2 * WAVES + plan.data.classes

    def block(name: str, channels: int) -> Iterator[_Named]:
        yield from _layer(f"refiner.{name}.first", (channels, channels, *_KERNEL))
        yield from _layer(f"refiner.{name}.second", (channels, channels, *_KERNEL))
        yield from _layer(f"refiner.{name}.film", (2 * channels, told))

    yield from _layer("refiner.enter", (fine, 2 * cell + 2, *_KERNEL))
    yield from _layer("refiner.told", (fine, told))
    yield from block("before", fine)
    yield from _layer("refiner.down", (coarse, fine, 2, 2))
    yield from block("middle", coarse)
    yield from _layer("refiner.up", (fine, coarse, 1, 1))
    yield from block("after", fine)
    yield from _layer("refiner.leave", (cell, fine, *_KERNEL))


def _layer(name: str, weight: Shape) -> Iterator[_Named]:
    """A layer's weight, whose first axis is its outputs, and its bias."""
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def count(shapes: dict[str, Shape]) -> int:
    """Number of values in arrays of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())
