"""The fixed judge of synthetic images: a small CNN trained on them and tested on real ones, never tuned on the test."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

EPOCHS = 5
BATCH = 100


def judge(images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor, *, seed: int) -> float:
    """Train on (images, labels), return the area under the ROC curve on the test set.

    Args:
        images: [n, 1, size, size] in [-1, 1].
        labels: [n] int64, 0 or 1.
        test_images: [m, 1, size, size] in [-1, 1].
        test_labels: [m] int64.
        seed: Initial weights and order.

    Returns:
        AUC of class 1, after a fixed number of epochs.
    """
    return area(trained(images, labels, seed=seed), test_images, test_labels)


def trained(images: Tensor, labels: Tensor, *, seed: int) -> nn.Module:
    """The judge's CNN after its epochs on (images, labels); arguments as in `judge`."""
    torch.manual_seed(seed)
    size = images.shape[-1]
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            noisy = images[chosen] + 0.1 * torch.randn(images[chosen].shape)
            loss = nn.functional.cross_entropy(net(noisy), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def area(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """AUC of class 1 that a trained net has on images; arguments as in `judge`."""
    with torch.no_grad():
        scores = net(images).softmax(1)[:, 1].numpy()
    return float(roc_auc_score(labels.numpy(), scores))


def spread(values: list[float]) -> str:
    """Mean and range of a few runs."""
    return f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"
