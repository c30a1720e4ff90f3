"""Mean and principal directions of public images, along which hospitals take the moments of their classes.

Formal guarantee
    What enters is public images named in the approved plan, and draws seeded by its digest. No hospital takes part. At
    a hospital the clips come after the mean and the basis that the server sends (`client.mechanism.moments`).

Images of one kind lie close to few directions. So noised second moments along them hold fewer values than those of
cosine frequencies, and more of each is signal. The directions are those of many simulated hospitals, each with a view
of its own (`server.model.rehearsal`), around each one's own mean: hospitals differ in position, size and contrast.

They are found once, before the first round, and kept in the study's folder: a study that is resumed, on any machine,
goes on with the same bytes.
"""

from pathlib import Path

import numpy as np
from torch import Tensor

from common.errors import CheckpointCorrupt
from common.mechanism.mechanism import Array
from common.mechanism.moments import coefficients, cosine_images
from common.model.closed_form import closed_form, with_closed_form
from common.model.weights import Weights, check, read, write
from common.plan.study_plan import StudyPlan
from server.model import warm_data
from server.model.rehearsal import Stage

FILE = "directions.safetensors"
"""The directions, in a study's folder."""
_HOSPITALS = 40
_IMAGES = 400
"""Of each simulated hospital, at most."""
_SIDE = 32
"""Cosine frequencies for each axis that directions are made of: larger images have their leading ones there too."""
_LEAST = 1e-12
"""Least variance along a direction, in units of the squared root mean square of a pixel."""


def with_directions(plan: StudyPlan, folder: Path, weights: Weights) -> Weights:
    """The weights before the first round with the public directions that the plan asks for, if any.

    Args:
        plan: The study plan.
        folder: The study's folder.
        weights: The weights of round 0.

    Raises:
        CheckpointCorrupt: The stored directions are damaged or of another plan.
        PlanError: The plan's file of public images is not there.
        DataError: It holds no images that the plan can be warmed with.
    """
    if not plan.warm.directions:
        return weights
    path = folder / FILE
    if not path.exists():
        found = of_images(plan, *warm_data.load(plan, folder, fine=True))
        write({name: array.astype(np.float32) for name, array in found.items()}, path, metadata={"plan": plan.digest})
    stored, metadata = read(path)
    if metadata.get("plan") != plan.digest:
        raise CheckpointCorrupt(f"{path}: it is of another plan. Remove it to find the public directions again")
    asked = {name: array.shape for name, array in closed_form(weights).items() if name.startswith("public_")}
    check(stored, asked, what=f"{path}")
    return with_closed_form(weights, {name: array.astype(np.float64) for name, array in stored.items()})


def of_images(plan: StudyPlan, images: Tensor, labels: Tensor) -> dict[str, Array]:
    """The arrays of the closed form that say what public images are like.

    Args:
        plan: The study plan; `warm.directions` is above 0.
        images: [n, 1, size, size] in [-1, 1].
        labels: [n], kinds of image.

    Returns:
        "public_mean", "public_basis", "public_variance" and "public_rest" (`common.model.linear_start.ClassStart`).
    """
    size, side = plan.data.image_size, min(_SIDE, plan.data.image_size)
    stage = Stage(plan, images, labels)
    means, offsets = [], []
    for number in range(_HOSPITALS):
        seen = coefficients(stage.seen(number, most=_IMAGES).numpy(), base=size)
        means.append(seen.mean(axis=0))
        offsets.append(seen - means[-1])
    rows = np.concatenate(offsets).reshape(-1, size, size)
    low = rows[:, :side, :side].reshape(-1, side**2)
    values, vectors = np.linalg.eigh(low.T @ low / len(low))
    values, vectors = values[::-1][: plan.warm.directions], vectors[:, ::-1][:, : plan.warm.directions]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    rest = (rows**2).mean(axis=0)
    rest[:side, :side] -= (vectors**2 @ values).reshape(side, side)
    return {
        "public_mean": (cosine_images(np.mean(means, axis=0)[None], size=size) * size).reshape(-1),
        "public_basis": cosine_images((vectors * signs).T, size=size).reshape(len(values), -1).T,
        "public_variance": np.maximum(values, _LEAST),
        "public_rest": np.maximum(rest.reshape(-1), 0.0),
    }
