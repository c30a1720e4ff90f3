"""The fixed judges of the quality table: what each data set's synthetic images are measured by.

No judge is ever selected, stopped or tuned on the test part; each runs a fixed number of epochs from its own seed.

    fashion-mnist, mnist   accuracy on all real test images of a small CNN trained on synthetic images (TSTR)
    pneumonia              area under the ROC curve on the real test images of `classifier.judge`, trained likewise
    mednist                share of synthetic images whose label a CNN trained on real images reads as their own

Beside it stands the Frechet distance between synthetic and real test images in the features of `common.images.encoder`,
both with the test part's share of each label.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.evaluation.fidelity import frechet
from common.images.encoder import features
from common.images.pixels import unit_to_uint8
from common.model.synthesis import Decoder
from tests.benchmarks import classifier
from tests.benchmarks.quality_data import data_set

Labelled = tuple[Tensor, Tensor]
"""Images [n, 1, size, size] float32 in [-1, 1], labels [n] int64."""

NAME = {
    "fashion-mnist": "TSTR accuracy, CNN 32-64-128, 5 epochs",
    "mnist": "TSTR accuracy, CNN 32-64-128, 5 epochs",
    "pneumonia": "TSTR AUC, CNN 16-32-64, 5 epochs",
    "mednist": "label readable, CNN 32-64-128 on 6000 real images, 5 epochs",
}
DRAWN = {"fashion-mnist": 60_000, "mnist": 60_000, "pneumonia": 20_000, "mednist": 6_000}
EPOCHS = 5
BATCH = 100
READER_IMAGES = 6_000
_AT_ONCE = 500


def synthetic(data: str, decoder: Decoder, count: int, *, seed: int) -> dict[str, Any]:
    """Measure a released decoder.

    Args:
        data: A key of `NAME`.
        decoder: The release.
        count: Images drawn, the same number of each label.
        seed: Of the draw and the judge.

    Returns:
        "score" in [0, 1] and "frechet", 0 or more.
    """
    return _measured(data, drawn(decoder, count, seed=seed), seed=seed)


def drawn(decoder: Decoder, count: int, *, seed: int) -> Labelled:
    """The images of a release that the judges see: `count` in all, the same number of each label, 8-bit grey."""
    each = count // len(decoder.labels)
    images = torch.cat([torch.stack(list(decoder.draw(label, each, seed=seed))) for label in decoder.labels])
    return eight_bit(images)[:, None], torch.arange(len(decoder.labels)).repeat_interleave(each)


def real(data: str, *, count: int, seed: int) -> dict[str, Any]:
    """The same figures for the real training images, at most `count` of them: what there is to reach."""
    images, labels = data_set(data).train.unit()
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    return _measured(data, (images[chosen], labels[chosen]), seed=seed)


def _measured(data: str, images: Labelled, *, seed: int) -> dict[str, Any]:
    test = data_set(data).test.unit()
    distance = frechet(features(test[0]), features(alike(images, test[1])))
    score = accuracy(reader(data, seed), images) if data == "mednist" else pupil(data, images, seed=seed)(test)
    return {"score": round(score, 5), "frechet": round(distance, 5)}


def pupil(data: str, images: Labelled, *, seed: int) -> Callable[[Labelled], float]:
    """A classifier trained on the images, as what tells its score on real ones: an AUC for pneumonia, else accuracy.

    Args:
        data: A key of `NAME` but mednist, whose judge is trained on real images.
        images: What it learns.
        seed: Of weights, order and dropout.
    """
    if data == "pneumonia":
        net = classifier.trained(*images, seed=seed)
        return lambda real: classifier.area(net, *real)
    return partial(accuracy, trained(images, seed=seed))


def eight_bit(images: Tensor) -> Tensor:
    """Images as they leave as DICOM: 8-bit grey, and back to [-1, 1]; the real ones are of that kind too."""
    return torch.from_numpy(unit_to_uint8(images).astype(np.float32) / 127.5 - 1)


def alike(images: Labelled, test_labels: Tensor) -> Tensor:
    """The first images of each label, in the test part's own shares, as many as there are of every label."""
    wanted = torch.bincount(test_labels)
    have = torch.bincount(images[1], minlength=len(wanted))
    scale = min(1.0, float((have / wanted).min()))
    rows = [torch.nonzero(images[1] == label)[: int(scale * count), 0] for label, count in enumerate(wanted.tolist())]
    return images[0][torch.cat(rows)]


@lru_cache(maxsize=4)
def reader(data: str, seed: int) -> nn.Module:
    """The CNN that reads labels, trained on real images."""
    images, labels = data_set(data).train.unit()
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:READER_IMAGES]
    return trained((images[chosen], labels[chosen]), seed=seed)


def trained(images: Labelled, *, seed: int) -> nn.Module:
    """A CNN trained on the images: two strided convolutions of 32 and 64 channels, 128 hidden, dropout 0.2, Adam 1e-3.

    Args:
        images: What it learns.
        seed: Of weights, order and dropout.
    """
    torch.manual_seed(seed)
    side, classes = -(-images[0].shape[-1] // 4), int(images[1].max()) + 1
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * side**2, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, classes),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images[1])).split(BATCH):
            loss = nn.functional.cross_entropy(net(images[0][chosen]), images[1][chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def accuracy(net: nn.Module, test: Labelled) -> float:
    """Share of images whose label the net reads."""
    with torch.no_grad():
        read = torch.cat([net(part).argmax(1) for part in test[0].split(_AT_ONCE)])
    return float((read == test[1]).float().mean())
