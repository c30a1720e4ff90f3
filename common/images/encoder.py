"""The feature encoder that image sets are compared in: small, ours, trained on public phantoms, the same for everyone.

Its weights lie in `common/data/features.safetensors` and name their digest; `python scripts/train_features.py` makes
them again. No image of any patient entered them, and no site can change them, so a distance between two sets means the
same at every hospital. A distance in these features is never called FID: that name belongs to Inception-v3.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from common.model.weights import Weights, digest, read, write

NAME = "wardround phantom encoder 1"
SIDE = 32
"""Pixels that every image is resized to before it is encoded."""
FEATURES = 64
WEIGHTS = Path(__file__).parent / "data" / "features.safetensors"
_AT_ONCE = 256


class Encoder(nn.Module):
    """Three strided convolutions, a mean and a deviation over the picture, one linear layer.

    Args:
        targets: Numbers the training head predicts; 0 leaves the head out.
    """

    def __init__(self, *, targets: int = 0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.GELU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.GELU(),
        )  # fmt: skip
        self.project = nn.Linear(64 * (SIDE // 8) ** 2 + 2 * 24, FEATURES)
        self.head = nn.Linear(FEATURES, targets) if targets else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, 64] of images [n, 1, 32, 32] in [-1, 1]."""
        fine = self.body[1](self.body[0](images))
        coarse = self.body[2:](fine)
        texture = torch.cat([fine.mean((2, 3)), fine.std((2, 3))], dim=1)
        features: Tensor = functional.gelu(self.project(torch.cat([coarse.flatten(1), texture], dim=1)))
        return features


@functools.cache
def encoder() -> Encoder:
    """Load the encoder; raises `CheckpointCorrupt` when its file is absent or altered."""
    weights, _ = read(WEIGHTS)
    with torch.device("meta"):  # draws no first weights: another thread may have seeded PyTorch's generator
        model = Encoder()
    found = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    model.load_state_dict(found, strict=True, assign=True)
    return model.eval()


def encoder_digest() -> str:
    """Digest of the encoder's weights, to be named with every figure that was computed with it."""
    return digest(read(WEIGHTS)[0])


def save_encoder(model: Encoder, path: Path = WEIGHTS) -> str:
    """Write the encoder without its training head; return the digest."""
    state = {k: v.detach().numpy() for k, v in model.state_dict().items() if not k.startswith("head.")}
    arrays: Weights = {name: np.asarray(value, np.float32) for name, value in state.items()}
    return write(arrays, path, metadata={"name": NAME})


def features(images: Tensor) -> NDArray[np.float64]:
    """Encode images for comparison.

    Args:
        images: [n, size, size] or [n, 1, size, size], float32 in [-1, 1].

    Returns:
        [n, 64] float64.
    """
    stack = images if images.ndim == 4 else images.unsqueeze(1)
    model = encoder()
    with torch.no_grad():
        parts = [model(resized(part)).double() for part in torch.split(stack, _AT_ONCE)]
    return torch.cat(parts).numpy() if parts else np.zeros((0, FEATURES))


def resized(images: Tensor) -> Tensor:
    """[n, 1, size, size] to [n, 1, 32, 32], antialiased."""
    if images.shape[-1] == SIDE:
        return images
    return functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
