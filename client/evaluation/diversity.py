"""How different the images of one set are from each other: mean MS-SSIM of random pairs, within and between labels.

1 means all alike. The figure of a synthetic set is read against that of real images: well above it is collapse.
"""

import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric
from torch import Tensor

PAIRS = 200
_KERNEL = 5
_WEIGHTS = (0.0448, 0.2856, 0.3001)
"""The first three scales of Wang et al. 2003; the images are too small for all five."""


def ms_ssim(images: Tensor, labels: Tensor, *, between: bool, seed: int = 0) -> float:
    """Mean MS-SSIM of up to `PAIRS` random pairs.

    Args:
        images: [n, size, size] in [-1, 1].
        labels: [n] int64.
        between: Pairs of different labels; else pairs of one label.
        seed: Of the choice of pairs.

    Returns:
        From -1 to 1; NaN where there is no such pair.
    """
    first, second = _pairs(labels.numpy(), between=between, seed=seed)
    if not len(first):
        return float("nan")
    total = sum(_WEIGHTS)
    scales = [weight / total for weight in _WEIGHTS]
    side = images.shape[-1]
    while (side // 2 ** (len(scales) - 1)) < _KERNEL:
        scales = scales[:-1]
    metric = MultiScaleSSIMMetric(
        spatial_dims=2, data_range=2.0, kernel_type="uniform", kernel_size=_KERNEL,
        weights=[weight / sum(scales) for weight in scales],
    )  # fmt: skip
    values = metric(images[first].unsqueeze(1) + 1.0, images[second].unsqueeze(1) + 1.0)
    return float(torch.nanmean(torch.as_tensor(values)))


def _pairs(labels: np.ndarray, *, between: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if len(labels) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    random = np.random.default_rng(seed)
    first, second = random.integers(0, len(labels), (2, 8 * PAIRS))
    right = (first != second) & ((labels[first] != labels[second]) == between)
    return first[right][:PAIRS], second[right][:PAIRS]
