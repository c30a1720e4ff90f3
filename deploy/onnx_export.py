"""The decoder as ONNX, for software without PyTorch, compared with the original before it is kept."""

import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.bundle import Bundle
from common.errors import StateError
from common.files import write_atomically
from common.vae import Vae

OPSET = 18
LARGEST_DIFFERENCE = 1e-4
"""Most that a pixel, image units in [-1, 1], may differ from PyTorch's."""
_CHECKED = 32


class _Exported(nn.Module):
    def __init__(self, model: Vae, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, latent: Tensor, label: Tensor, component: Tensor) -> Tensor:
        return self.model.decode_latents(latent * self.temperature, label, component).clamp(-1.0, 1.0)


def export(bundle: Path, out: Path, *, trusted: str = "") -> dict[str, Any]:
    """Write the decoder of a release as one ONNX file.

    Inputs are `latent` [n, k] float32, standard normal, `label` [n] int64 and `component` [n] int64, to be drawn by the
    label's weights; the output `image` is [n, 1, size, size] float32 in [-1, 1]. Study, digests, labels and the weights
    of each label's components (JSON) are in the file's metadata.

    Returns:
        The file, and the largest difference from PyTorch on 32 latents of each label.

    Raises:
        SignatureInvalid: The release was altered.
        StateError: The extra `onnx` is not installed, or the exported decoder draws other images.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise StateError("ONNX export needs the extra `onnx`. Run `pip install wardround[onnx]`") from error
    loaded = Bundle.load(bundle, trusted=trusted)
    decoder = loaded.decoder
    module = _Exported(decoder.model, decoder.plan.release.temperature).eval()
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "decoder.onnx"
        _to_onnx(module, draft, latent=decoder.model.latent_size)
        graph = onnx.load(draft)
        for key, value in {
            "study": decoder.plan.name,
            "plan_digest": decoder.plan.digest,
            "decoder_digest": decoder.digest,
            "labels": "\n".join(decoder.labels),
            "component_weights": json.dumps(
                [decoder.component_weights(index).tolist() for index in range(len(decoder.labels))]
            ),
            "notice": "Images drawn with this decoder are synthetic: not a patient, not for diagnosis.",
        }.items():
            entry = graph.metadata_props.add()
            entry.key, entry.value = key, value
        content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = max(_difference(module, session, index) for index in range(len(decoder.labels)))
    if not largest <= LARGEST_DIFFERENCE:
        raise StateError(f"the exported decoder differs by {largest:.2e} from the original; nothing was written")
    write_atomically(out, content)
    return {"onnx": str(out), "opset": OPSET, "largest_difference": largest, "signer": loaded.signer}


def _to_onnx(module: nn.Module, path: Path, *, latent: int) -> None:
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of libraries that nobody asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, which we can do nothing about
        torch.onnx.export(
            module,
            (torch.zeros(2, latent), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=["latent", "label", "component"],
            output_names=["image"],
            dynamic_shapes={"latent": {0: batch}, "label": {0: batch}, "component": {0: batch}},
            external_data=False,
            verbose=False,
        )


def _difference(module: _Exported, session: Any, index: int) -> float:
    latent = torch.randn((_CHECKED, module.model.latent_size), generator=torch.Generator().manual_seed(index))
    label = torch.full((_CHECKED,), index, dtype=torch.int64)
    component = torch.arange(_CHECKED) % module.model.start.components
    (image,) = session.run(
        ["image"], {"latent": latent.numpy(), "label": label.numpy(), "component": component.numpy()}
    )
    with torch.no_grad():
        return float(np.abs(image - module(latent, label, component).numpy()).max())
