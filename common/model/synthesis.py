"""Drawing synthetic images from a released decoder: one file, no server, no data of anybody."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from common.errors import CheckpointCorrupt, PlanError
from common.mechanism.moments import cosine_images
from common.model.generator import Generator
from common.model.study_model import initial, model_with, released
from common.model.weights import Weights, digest, read, write
from common.plan.reader import build
from common.plan.study_plan import StudyPlan

BATCH = 64
"""Images decoded at once. Fixed, so that a seed gives the same pixels for any count."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What chance decides of one batch.

    Attributes:
        latent: [BATCH, k], standard normal.
        component: [BATCH] int64, which component of the label each latent is of.
        texture: Makes what the latents leave out, [BATCH, size, size] in pixel units; None where the plan has none.
        noise: [BATCH, size, size], standard normal; None where the plan adds none.
        detail: [BATCH, size, size], standard normal, what a denoiser begins with; None where there is none.
    """

    latent: Tensor
    component: Tensor
    texture: Callable[[], Tensor] | None
    noise: Tensor | None
    detail: Tensor | None


@dataclass(frozen=True)
class Decoder:
    """A released decoder: what to draw from, and which study it comes from."""

    plan: StudyPlan
    model: Generator
    digest: str

    @classmethod
    def of(cls, plan: StudyPlan, weights: Weights) -> Self:
        """Take the decoder out of a model's weights."""
        arrays = released(plan, weights)
        return cls(plan, model_with(plan, arrays).eval(), digest(arrays))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `decoder.safetensors`; raises `CheckpointCorrupt` when it was altered or is something else."""
        arrays, metadata = read(path)
        try:
            plan = build(StudyPlan, json.loads(metadata["plan"]), what="decoder", error=PlanError)
        except (KeyError, ValueError, PlanError) as error:
            raise CheckpointCorrupt(f"{path}: not a decoder of this software ({type(error).__name__})") from error
        expected = released(plan, initial(plan).arrays())
        if {n: a.shape for n, a in arrays.items()} != {n: a.shape for n, a in expected.items()}:
            raise CheckpointCorrupt(f"{path}: its arrays are not those of its plan's decoder")
        return cls.of(plan, arrays)

    def save(self, path: Path) -> None:
        """Write the decoder with its plan; `load` undoes it."""
        write(released(self.plan, self.model.arrays()), path, metadata={"plan": json.dumps(self.plan.to_dict())})

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; one unnamed class for an unconditional model."""
        return self.plan.data.labels or ("any",)

    def draw(self, label: str, count: int, *, seed: int) -> Iterator[Tensor]:
        """Yield `count` images [size, size], float32 in [-1, 1], one at a time in constant memory.

        Args:
            label: One of `labels`.
            count: Number of images.
            seed: Same seed, same images; a longer draw begins with the shorter one's images.

        Raises:
            PlanError: The study has no such label.
        """
        for images in self.batches(label, seed=seed):
            yield from images[:count]
            count -= len(images)
            if count <= 0:
                return

    def batches(self, label: str, *, seed: int) -> Iterator[Tensor]:
        """Yield the same images without end, `BATCH` at a time, [BATCH, size, size]; raises as `draw` does."""
        index = self.index(label)
        for chance in self.chances(label, seed=seed):
            yield self.pictures(chance, index)

    def chances(self, label: str, *, seed: int) -> Iterator[Chance]:
        """Yield without end what chance decides of each batch; one after the other, unlike `pictures`."""
        index = self.index(label)
        key = hashlib.sha256(json.dumps([seed, label]).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
        while True:
            latent = torch.randn((BATCH, self.model.latent_size), generator=generator)
            component = self._component(index, generator)
            texture = self._texture(index, generator) if self.plan.release.texture > 0 else None
            shape = (BATCH, self.model.size, self.model.size)
            noise = torch.randn(shape, generator=generator) if self.plan.release.observation > 0 else None
            detail = torch.randn(shape, generator=generator) if self.model.refines else None
            yield Chance(latent=latent, component=component, texture=texture, noise=noise, detail=detail)

    def pictures(self, chance: Chance, index: int) -> Tensor:
        """Images [BATCH, size, size], float32 in [-1, 1], of one of `chances`; may run in any thread."""
        images = self._coarse(chance.latent * self.plan.release.temperature, index, chance.component)
        if chance.texture is not None:
            images = (images + chance.texture()).clamp(-1.0, 1.0)
        if chance.detail is not None:
            images = self.model.refine(images, torch.full((len(images),), index), chance.detail)
        if chance.noise is not None:
            images = (images + chance.noise * self.plan.release.observation).clamp(-1.0, 1.0)
        return images

    def images(self, latent: Tensor, index: int, component: Tensor | None = None) -> Tensor:
        """Images [n, size, size], float32 in [-1, 1], of latents [n, k] under the label with this index.

        `component` [n] int64 says which component of the label each latent is of; None takes the heaviest. A denoiser
        begins with the same noise for every image, so that near latents have like images.

        Args:
            latent: Latents, [n, k].
            index: Index of the label.
            component: Component of the label, [n] int64; None takes the heaviest.
        """
        coarse = self._coarse(latent, index, component)
        detail = torch.randn(coarse.shape[1:], generator=torch.Generator().manual_seed(0)).expand(coarse.shape)
        labels = torch.full((len(coarse),), index, dtype=torch.int64)
        return self.model.refine(coarse, labels, detail).clamp(-1.0, 1.0)

    def _coarse(self, latent: Tensor, index: int, component: Tensor | None) -> Tensor:
        """Pictures [n, size, size] of latents [n, k] before a denoiser, which takes them as they are; else clamped."""
        if component is None:
            component = self.component_weights(index).argmax().expand(len(latent))
        with torch.no_grad():
            drawn = self.model.decode_latents(latent, torch.full((len(latent),), index, dtype=torch.int64), component)
        return drawn[:, 0] if self.model.refines else drawn[:, 0].clamp(-1.0, 1.0)

    def index(self, label: str) -> int:
        """Place of a label; raises `PlanError` when the study has no such label."""
        if label not in self.labels:
            raise PlanError(f"the decoder has no label {label!r}. It has: {', '.join(self.labels)}")
        return self.labels.index(label)

    def prevalence(self) -> dict[str, float]:
        """Share of each label as the study's noised class counts say, sum 1; even where there was no such phase."""
        shares = self.model.class_shares()
        if not float(shares.sum()) > 0:
            shares = torch.ones(len(self.labels)).double()
        return dict(zip(self.labels, (shares / shares.sum()).tolist(), strict=True))

    def _component(self, index: int, generator: torch.Generator) -> Tensor:
        """Which component each latent of a batch is of, [BATCH] int64, drawn by weight; nothing is drawn from one."""
        weights = self.component_weights(index)
        if len(weights) == 1:
            return torch.zeros(BATCH, dtype=torch.int64)
        return torch.multinomial(weights, BATCH, replacement=True, generator=generator)

    def component_weights(self, index: int) -> Tensor:
        """Shares of the label's components, sum 1; the first has all where there was no such phase."""
        shares = self.model.component_shares(index)
        if not float(shares.sum()) > 0:
            shares = torch.eye(len(shares), dtype=torch.float64)[0]
        return shares / shares.sum()

    def _texture(self, index: int, generator: torch.Generator) -> Callable[[], Tensor]:
        """What the latents leave out, drawn from its spectrum: [BATCH, size, size] in pixel units, once called."""
        deviations = self.model.texture(index).numpy().astype(np.float64) * self.plan.release.texture
        drawn = torch.randn((BATCH, len(deviations)), generator=generator, dtype=torch.float64).numpy()

        def images() -> Tensor:
            found = cosine_images(drawn * deviations, size=self.plan.data.image_size)
            return torch.from_numpy(found.astype(np.float32))

        return images
