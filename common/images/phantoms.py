"""Procedural chest phantoms: radiographs of no patient, for demos, tests and the public set that scores a model.

A phantom is drawn from some twenty smooth parameters, so that a low-dimensional model can learn it: at 32
pixels twelve principal components hold more than 85 % of the variance. Coordinates run from -1 (left, top) to
1 (right, bottom) of the image. The patient faces the viewer, so the heart lies on the image's right.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Plane = NDArray[np.floating[Any]]
"""[size, size]; float32 throughout."""

_PIXEL_NOISE = 0.012
_RIB_PITCH = 0.235


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What all images of one patient share; lengths in half image sides.

    Attributes:
        thorax_width: Half width of the body below the shoulders.
        shoulder_height: y of the shoulder line.
        lung_width: Half width of one lung.
        lung_apex: y of the top of the lungs.
        diaphragm: y of the right diaphragm's dome at rest.
        heart_size: Half width of the heart.
        heart_tilt: How far the heart's long axis leans, radians.
        rib_phase: Where the first rib lies within the rib pitch, radians.
        bone: Density of the bones over soft tissue, air being 0 and water about 1.
        tissue: Density of soft tissue over water, same units.
        rotation: Tilt of the patient's long axis, radians.
        lesion_x: Centre across of the opacity that label 1 shows, in the right lung (image left).
        lesion_y: Its centre down the image.
        lesion_size: Standard deviation of the opacity.
        lesion_strength: Part of the air that the opacity displaces at its centre, below 1.
    """

    thorax_width: float
    shoulder_height: float
    lung_width: float
    lung_apex: float
    diaphragm: float
    heart_size: float
    heart_tilt: float
    rib_phase: float
    bone: float
    tissue: float
    rotation: float
    lesion_x: float
    lesion_y: float
    lesion_size: float
    lesion_strength: float


def draw_patient(rng: np.random.Generator) -> Anatomy:
    """Draw one patient's anatomy, lesion included (only images of label 1 show it)."""

    def about(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.standard_normal(), -2.5, 2.5))

    return Anatomy(
        thorax_width=about(0.92, 0.03),
        shoulder_height=about(-0.80, 0.025),
        lung_width=about(0.335, 0.012),
        lung_apex=about(-0.80, 0.02),
        diaphragm=about(0.50, 0.05),
        heart_size=about(0.30, 0.03),
        heart_tilt=about(0.55, 0.08),
        rib_phase=about(0.0, 0.5),
        bone=about(0.20, 0.03),
        tissue=about(0.22, 0.06),
        rotation=about(0.0, 0.010),
        lesion_x=about(-0.44, 0.03),
        lesion_y=about(0.14, 0.05),
        lesion_size=about(0.19, 0.018),
        lesion_strength=about(0.80, 0.06),
    )


