"""Rehearsed studies: hospitals simulated from public images, and the closed form that their noised moments would give.

Formal guarantee
    What enters is public images named in the approved plan, the plan, and draws seeded by its digest. No hospital takes
    part. So a rehearsal costs no budget, for any use of it.

A rehearsed study sees one view of the public images: an affine map and a contrast of its own, and for each class the
images that lie furthest along a random direction. Its moments are clipped as at a hospital, and noised as the plan's
schedule says, for a number of patients that is drawn around the one the plan counts on. The same functions as in a
study make a closed form of them (`server.model.class_moments`). So a denoiser that is trained above rehearsed closed
forms learns what noise does to moments, and which images may lie behind them.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.mechanism.mechanism import Array
from common.mechanism.moments import COUNT_WEIGHT, class_scatter, clip, coefficients, directed_scatter
from common.mechanism.registry import sensitivity
from common.model.linear_start import ClassStart, start_of
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from server.model import class_moments

SIZES = (0.5, 8.0)
"""Fewest and most patients of a rehearsal, as multiples of those that the plan counts on."""
_EXACT = 8
"""One rehearsal in so many has no noise: it shows the denoiser what moments look like that can be trusted."""
_SIDE = 8
_DIRECTIONS = 8
"""Pixels on a side, and principal directions, by which public images are told from one another."""
_WORTH = (1000, 2000, 5000)
"""Images behind the moments of a class, at most; fewer give a narrower class."""
_LEAST_IMAGES = 64
KEPT = 300
"""Images of each class of a rehearsal that are kept to train on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rehearsal:
    """One rehearsed study.

    Attributes:
        start: Its closed form, with the plan's number of classes.
        images: Images of each class, [n, size, size] in [-1, 1].
        patients: How many patients its moments were taken to be of.
        exact: Whether its moments carry no noise.
    """

    start: ClassStart
    images: list[Tensor]
    patients: float
    exact: bool


