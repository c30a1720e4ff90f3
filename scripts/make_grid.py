"""Write a PNG that shows a run's synthetic images by label, with real ones from a site folder above them.

    python scripts/make_grid.py RUN OUT.png [--real RUN/sites/NAME]

Rows, for each label: one of a site's admitted images (only for data that anybody may see), then synthetic images.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from client.cohort.cache import Cache
from common.images.pixels import unit_to_uint8
from common.model.synthesis import Decoder

COLUMNS, ROWS, SCALE, GAP = 12, 2, 2, 4


def main() -> None:
    """Draw the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--real", type=Path, help="home of a simulated site")
    options = parser.parse_args()
    decoder = Decoder.load(options.run / "decoder.safetensors")
    rows = []
    for index, label in enumerate(decoder.labels):
        if options.real:
            rows.append(real_row(Cache.open(options.real), index))
        drawn = list(decoder.draw(label, COLUMNS * ROWS, seed=1))
        rows += [torch.cat(drawn[i : i + COLUMNS], dim=1) for i in range(0, len(drawn), COLUMNS)]
        rows.append(torch.ones(GAP, rows[-1].shape[1]))
    sheet = Image.fromarray(unit_to_uint8(torch.cat(rows[:-1])))
    sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.BICUBIC).save(options.out, optimize=True)


def real_row(cache: Cache, label: int) -> torch.Tensor:
    """The first image of the first patients with this label, side by side: [size, COLUMNS * size]."""
    found: list[torch.Tensor] = []
    for patient in range(cache.patients):
        images, labels = cache.patient(patient)
        if int(labels[0]) == label and len(found) < COLUMNS:
            found.append(images[0, 0])
    blank = torch.full((cache.image_size, cache.image_size), -1.0)
    return torch.cat((found + [blank] * COLUMNS)[:COLUMNS], dim=1)


if __name__ == "__main__":
    main()