def draw_image(anatomy: Anatomy, *, label: int, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one frontal radiograph of a patient; positioning, breath and exposure are drawn anew.

    Args:
        anatomy: The patient.
        label: 0 is a normal chest; an odd label shows a large opacity in the right lower zone (image left).
        size: Side of the image, pixels.
        rng: Source of this image's positioning, breath, exposure and noise.

    Returns:
        [size, size], float32 in [-1, 1], MONOCHROME2 sense: air dark, tissue and bone bright.
    """
    shift_x, shift_y, breath, turn = rng.normal(0.0, (0.012, 0.015, 0.02, 0.006))
    gain, gamma = rng.normal(1.0, 0.06), rng.normal(1.0, 0.05)
    grid_x, grid_y = _grid(size)
    angle = anatomy.rotation + turn
    x = np.float32(np.cos(angle)) * (grid_x - np.float32(shift_x)) + np.float32(np.sin(angle)) * grid_y
    y = np.float32(np.cos(angle)) * (grid_y - np.float32(shift_y)) - np.float32(np.sin(angle)) * grid_x
    edge = max(0.030, 1.0 / size)
    aerated = 1.0 - _opacity(anatomy, x, y) if label % 2 == 1 else np.ones_like(x)
    density = _chest(anatomy, x, y, aerated=aerated, diaphragm=anatomy.diaphragm + float(breath), edge=edge)
    grey = np.clip(density * np.float32(gain), 0.0, 1.0) ** np.float32(gamma) * 2.0 - 1.0
    grey += _PIXEL_NOISE * rng.standard_normal((size, size), dtype=np.float32)
    return np.asarray(np.clip(grey, -1.0, 1.0), dtype=np.float32)


def public_phantoms(count: int, *, size: int, labels: int = 2, seed: int = 2026) -> tuple[Tensor, Tensor]:
    """Draw the public test set, each image of another phantom patient: it scores a model and touches no one.

    Args:
        count: Number of images, 0 or more.
        size: Side of an image, pixels.
        labels: Number of classes of the study; only classes 0 and 1 have a shape, further ones are not drawn.
        seed: Which set; the same arguments give the same set.

    Returns:
        Images [count, 1, size, size], float32 in [-1, 1], and labels [count], int64, cycling over classes.
    """
    rng = np.random.default_rng(seed)
    classes = max(1, min(labels, 2))
    images = np.empty((count, 1, size, size), dtype=np.float32)
    for index in range(count):
        images[index, 0] = draw_image(draw_patient(rng), label=index % classes, size=size, rng=rng)
    return torch.from_numpy(images), torch.arange(count, dtype=torch.int64) % classes


def _chest(anatomy: Anatomy, x: Plane, y: Plane, *, aerated: Plane, diaphragm: float, edge: float) -> Plane:
    """Densities of a chest before exposure, 0 (air) to about 1 (bone).

    Args:
        anatomy: The patient.
        x: Position across, each [size, size].
        y: Position down, same shape.
        aerated: Part of each lung pixel that holds air, 1 in a healthy lung; same shape.
        diaphragm: y of the right dome in this breath.
        edge: Softness of every outline.
    """
    width = anatomy.thorax_width * (1.0 - 0.05 * (y - 0.2) ** 2)
    outline = 0.30 + (width - 0.30) * _step(y - anatomy.shoulder_height - 0.22 * (np.abs(x) - 0.55), 0.05)
    body = _step(outline - np.abs(x), edge)
    dome = diaphragm + 0.035 * np.tanh(x / 0.15) + 0.55 * (np.abs(x) - 0.36) ** 2
    dome += 0.30 * np.maximum(np.abs(x) - 0.5, 0.0)
    below = _step(y - dome, edge)
    lungs = _lungs(anatomy, x, y, edge=edge) * (1.0 - below)
    heart = _heart(anatomy, x, y, diaphragm=diaphragm, edge=edge)
    middle = np.exp(-(((x - 0.01) / 0.13) ** 4))
    air = lungs * (1.0 - heart) * (1.0 - 0.75 * middle) * aerated
    spine = np.exp(-((x / 0.075) ** 4)) * (0.75 + 0.25 * np.cos(y * (2 * np.pi / 0.2)))
    soft = 1.0 + anatomy.tissue
    bones = anatomy.bone * (0.7 * spine + _clavicles(anatomy, x, y))
    level: Plane = body * (soft + 0.16 * middle + 0.14 * below + bones)
    level += 0.16 * heart - air * (0.70 + 0.5 * anatomy.tissue)
    level += air * (0.75 * anatomy.bone * _ribs(anatomy, x, y) + _vessels(x, y) - 0.20)
    return 0.5 * level


def _lungs(anatomy: Anatomy, x: Plane, y: Plane, *, edge: float) -> Plane:
    """Both lung fields as one soft mask, narrow at the apex, open towards the diaphragm."""
    depth = (y - anatomy.lung_apex) / (0.85 - anatomy.lung_apex)
    half = anatomy.lung_width * (0.80 + 0.28 * depth)
    centre = 0.37 + 0.10 * depth
    inside = 1.0 - ((np.abs(x) - centre) / half) ** 2 - np.abs((y - 0.30) / (0.30 - anatomy.lung_apex)) ** 3
    return _step(inside * 0.5 * anatomy.lung_width, edge * 0.8)


def _heart(anatomy: Anatomy, x: Plane, y: Plane, *, diaphragm: float, edge: float) -> Plane:
    """Heart shadow with the aortic knob above it, leaning to the image's right."""
    size, tilt = anatomy.heart_size, anatomy.heart_tilt
    u, v = x - 0.12, y - (diaphragm - 0.16)
    along = np.float32(np.cos(tilt)) * u + np.float32(np.sin(tilt)) * v
    across = np.float32(np.cos(tilt)) * v - np.float32(np.sin(tilt)) * u
    ellipse = 1.0 - (along / (1.22 * size)) ** 2 - (across / (0.86 * size)) ** 2
    knob = 1.0 - ((x - 0.12) / 0.10) ** 2 - ((y + 0.34) / 0.11) ** 2
    shadow: Plane = np.maximum(_step(ellipse * 0.5 * size, edge), 0.8 * _step(knob * 0.05, edge))
    return shadow


def _ribs(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """Rib arcs, 0 to 1: crests of a wave that falls from the spine to the side."""
    height = y - 0.45 * x * x - 0.10 * np.abs(x)
    crest = 0.5 + 0.5 * np.cos(height * (2 * np.pi / _RIB_PITCH) + anatomy.rib_phase)
    return crest * crest


def _clavicles(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """Both collar bones, 0 to 1."""
    line = y - (anatomy.lung_apex + 0.22) + 0.24 * (np.abs(x) - 0.10)
    along = _step(np.abs(x) - 0.08, 0.03) * _step(0.72 - np.abs(x), 0.05)
    return 1.3 * np.exp(-((line / 0.035) ** 2)) * along


def _vessels(x: Plane, y: Plane) -> Plane:
    """The hila's vessels: a soft brightening on both sides of the mediastinum."""
    square = ((np.abs(x) - 0.19) / 0.11) ** 2 + ((y + 0.06) / 0.20) ** 2
    return 0.30 * np.exp(-square)


def _opacity(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """The consolidation of label 1: part of the air that it displaces, flatter on top than a Gaussian."""
    square = ((x - anatomy.lesion_x) ** 2 + (y - anatomy.lesion_y) ** 2) / (2.0 * anatomy.lesion_size**2)
    return anatomy.lesion_strength * np.exp(-(square**1.5))


def _step(distance: Plane, softness: float) -> Plane:
    """0 outside, 1 inside, with a soft edge of about two `softness` around distance 0."""
    inside: Plane = 0.5 + 0.5 * np.tanh(distance / softness)
    return inside


@functools.lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Plane, Plane]:
    """Pixel centres, x to the right and y down, each [size, size] in (-1, 1); read-only, shared."""
    centres = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    x.flags.writeable = y.flags.writeable = False
    return x, y
