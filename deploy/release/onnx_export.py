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

from common.errors import StateError
from common.host.files import write_atomically
from common.model.generator import Generator
from common.wire.release_bundle import Bundle

OPSET = 18
LARGEST_DIFFERENCE = 1e-4
"""Most that a pixel, image units in [-1, 1], may differ from PyTorch's."""
_CHECKED = 32


class _Exported(nn.Module):
    """The whole drawing, from what chance decides to an image."""

    def __init__(self, model: Generator, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def inputs(self, count: int, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws for `count` images of the label with this index, by the name of the file's input."""
        found = {
            "latent": torch.randn((count, self.model.latent_size), generator=generator),
            "label": torch.full((count,), index, dtype=torch.int64),
            "component": torch.arange(count) % self.model.components,
        }
        if self.model.refines:
            found["detail"] = torch.randn((count, self.model.size, self.model.size), generator=generator)
        return found

    def forward(self, latent: Tensor, label: Tensor, component: Tensor, detail: Tensor | None = None) -> Tensor:
        pictures = self.model.decode_latents(latent * self.temperature, label, component)
        if detail is not None:
            pictures = self.model.refine(pictures[:, 0], label, detail)[:, None]
        return pictures.clamp(-1.0, 1.0)


def export(bundle: Path, out: Path, *, trusted: str = "") -> dict[str, Any]:
    """Write the decoder of a release as one ONNX file.

    Inputs are `latent` [n, k] float32, standard normal, `label` [n] int64 and `component` [n] int64, to be drawn by the
    label's weights. A generator with a denoiser also takes `detail` [n, size, size] float32, standard normal. The
    output `image` is [n, 1, size, size] float32 in [-1, 1]. Study, digests, labels and the weights of each label's
    components (JSON) are in the file's metadata.

    Args:
        bundle: The release bundle.
        out: The ONNX file to write.
        trusted: Fingerprint of the signer; "" accepts any signer.

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
        _to_onnx(module, draft)
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


def _to_onnx(module: _Exported, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    inputs = module.inputs(2, 0, torch.Generator().manual_seed(0))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of libraries that we do not use
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, which we can do nothing about
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["image"],
            dynamic_shapes={name: {0: batch} for name in inputs},
            external_data=False,
            verbose=False,
        )


def _difference(module: _Exported, session: Any, index: int) -> float:
    inputs = module.inputs(_CHECKED, index, torch.Generator().manual_seed(index))
    (image,) = session.run(["image"], {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        return float(np.abs(image - module(**inputs).numpy()).max())
