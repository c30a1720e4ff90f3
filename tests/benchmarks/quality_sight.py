"""Judges that see what a person sees at once: edges against grain, the spectrum, and a net that tells images apart.

The Frechet distance in the product's public features hardly sees grain. Three judges do:

    scattering distance  Frechet distance of Gabor moduli: local averages, how moduli of two orientations and scales go
                         together, and how uneven each is; edges are strong in few places, grain is weak everywhere
    spectrum             power of synthetic images over that of real ones, in decibels, by octave of the radius
    C2ST                 area under the ROC curve of a fixed CNN that tells synthetic from real; 0.5 is perfect
                         (classifier two-sample test, Lopez-Paz & Oquab 2017, arXiv 1610.06545)

Nothing is tuned on what is judged: filters are fixed, and every net runs a fixed number of steps from a fixed seed.
"""

import math

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from client.evaluation.fidelity import frechet

_SCALES, _TURNS, _WINDOW = (2.2, 4.4), 6, 11
_CELLS = 4
_KEPT = 48
"""Directions of the real images' scattering features that the distance is measured in, each at variance 1."""
_C2ST_STEPS, _C2ST_BATCH = 300, 32


def _filters() -> Tensor:
    """Gabor filters, even and odd in turn, [2 * scales * turns, 1, _WINDOW, _WINDOW], of mean 0 and norm 1."""
    axis = torch.arange(_WINDOW) - _WINDOW // 2
    rows, columns = torch.meshgrid(axis.float(), axis.float(), indexing="ij")
    found = []
    for scale in _SCALES:
        hull = torch.exp(-(rows**2 + columns**2) / (2 * (0.8 * scale) ** 2))
        for turn in range(_TURNS):
            angle = math.pi * turn / _TURNS
            along = columns * math.cos(angle) + rows * math.sin(angle)
            for phase in (0.0, math.pi / 2):
                wave = hull * torch.cos(math.pi * along / scale + phase)
                wave = wave - hull * wave.sum() / hull.sum()
                found.append(wave / wave.norm())
    return torch.stack(found)[:, None]


def scattering(images: Tensor) -> Tensor:
    """Scattering features [n, f] of images [n, size, size]."""
    waves = functional.conv2d(images[:, None], _filters(), padding=_WINDOW // 2)
    moduli = (waves[:, 0::2].square() + waves[:, 1::2].square()).sqrt()
    local = 3.0 * functional.adaptive_avg_pool2d(moduli, _CELLS).flatten(1)
    flat = moduli.flatten(2)
    mean, spread = flat.mean(dim=2, keepdim=True), flat.std(dim=2, keepdim=True).clamp(min=1e-6)
    alike = torch.bmm((flat - mean) / spread, ((flat - mean) / spread).transpose(1, 2)) / flat.shape[2]
    rows, columns = torch.triu_indices(flat.shape[1], flat.shape[1], 1)
    uneven = (spread / mean.clamp(min=1e-6))[:, :, 0]
    return torch.cat([local, alike[:, rows, columns], uneven], dim=1)


def scattering_distance(real: Tensor, drawn: Tensor) -> float:
    """Frechet distance of scattering features of real and drawn images [n, size, size], in the real ones' own units."""
    one, two = scattering(real), scattering(drawn)
    mean = one.mean(dim=0)
    directions = torch.linalg.svd(one - mean, full_matrices=False)[2][:_KEPT].T
    scale = ((one - mean) @ directions).std(dim=0).clamp(min=1e-9)
    return frechet(*(((features - mean) @ directions / scale).double().numpy() for features in (one, two)))


def spectrum(real: Tensor, drawn: Tensor) -> list[float]:
    """Decibels by which drawn images have more power than real ones, one figure for each octave of frequencies."""
    powers = [_radial(images) for images in (real, drawn)]
    return [10.0 * math.log10(max(there, 1e-12) / max(wanted, 1e-12)) for wanted, there in zip(*powers, strict=True)]


def _radial(images: Tensor) -> list[float]:
    """Mean power of images [n, size, size] in the rings [1, 2), [2, 4), ... of the frequency plane."""
    size = images.shape[-1]
    plane = torch.fft.fft2(images - images.mean(dim=(1, 2), keepdim=True)).abs().square().mean(dim=0)
    axis = torch.fft.fftfreq(size) * size
    radius = torch.hypot(axis[:, None], axis[None, :])
    edges = [2**octave for octave in range(int(math.log2(size)))]
    return [float(plane[(radius >= low) & (radius < 2 * low)].mean()) for low in edges]


def told_apart(real: Tensor, drawn: Tensor, *, seed: int) -> float:
    """AUC of a fixed CNN trained on half of each to tell drawn from real images [n, size, size], on the other half."""
    count = min(len(real), len(drawn)) // 2 * 2
    images = torch.cat([real[:count], drawn[:count]])[:, None]
    labels = torch.cat([torch.zeros(count), torch.ones(count)])
    taught = torch.cat([torch.arange(0, count, 2), count + torch.arange(0, count, 2)])
    asked = taught + 1
    torch.manual_seed(seed)
    net = _teller()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(_C2ST_STEPS):
        rows = taught[torch.randint(len(taught), (_C2ST_BATCH,))]
        loss = functional.binary_cross_entropy_with_logits(net(images[rows])[:, 0], labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        scores = net.eval()(images[asked])[:, 0]
    return float(roc_auc_score(labels[asked].numpy(), scores.numpy()))


def _teller() -> nn.Sequential:
    def level(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *level(1, 16), *level(16, 32), *level(32, 48), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(192, 1)
    )


def by_class(real: Tensor, labels: Tensor, drawn: dict[int, Tensor], *, seed: int) -> dict[str, list[object]]:
    """Every judge for every class.

    Args:
        real: [n, size, size] in [-1, 1].
        labels: [n].
        drawn: Images of each label.
        seed: Of the nets.

    Returns:
        "scattering", "spectrum" and "c2st", a figure or a list of them for each label in order.
    """
    found: dict[str, list[object]] = {"scattering": [], "spectrum": [], "c2st": []}
    for label, images in sorted(drawn.items()):
        mine = real[labels == label]
        found["scattering"].append(round(scattering_distance(mine, images), 2))
        found["spectrum"].append([round(value, 1) for value in spectrum(mine, images)])
        found["c2st"].append(round(told_apart(mine, images, seed=seed), 4))
    return found


def eight_bit(images: np.ndarray) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1.0)
