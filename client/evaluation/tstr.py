"""What can be learnt from the synthetic images: a small classifier trained on them and tested on held-out patients.

"TSTR" trains on synthetic and tests on real; "TRTR" trains on the site's own training patients. The classifier, its
epochs and its learning rate are fixed and were never tuned on a test set.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.evaluation.intervals import Figure, bootstrap
from client.evaluation.nearness import membership_area
from common.model.seeded import seeded

EPOCHS, BATCH = 6, 100
_SIDE = 32


class Classifier:
    """A small convolutional network, trained once on labelled images.

    Args:
        images: [n, size, size] in [-1, 1].
        labels: [n] int64.
        classes: Number of classes.
        seed: Initial weights and order.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, classes: int, seed: int = 0) -> None:
        self.classes = classes
        with seeded(seed):
            self._net = _train(_small(images), labels, classes)

    def probabilities(self, images: Tensor) -> NDArray[np.float64]:
        """[n, classes] float64, rows sum to 1."""
        with torch.no_grad():
            parts = [self._net(part).double().softmax(1) for part in torch.split(_small(images), 512)]
        return torch.cat(parts).numpy()


def area(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve, each label that occurs against the rest, averaged; NaN below two labels."""
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    asked = present[1:] if probabilities.shape[1] == 2 else present
    areas = [membership_area(probabilities[labels == i, i], probabilities[labels != i, i]) for i in asked]
    return float(np.mean(areas))


def auc(probabilities: NDArray[np.float64], labels: NDArray[np.int64], patients: NDArray[np.intp]) -> Figure:
    """`area` with its interval over patients.

    Args:
        probabilities: Probability of each label, [n, labels].
        labels: True label of each image, [n].
        patients: Index of each image's patient, [n].
    """
    return bootstrap(lambda rows: area(probabilities[rows], labels[rows]), patients)


def accuracy(probabilities: NDArray[np.float64], labels: NDArray[np.int64], patients: NDArray[np.intp]) -> Figure:
    """Share of right answers, with its interval over patients.

    Args:
        probabilities: Probability of each label, [n, labels].
        labels: True label of each image, [n].
        patients: Index of each image's patient, [n].
    """
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    return bootstrap(lambda rows: float(right[rows].mean()), patients)


def _small(images: Tensor) -> Tensor:
    stack = images.unsqueeze(1)
    if stack.shape[-1] <= _SIDE:
        return stack
    return nn.functional.interpolate(stack, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)


def _train(images: Tensor, labels: Tensor, classes: int) -> nn.Module:
    side = images.shape[-1]
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * ((side + 3) // 4) ** 2, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, classes),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for chosen in torch.split(torch.randperm(len(images)), BATCH):
            noisy = images[chosen] + 0.1 * torch.randn(images[chosen].shape)
            loss = nn.functional.cross_entropy(net(noisy), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()
