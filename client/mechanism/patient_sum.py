"""The half of a mechanism that adds up one vector of each patient, and noises the sum once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.cohort.cache import Cache
from client.cohort.image_blocks import parts
from client.mechanism.grid import patients
from client.mechanism.half import Work, half_of, sum_half
from client.mechanism.randomness import SecureRandom
from common.errors import PlanError
from common.mechanism.mechanism import RELEASE, Array
from common.mechanism.registry import release_length
from common.model.weights import Weights
from common.plan.schedule import Round
from common.plan.study_plan import StudyPlan

_IMAGES_AT_ONCE = 256

Contribution = Callable[[StudyPlan, Weights, NDArray[np.float32], NDArray[np.int64], Array], Array]
"""From plan, weights, images [n, size, size], labels [n] and each image's share of its patient [n] to the sum of their
vectors, each weighed by its share."""


@dataclass(frozen=True)
class PatientSum:
    """Sums over patients of the mean of each patient's vectors, whose L2 norms are at most the mechanism's sensitivity.

    Attributes:
        contribute: Sums the vectors of some images.
    """

    contribute: Contribution

    def total(self, plan: StudyPlan, phase: str, weights: Weights, cache: Cache) -> Array:
        """The sum over all patients before noise, float64 [release_length]. Never leaves the site.

        Args:
            plan: The site's own approved copy.
            phase: Of the round.
            weights: What the server sent.
            cache: The patients.
        """
        total = np.zeros(release_length(plan, phase))
        for part in parts(cache, at_once=_IMAGES_AT_ONCE):
            total += self.contribute(plan, weights, part.images.numpy(), part.labels.numpy(), part.shares)
        return total

    def noised(self, plan: StudyPlan, step: Round, weights: Weights, cache: Cache, random: SecureRandom) -> Weights:
        """The sum with its noise: the only array of this round that may leave.

        Args:
            plan: The site's own approved copy.
            step: The round, as it is booked.
            weights: What the server sent.
            cache: The patients who are booked.
            random: Source of the noise.
        """
        mine = _Mine(self, plan, step, weights, cache)
        return {RELEASE: sum_half(plan).released(mine, plan=plan, step=step, random=random)}

    def release(self, work: Work) -> Weights:
        """See `client.mechanism.half.Half`."""
        return self.noised(work.plan, work.step, work.weights, work.cohort, work.random)


@dataclass(frozen=True)
class _Mine:
    """See `client.mechanism.half.Contributions`."""

    half: PatientSum
    plan: StudyPlan
    step: Round
    weights: Weights
    cache: Cache

    def total(self) -> Array:
        return self.half.total(self.plan, self.step.phase, self.weights, self.cache)

    def vectors(self) -> Iterator[Array]:
        for images, labels in patients(self.cache):
            share = np.full(len(images), 1.0 / len(images))
            yield self.half.contribute(self.plan, self.weights, images, labels, share)


def release(plan: StudyPlan, step: Round, weights: Weights, cache: Cache, random: SecureRandom) -> Weights:
    """What a round that sums over patients releases; raises `PlanError` for one that does not."""
    return _half(step).noised(plan, step, weights, cache, random)


def patient_sum(plan: StudyPlan, step: Round, weights: Weights, cache: Cache) -> Array:
    """The same sum before its noise, float64 [release_length]. Never leaves the site."""
    return _half(step).total(plan, step.phase, weights, cache)


def _half(step: Round) -> PatientSum:
    half = half_of(step.phase)
    if not isinstance(half, PatientSum):
        raise PlanError(f"round {step.number} ({step.phase}) releases no sum over patients")
    return half
