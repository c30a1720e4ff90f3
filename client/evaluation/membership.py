"""Membership inference: can somebody who holds the finished model tell who trained it?

The loss attack scores a patient by the model's mean loss on the patient's images (Yeom et al. 2018). The light LiRA
compares that loss with those of shadow models that did, and did not, train on the patient (Carlini et al. 2022, the
parametric form with a pooled deviation); shadows are dear, so it runs in simulation only.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from client.cohort.cache import Cache
from client.cohort.image_blocks import mean_by_patient, parts
from client.evaluation.intervals import Figure, bootstrap
from client.evaluation.nearness import membership_area
from common.model.generator import Generator


def losses(model: Generator, cohort: Cache) -> NDArray[np.float64]:
    """Mean negative evidence bound [patients] on each patient's images, without the draw's noise; low: well known."""
    values, owners = [np.zeros(0)], [np.zeros(0, np.intp)]
    for part in parts(cohort):
        noise = model.fixed_noise(len(part.labels))
        with torch.no_grad():
            values.append(model.eval().loss(part.images.unsqueeze(1), part.labels, noise).double().numpy())
        owners.append(part.patients)
    return mean_by_patient(np.concatenate(values), np.concatenate(owners), patients=cohort.patients)


def loss_attack(members: NDArray[np.float64], others: NDArray[np.float64]) -> Figure:
    """AUC of the loss attack from losses of training and of held-out patients; 0.5 is a coin."""
    count = len(members)

    def area(rows: NDArray[np.intp]) -> float:
        return membership_area(-members[rows[rows < count]], -others[rows[rows >= count] - count])

    return bootstrap(area, np.arange(count + len(others)))


def lira(
    target: NDArray[np.float64], shadows: NDArray[np.float64], inside: NDArray[np.bool_], members: NDArray[np.bool_]
) -> Figure:
    """AUC of the light likelihood-ratio attack.

    Args:
        target: [patients] loss of the model under attack.
        shadows: [models, patients] losses of the shadow models.
        inside: [models, patients] whether the shadow trained on the patient; every patient both ways at least once.
        members: [patients] whether the target did.
    """
    with_them = np.array([shadows[inside[:, i], i].mean() for i in range(len(target))])
    without = np.array([shadows[~inside[:, i], i].mean() for i in range(len(target))])
    centred = shadows - np.where(inside, with_them, without)
    variance = max(float((centred**2).mean()), 1e-12)
    scores = ((target - without) ** 2 - (target - with_them) ** 2) / (2 * variance)

    def area(rows: NDArray[np.intp]) -> float:
        return membership_area(scores[rows[members[rows]]], scores[rows[~members[rows]]])

    return bootstrap(area, np.arange(len(target)))