class Stage:
    """Public images, ready for studies to be rehearsed with them.

    Args:
        plan: The study plan; its covariance is "class".
        images: [n, 1, size, size] in [-1, 1], of the plan's size or larger.
        labels: [n], kinds of image; a class of a rehearsal is of one kind.
        public: The study's closed form, which holds its public directions where it has some.
    """

    def __init__(self, plan: StudyPlan, images: Tensor, labels: Tensor, *, public: Weights | None = None) -> None:
        self.plan, self._images, self._labels, self._public = plan, images, labels, public or {}
        seen = functional.adaptive_avg_pool2d(images, _SIDE).flatten(1)
        seen = seen - seen.mean(dim=0)
        directions = torch.linalg.svd(seen[:: max(1, len(seen) // 2000)], full_matrices=False)[2][:_DIRECTIONS]
        places = seen @ directions.T
        self._places = places / places.std(dim=0).clamp(min=1e-6)
        self.noises: dict[str, float] = {
            step.phase: step.event.sigma * sensitivity(plan, step.phase)
            for step in schedule(plan)
            if step.phase in ("means", "scatters")
        }

    def rehearse(self, number: int) -> Rehearsal:
        """The study with this number; the same number gives the same study."""
        seed = (int(self.plan.digest[:12], 16) + 1_000_003 * number) % 2**63
        generator = torch.Generator().manual_seed(seed)
        view = _View(generator, self.plan.data.image_size)
        classes = [view(self._images[rows])[:, 0] for rows in self._cast(generator)]
        counted_on = self.plan.warm.patients or self.plan.aggregation.min_sites * self.plan.data.min_patients
        least, most = SIZES
        share = float(torch.rand((), generator=generator))
        patients, exact = counted_on * least * (most / least) ** share, number % _EXACT == 0
        random = np.random.default_rng(seed)
        start = closed_form(self.plan, classes, patients, {} if exact else self.noises, random, public=self._public)
        kept = [images[torch.randperm(len(images), generator=generator)[:KEPT]].clone() for images in classes]
        return Rehearsal(start=start, images=kept, patients=patients, exact=exact)

    def seen(self, number: int, *, most: int) -> Tensor:
        """Images [n, size, size] of one class of a simulated hospital, by its own view.

        Args:
            number: Of the hospital; those that are rehearsed with are others.
            most: Images at most.
        """
        generator = torch.Generator().manual_seed((int(self.plan.digest[12:24], 16) + 1_000_003 * number) % 2**63)
        view = _View(generator, self.plan.data.image_size)
        rows = self._cast(generator)[0]
        return view(self._images[rows[torch.randperm(len(rows), generator=generator)[:most]]])[:, 0]

    def _cast(self, generator: torch.Generator) -> list[Tensor]:
        """Rows of the public images that each class of a rehearsal consists of."""
        kinds = self._labels.unique()  # type: ignore[no-untyped-call]
        rows = []
        for _ in range(self.plan.data.classes):
            kind = kinds[torch.randint(len(kinds), (), generator=generator)]
            mine = torch.nonzero(self._labels == kind)[:, 0]
            along = self._places[mine] @ torch.randn(self._places.shape[1], generator=generator)
            along = along + 0.5 * torch.randn(len(mine), generator=generator)
            worth = _WORTH[int(torch.randint(len(_WORTH), (), generator=generator))]
            count = max(min(_LEAST_IMAGES, len(mine)), min(worth, len(mine) // 2))
            rows.append(mine[along.topk(count).indices])
        return rows


class _View:
    """How a rehearsed study sees images: an affine map, a gamma and a contrast, the same for all of its images.

    Larger images are made small after the map. Interpolation is cubic: linear takes 3 decibels off the finest octave,
    and a net that never saw ribs draws none.
    """

    def __init__(self, generator: torch.Generator, size: int) -> None:
        self._size = size

        def between(least: float, most: float) -> float:
            return least + (most - least) * float(torch.rand((), generator=generator))

        self._map = torch.tensor([
            [between(0.8, 1.15), between(-0.05, 0.05), between(-0.12, 0.12)],
            [between(-0.05, 0.05), between(0.8, 1.15), between(-0.12, 0.12)],
        ])  # fmt: skip
        self._gamma = math.exp(between(-0.5, 0.5))
        self._contrast, self._shift = between(0.75, 1.15), between(-0.08, 0.08)

    def __call__(self, images: Tensor) -> Tensor:
        """The view of images [n, 1, any, any], at the plan's size."""
        grid = functional.affine_grid(self._map[None], [1, 1, *images.shape[2:]], align_corners=False)
        seen = functional.grid_sample(
            images, grid.expand(len(images), -1, -1, -1), mode="bicubic", padding_mode="border", align_corners=False
        )
        if seen.shape[-1] != self._size:
            seen = functional.interpolate(seen, size=(self._size, self._size), mode="area")
        light = ((seen + 1.0) / 2.0).clamp(0.0, 1.0) ** self._gamma
        light = 0.5 + (light - 0.5) * self._contrast + self._shift
        return (2.0 * light - 1.0).clamp(-1.0, 1.0)


def closed_form(
    plan: StudyPlan,
    classes: list[Tensor],
    patients: float,
    noises: dict[str, float],
    random: np.random.Generator,
    *,
    public: Weights | None = None,
) -> ClassStart:
    """The start that a study's two moments rounds would give for these images, each class with an even share.

    Args:
        plan: The study plan.
        classes: Images of each class, [n, size, size]; each stands for a patient.
        patients: Patients of all classes together that the noise is divided by.
        noises: Standard deviation of the noise of one site on each value of a release, by phase; none is added where it
            is empty.
        random: Draws the noise.
        public: A closed form that holds the study's public directions, where it has some.
    """
    public = public or {}
    size, sites = plan.data.image_size, math.sqrt(plan.aggregation.min_sites)
    each, bound = patients / len(classes), plan.privacy.mean_clip
    spectra = [coefficients(images.numpy(), base=size) for images in classes]

    def released(phase: str, rows: list[Array], weight: float) -> tuple[Array, Array, float]:
        noise = noises.get(phase, 0.0) * sites
        values = np.stack(rows) * each
        values = values + noise * random.standard_normal(values.shape)
        return np.full(len(rows), each) + noise / weight * random.standard_normal(len(rows)), values, noise

    off = coefficients(public["public_mean"].reshape(1, size, size), base=size) if plan.warm.directions else 0.0
    means = released("means", [clip(own - off, bound).mean(axis=0) for own in spectra], COUNT_WEIGHT * bound)
    found = class_moments.means(plan, public, *means)
    centres = coefficients(found["mean"].astype(np.float32).reshape(-1, size, size), base=size)
    rows = [_scatter(plan, own - centre, public) for own, centre in zip(spectra, centres, strict=True)]
    found |= class_moments.scatters(plan, public, *released("scatters", rows, COUNT_WEIGHT))
    start = start_of(plan)
    arrays = {name: torch.from_numpy(value.astype(np.float32)) for name, value in found.items()}
    start.load_state_dict({**start.state_dict(), **arrays})
    assert isinstance(start, ClassStart)
    return start


def _scatter(plan: StudyPlan, deviations: Array, public: Weights) -> Array:
    """Mean over images of what a hospital sums in phase "scatters", without the count."""
    held, bound = np.full(len(deviations), 1.0 / len(deviations)), plan.privacy.deviation_clip
    if not plan.warm.directions:
        return class_scatter(clip(deviations / bound, 1.0), held, base=plan.model.base)
    size = plan.data.image_size
    axes = coefficients(public["public_basis"].T.reshape(-1, size, size), base=size) * size
    along = deviations @ axes.T
    return directed_scatter(along, deviations - along @ axes, held, clip_at=bound)
