"""A candidate: the finished model, images it drew, and what was learnt from those images alone."""

from dataclasses import dataclass

from torch import Tensor

from client.evaluation.tstr import Classifier
from common.model.generator import Generator


@dataclass(frozen=True)
class Candidate:
    """What a site is asked to judge. No scan of any site entered it.

    Attributes:
        digest: Of the decoder.
        model: The finished model.
        images: [n, size, size] in [-1, 1].
        labels: [n] int64.
        classifier: Trained on images and labels; None for a study without labels.
    """

    digest: str
    model: Generator
    images: Tensor
    labels: Tensor
    classifier: Classifier | None
