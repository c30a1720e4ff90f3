"""Train the feature encoder of `common.images.encoder` on public phantoms and write its weights into the package.

    python scripts/train_features.py [--out FILE]

The encoder learns to read a phantom's anatomy and label, and how much the picture was blurred, roughened, flattened
and shifted, so that its features see content and quality alike. Everything follows from fixed seeds.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.images.encoder import SIDE, WEIGHTS, Encoder, save_encoder
from common.images.phantoms import draw_image, draw_patient

PHANTOMS = 4000
STEPS = 2500
BATCH = 96
SEED = 20260


def main() -> int:
    """Train, print the error by target group, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    images, anatomy = phantoms(PHANTOMS)
    generator = torch.Generator().manual_seed(SEED)
    model = Encoder(targets=anatomy.shape[1] + 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        chosen = torch.randint(0, PHANTOMS, (BATCH,), generator=generator)
        spoilt, strengths = spoil(images[chosen], generator)
        error = (model.head(model(spoilt)) - torch.cat([anatomy[chosen], strengths], dim=1)).square()
        loss = error.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if step % 250 == 0 or step == STEPS - 1:
            sys.stdout.write(f"step {step}: mean square {loss.item():.3f} (1 is a guess)\n")
            sys.stdout.flush()
    sys.stdout.write(f"{save_encoder(model, options.out)}\n")
    return 0


def phantoms(count: int) -> tuple[Tensor, Tensor]:
    """Images [count, 1, 32, 32] and their anatomy with label, standardised, [count, targets]."""
    rng = np.random.default_rng(SEED)
    images, rows = np.empty((count, 1, SIDE, SIDE), np.float32), []
    for index in range(count):
        patient = draw_patient(rng)
        images[index, 0] = draw_image(patient, label=index % 2, size=SIDE, rng=rng)
        rows.append([*dataclasses.astuple(patient), float(index % 2)])
    table = np.array(rows)
    return torch.from_numpy(images), torch.from_numpy((table - table.mean(0)) / table.std(0)).float()


def spoil(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blur, roughen, flatten and turn pictures at random; returns them and the four strengths, standardised."""
    strength = torch.rand((len(images), 4), generator=generator) * (
        torch.rand((len(images), 4), generator=generator) < 0.6
    )
    blurred = functional.avg_pool2d(functional.pad(images, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    mix = strength[:, 0, None, None, None]
    out = (1 - mix) * images + mix * blurred
    out = out + 0.4 * strength[:, 1, None, None, None] * torch.randn(images.shape, generator=generator)
    level = out.mean((2, 3), keepdim=True)
    out = level + (out - level) * (1 - 0.7 * strength[:, 2, None, None, None])
    turned = torch.flip(out, dims=(3,))
    warp = (strength[:, 3] > 0.5)[:, None, None, None]
    target = torch.cat([strength[:, :3], (strength[:, 3:] > 0.5).float()], dim=1)
    return torch.where(warp, turned, out).clamp(-1, 1), (target - 0.3) / 0.35


if __name__ == "__main__":
    sys.exit(main())
