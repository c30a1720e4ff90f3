"""The one thing that leaves a site from its evaluation: yes, or the type of a no, from noised counts of patients.

Formal guarantee
    Neighbouring relation: add or remove all images of one patient. Each patient casts a vector of three votes, and the
    site adds the vectors up:

    fidelity      share of the patient's images within reach of a synthetic one, less the plan's threshold
    utility       share of them that a classifier trained on synthetic images alone gets right, less its threshold
    memorisation  odds (max_copied - near) of a patient who trained, near of one who was set aside, with near the share
                  of the patient's images nearer than `near_rmse` to a synthetic one, and odds those of being set
                  aside, at most 1

    The reach, the classifier and the images a patient is compared with follow from the candidate alone, so a vote
    depends on nobody else. Patients who trained cast no votes on the first two. Every entry lies in [-1, 1], so one
    patient moves the sum by at most sqrt(3) in L2 norm, and Gaussian noise of standard deviation sigma sqrt(3) on each
    entry makes it one Gaussian event of multiplier sigma, which is booked. What follows is post-processing: an entry
    more than two standard deviations of its noise below 0 is a no, and the first no is the verdict. So a faultless
    candidate is refused by chance at most 2.3 % of the time by each entry, and a fault shows where it concerns more
    than about 2 sigma sqrt(3) patients: a site of fewer can hardly judge, and its yes means little.

    "near" compares with the candidate images and with the model's own reconstruction of the image, the nearest picture
    that the decoder is known to draw. Held-out patients count against training ones: where all patients look alike,
    or a picture occurs twice, both come near, and nothing follows.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client.cache import Cache
from client.evaluation.fidelity import inside, radii
from client.evaluation.nearness import nearest
from client.evaluation.parts import Part, parts
from client.evaluation.utility import Classifier
from client.randomness import SecureRandom
from common.encoder import features
from common.evaluation_plan import EvaluationPlan
from common.vae import Vae
from common.verdicts import PASSED

CRITERIA = ("FidelityTooLow", "UtilityTooLow", "MemorisationFound")
"""Types of a no (`common.errors`), in the order of the votes."""
SENSITIVITY = math.sqrt(len(CRITERIA))
MARGIN = 2.0
"""Standard deviations of the noise below 0 at which a sum of votes is a no."""


@dataclass(frozen=True)
class Candidate:
    """What a site is asked to judge: the model, images it drew, and what was learnt from those images alone.

    Attributes:
        digest: Of the decoder.
        model: The finished model.
        images: [n, size, size] in [-1, 1].
        labels: [n] int64.
        classifier: Trained on images and labels; None for a study without labels.
    """

    digest: str
    model: Vae
    images: Tensor
    labels: Tensor
    classifier: Classifier | None


def tally(plan: EvaluationPlan, candidate: Candidate, trained: Cache, held_out: Cache) -> NDArray[np.float64]:
    """The sum of all votes [3] before noise. Never leaves the site."""
    total = np.zeros(len(CRITERIA))
    synthetic = features(candidate.images)
    reach = plan.reach * radii(synthetic)
    weight = plan.held_out_share / (1 - plan.held_out_share)
    for part in parts(held_out):
        total[0] += part.shares(inside(features(part.images), synthetic=synthetic, reach=reach), plan.min_fidelity)
        if candidate.classifier is not None:
            right = candidate.classifier.probabilities(part.images).argmax(1) == part.labels.numpy()
            total[1] += part.shares(right, plan.min_utility)
        total[2] += part.shares(near(plan, candidate, part), 0.0)
    for part in parts(trained):
        total[2] -= weight * part.shares(near(plan, candidate, part), plan.max_copied)
    return total


def near(plan: EvaluationPlan, candidate: Candidate, part: Part) -> NDArray[np.bool_]:
    """Whether something that the decoder draws comes near to each image [n]."""
    drawn = nearest(part.images, among=candidate.images)
    rebuilt = candidate.model.reconstruct(part.images.unsqueeze(1), part.labels).clamp(-1, 1)[:, 0]
    own = (rebuilt - part.images).flatten(1).double().square().mean(1).sqrt().numpy()
    close: NDArray[np.bool_] = np.minimum(drawn, own) < plan.near_rmse
    return close


def decide(total: NDArray[np.float64], random: SecureRandom, *, sigma: float, labelled: bool) -> str:
    """Add the booked noise and return "passed" or the type of the first no; without labels nobody votes on utility."""
    spread = sigma * SENSITIVITY
    noised = total + random.normal(total.shape, std=spread)
    for name, value in zip(CRITERIA, noised, strict=True):
        if value < -MARGIN * spread and (labelled or name != "UtilityTooLow"):
            return name
    return PASSED
