"""Sheets that show what a generator learnt: between two images, between labels, and along each latent direction."""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.images.pixels import unit_to_uint8
from common.model.synthesis import Decoder
from common.wire.release_bundle import Bundle
from deploy.release.drafts import whole_folder

STEPS, ROWS, REACH = 9, 6, 2.5
TILE, GAP, STRIP = 96, 3, 26
WORDS = "SYNTHETIC  |  NOT A PATIENT  |  NOT FOR DIAGNOSIS"


def write_sheets(bundle: Path, out: Path, *, seed: int, trusted: str = "") -> list[str]:
    """Draw PNG sheets into `out`: whole or not at all.

    Args:
        bundle: The signed release.
        out: Folder to create; must be absent or empty.
        seed: Same seed, same sheets.
        trusted: Fingerprint of the only signer to accept.

    Returns:
        The files' names: `between-LABEL.png` (each row from one image to another), `walk-LABEL.png` (each row along
        one latent from -2.5 to 2.5 deviations) and, with labels, `labels.png` (each row one latent under every label).

    Raises:
        SignatureInvalid: The release was altered.
        OutputInUse: `out` holds something.
    """
    decoder = Bundle.load(bundle, trusted=trusted).decoder
    generator = torch.Generator().manual_seed(seed)
    size = decoder.model.latent_size
    starts, ends = torch.randn((2, ROWS, size), generator=generator)
    pages: dict[str, Tensor] = {}
    for index, label in enumerate(decoder.labels):
        pages[f"between-{label}.png"] = _rows(decoder, index, between(starts, ends))
        pages[f"walk-{label}.png"] = _rows(decoder, index, along(size, rows=min(ROWS, size)))
    if len(decoder.labels) > 1:
        columns = [decoder.images(starts, index) for index in range(len(decoder.labels))]
        pages["labels.png"] = torch.stack(columns, dim=1)
    with whole_folder(out) as draft:
        for name, images in pages.items():
            sheet(unit_to_uint8(images)).save(draft / name)
    return sorted(pages)


def between(starts: Tensor, ends: Tensor) -> Tensor:
    """Spherical interpolation [rows, STEPS, k] from latents to latents [rows, k], which keeps their usual length."""
    share = torch.linspace(0, 1, STEPS)[None, :, None]
    cosine = torch.nn.functional.cosine_similarity(starts, ends, dim=1).clamp(-0.9995, 0.9995)
    angle = torch.acos(cosine)[:, None, None]
    left, right = torch.sin((1 - share) * angle), torch.sin(share * angle)
    path: Tensor = (left * starts[:, None] + right * ends[:, None]) / torch.sin(angle)
    return path


def along(size: int, *, rows: int) -> Tensor:
    """Latents [rows, STEPS, k] that move along one axis each, all others at 0."""
    path = torch.zeros(rows, STEPS, size)
    for axis in range(rows):
        path[axis, :, axis] = torch.linspace(-REACH, REACH, STEPS)
    return path


def _rows(decoder: Decoder, index: int, latents: Tensor) -> Tensor:
    rows, steps, size = latents.shape
    flat = decoder.images(latents.reshape(-1, size) * decoder.plan.release.temperature, index)
    return flat.reshape(rows, steps, *flat.shape[1:])


def sheet(images: NDArray[np.uint8]) -> Image.Image:
    """Lay images [rows, columns, size, size] out, enlarged, over a strip that says what they are."""
    rows, columns = images.shape[:2]
    width = max(columns * (TILE + GAP) + GAP, 360)
    page = Image.new("L", (width, rows * (TILE + GAP) + GAP + STRIP), 24)
    for row in range(rows):
        for column in range(columns):
            tile = Image.fromarray(np.ascontiguousarray(images[row, column]))
            tile = tile.resize((TILE, TILE), Image.Resampling.BICUBIC)
            page.paste(tile, (GAP + column * (TILE + GAP), GAP + row * (TILE + GAP)))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    draw.text((math.floor(width / 2), page.height - STRIP / 2), WORDS, fill=214, font=font, anchor="mm")
    return page
