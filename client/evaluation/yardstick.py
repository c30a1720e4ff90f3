"""How an image compares with a candidate: the numbers that votes are made of, bitwise independent of other patients.

Formal guarantee
    The numbers of an image follow from that image, its label and the candidate alone, to the last bit. A library is
    free to round an image by its batch, and a server can send weights and images that make rounding decide. One
    patient could then turn the votes of all others. So every pass has one shape, filled up with blank images. Before
    the first pass, the site tests that images in a pass are bitwise independent, as in training
    (`client.mechanism.isolation`). The test uses a model, candidate images and a classifier of random numbers, of just
    these shapes. If it fails, fewer images share a pass; in the end each has its own.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.cohort.cache import Cache
from client.cohort.image_blocks import mean_by_patient, parts
from client.evaluation.candidate import Candidate
from client.evaluation.nearness import Points
from client.evaluation.tstr import Classifier
from client.mechanism.isolation import errors, most_apart
from client.mechanism.patient_views import images_at_once
from common.images.encoder import features
from common.model.generator import Generator
from common.plan.study_plan import StudyPlan

Ballot = Callable[[Tensor, Tensor], NDArray[np.bool_]]
"""Of a pass's images [slots, size, size] and labels [slots]: what holds of each image, [slots, m]."""


@dataclass(frozen=True)
class Yardstick:
    """A candidate to compare images with; what depends on the candidate alone is computed once.

    Attributes:
        model: The finished model.
        classifier: Trained on the candidate's images; None for a study without labels.
        features: Of the candidate's images, [m, 64].
        pictures: The candidate's images, [m, size * size].
    """

    model: Generator
    classifier: Classifier | None
    features: Points
    pictures: Points

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """Make a candidate ready to be compared with."""
        encoded = Points.of(torch.from_numpy(features(candidate.images)))
        return cls(candidate.model, candidate.classifier, encoded, Points.of(candidate.images))

    def in_features(self, images: Tensor) -> Tensor:
        """Distances [n, m] in the encoder's features from each image [n, size, size] to each of the candidate's."""
        return self.features.squared_distances(torch.from_numpy(features(images))).sqrt()

    def in_pixels(self, images: Tensor, labels: Tensor) -> Tensor:
        """Distances [n, m + 1], root mean square per pixel: to each candidate image, and to what the model redraws."""
        pixels = images[0].numel()
        drawn = self.pictures.squared_distances(images)
        rebuilt = self.model.reconstruct(images.unsqueeze(1), labels).clamp(-1, 1)[:, 0]
        own = (rebuilt - images).flatten(1).double().square().sum(1, keepdim=True)
        return torch.cat([drawn, own], dim=1).div(pixels).sqrt()

    def probabilities(self, images: Tensor) -> Tensor:
        """Of each label, [n, classes]; [n, 0] for a study without labels."""
        if self.classifier is None:
            return torch.zeros(len(images), 0)
        return torch.from_numpy(self.classifier.probabilities(images))


def shares(cohort: Cache, ballot: Ballot, *, slots: int) -> NDArray[np.float64]:
    """Share [patients, m] of each patient's images for which something holds, in passes of `slots` images each.

    Args:
        cohort: The patients and their images.
        ballot: What is asked of each image.
        slots: Images of one pass, a public number.
    """
    size = cohort.image_size
    held: list[NDArray[np.bool_]] = []
    owners = [np.zeros(0, np.intp)]
    for part in parts(cohort, at_once=slots):
        count = len(part.labels)
        images = torch.cat([part.images, torch.zeros(slots - count, size, size)])
        labels = torch.cat([part.labels, part.labels.new_zeros(slots - count)])
        held.append(ballot(images, labels)[:count])
        owners.append(part.patients)
    if not held:
        return np.zeros((0, 1))
    return mean_by_patient(np.concatenate(held).astype(np.float64), np.concatenate(owners), patients=cohort.patients)


def slots_of(plan: StudyPlan, candidate: Candidate) -> int:
    """Images of each pass: as many as this machine keeps apart to the last bit, and no more than memory is for."""
    work = partial(_everything, Yardstick.of(_stand_in(candidate)))
    most = images_at_once(plan.data.image_size)
    return most_apart(plan, work, slots=most, each=1, device=torch.device("cpu"))


def _everything(
    stand_in: Yardstick, model: Generator, images: Tensor, labels: Tensor, noise: Tensor, shares: Tensor, *, slots: int
) -> list[Tensor]:
    """What a pass says of each image, before anything is compared with a threshold that could hide its rounding."""
    yardstick, pictures = dataclasses.replace(stand_in, model=model), images[:, 0]
    return [
        yardstick.in_features(pictures),
        yardstick.in_pixels(pictures, labels),
        yardstick.probabilities(pictures),
        *errors(model, images, labels, noise, shares, slots=slots),
    ]


def _stand_in(candidate: Candidate) -> Candidate:
    """A candidate of the same shapes and of random numbers, so that no server chooses what is tried."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(candidate.images.shape, generator=generator) * 2 - 1
    classifier = candidate.classifier
    if classifier is not None:
        few = torch.arange(8) % classifier.classes
        classifier = Classifier(images[: len(few)], few[: len(images)], classes=classifier.classes)
    return Candidate("", candidate.model, images, candidate.labels, classifier)
