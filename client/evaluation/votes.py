"""The one thing that leaves a site from its evaluation: yes, or the type of a no, from noised counts of patients.

Formal guarantee
    Neighbouring relation: add or remove all images of one patient. Each patient casts a vector of three votes, and the
    site adds the vectors up:

    fidelity      share of the patient's images within reach of a synthetic one, less the plan's threshold
    utility       share of them that a classifier trained on synthetic images alone gets right, less its threshold
    memorisation  odds (max_copied - near) of a patient who trained, near of one who was set aside, with near the share
                  of the patient's images nearer than `near_rmse` to a synthetic one, and odds those of being set
                  aside, at most 1

    The reach, the classifier and the images a patient is compared with follow from the candidate alone. The numbers
    of an image are bitwise independent of other patients (`client.evaluation.yardstick`). So a vote depends on no other
    patient. Patients who trained cast no votes on the first two. Every entry lies in [-1, 1], so one patient moves the
    sum by at most sqrt(3) in L2 norm. Gaussian noise of standard deviation sigma sqrt(3) on each entry makes it one
    Gaussian event of multiplier sigma, which is booked. What follows is post-processing: an entry more than two
    standard deviations of its noise below 0 is a no, and the first no is the verdict. So each entry refuses a faultless
    candidate by chance at most 2.3 % of the time. A fault shows if it concerns more than about 2 sigma sqrt(3)
    patients. A site of fewer can hardly judge, and its yes means little.

    "near" compares with the candidate images and with the model's own reconstruction of the image, the nearest picture
    that the decoder is known to draw. Held-out patients count against training ones: where all patients look alike,
    or a picture occurs twice, both come near, and nothing follows.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cohort.cache import Cache
from client.evaluation.candidate import Candidate
from client.evaluation.fidelity import radii
from client.evaluation.yardstick import Yardstick, shares, slots_of
from client.mechanism.randomness import SecureRandom
from common.plan.study_plan import StudyPlan
from common.wire.verdicts import PASSED

CRITERIA = ("FidelityTooLow", "UtilityTooLow", "MemorisationFound")
"""Types of a no (`common.errors`), in the order of the votes."""
SENSITIVITY = math.sqrt(len(CRITERIA))
MARGIN = 2.0
"""Standard deviations of the noise below 0 at which a sum of votes is a no."""


def tally(plan: StudyPlan, candidate: Candidate, trained: Cache, held_out: Cache) -> NDArray[np.float64]:
    """The sum of all votes [3] before noise. Never leaves the site.

    Args:
        plan: The approved plan.
        candidate: The finished model and the images it drew.
        trained: Patients who trained.
        held_out: Held-out patients.
    """
    rules = plan.evaluation
    yardstick, slots = Yardstick.of(candidate), slots_of(plan, candidate)
    reach = torch.from_numpy(rules.reach * radii(yardstick.features.rows.numpy()))

    def near(images: Tensor, labels: Tensor) -> NDArray[np.bool_]:
        """Whether something that the decoder draws comes near to each image, [n, 1]."""
        return (yardstick.in_pixels(images, labels) < rules.near_rmse).any(1, keepdim=True).numpy()

    def all_three(images: Tensor, labels: Tensor) -> NDArray[np.bool_]:
        reached = (yardstick.in_features(images) < reach).any(1, keepdim=True).numpy()
        right = np.zeros_like(reached)
        if candidate.classifier is not None:
            right = yardstick.probabilities(images).numpy().argmax(1, keepdims=True) == labels.numpy()[:, None]
        return np.concatenate([reached, right, near(images, labels)], axis=1)

    min_utility = 0.0 if candidate.classifier is None else rules.min_utility
    held = shares(held_out, all_three, slots=slots) - (rules.min_fidelity, min_utility, 0.0)
    copied = shares(trained, near, slots=slots) - rules.max_copied
    total: NDArray[np.float64] = held.sum(axis=0)
    total[2] -= rules.held_out_share / (1 - rules.held_out_share) * copied.sum()
    return total


def decide(total: NDArray[np.float64], random: SecureRandom, *, sigma: float, labelled: bool) -> str:
    """Add the booked noise and return "passed" or the type of the first no; without labels, none on utility.

    Args:
        total: The sums of all votes, [3].
        random: The site's source of noise.
        sigma: Noise multiplier that was booked.
        labelled: Whether the plan has labels.
    """
    spread = sigma * SENSITIVITY
    noised = total + random.normal(total.shape, std=spread)
    for name, value in zip(CRITERIA, noised, strict=True):
        if value < -MARGIN * spread and (labelled or name != "UtilityTooLow"):
            return name
    return PASSED
