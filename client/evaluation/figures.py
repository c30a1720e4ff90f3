"""Every figure about a candidate that a site computes for its steward; raw, so none of them may leave a hospital.

A simulation on public data may show them; `deploy.release.release` then copies them into the card, marked as such.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from client.cohort.cache import Cache
from client.cohort.image_blocks import Part, gathered
from client.evaluation import diversity, fidelity, nearness, tstr
from client.evaluation.candidate import Candidate
from client.evaluation.curves import curves
from client.evaluation.membership import loss_attack, losses
from client.evaluation.tstr import Classifier
from common.images.encoder import NAME, encoder_digest, features
from common.plan.study_plan import StudyPlan

SCHEMA = 1
MOST_IMAGES = 1500
"""Of one side in one comparison; those of the first patients by key, which is an arbitrary choice."""


def figures(plan: StudyPlan, candidate: Candidate, trained: Cache, held_out: Cache) -> dict[str, Any]:
    """Compare a candidate with the site's patients; plain JSON types, null where a figure cannot be told.

    Args:
        plan: The study's plan.
        candidate: What is judged.
        trained: Patients the model was trained on.
        held_out: Patients who were set aside.
    """
    real, known = gathered(held_out, most=MOST_IMAGES), gathered(trained, most=MOST_IMAGES)
    enough = min(len(real.labels), len(known.labels)) > fidelity.NEIGHBOURS
    return {
        "schema": SCHEMA,
        "features": {"name": NAME, "digest": encoder_digest()},
        "patients": {"held_out": held_out.patients, "trained": trained.patients},
        "fidelity": _fidelity(plan, candidate, real, known) if enough else {},
        "diversity": _diversity(plan, candidate, real) if enough else {},
        "curves": {"synthetic": curves(candidate.images), "real": curves(real.images)} if enough else {},
        "utility": _utility(plan, candidate, real, known) if enough else {},
        "privacy": _privacy(candidate, real, known, trained, held_out) if enough else {},
    }


def _fidelity(plan: StudyPlan, candidate: Candidate, real: Part, known: Part) -> dict[str, Any]:
    """By label and over all; "ceiling" is what the site's own training images reach in the candidate's place."""
    synthetic, held, mine = (features(part) for part in (candidate.images, real.images, known.images))
    drawn, labels, own = candidate.labels.numpy(), real.labels.numpy(), known.labels.numpy()
    random = np.random.default_rng(0)
    rows = {"all": (held, _sample(synthetic, len(held), random), _sample(mine, len(held), random))}
    for index, label in enumerate(plan.data.labels):
        chosen = held[labels == index]
        rows[label] = (
            chosen,
            _sample(synthetic[drawn == index], len(chosen), random),
            _sample(mine[own == index], len(chosen), random),
        )
    return {
        label: {"images": len(a), "synthetic": _distances(a, b), "ceiling": _distances(a, c)}
        for label, (a, b, c) in rows.items()
    }


def _sample(points: fidelity.Features, count: int, random: np.random.Generator) -> fidelity.Features:
    """As many points as the other set has, where there are: all these figures depend on the size of a set."""
    if len(points) <= count:
        return points
    return points[np.sort(random.choice(len(points), count, replace=False))]


def _distances(real: fidelity.Features, other: fidelity.Features) -> dict[str, Any]:
    values = {"frechet": fidelity.frechet(real, other), "kernel": fidelity.kernel(real, other)}
    return _plain(values | dataclasses.asdict(fidelity.manifold(real, other)))


def _diversity(plan: StudyPlan, candidate: Candidate, real: Part) -> dict[str, Any]:
    """Of each set: pairs within any one label, between labels, and within each label on its own."""
    return {
        name: _plain(
            {
                "within": diversity.ms_ssim(images, labels, between=False),
                "between": diversity.ms_ssim(images, labels, between=True),
            }
        )
        | {
            "labels": _plain(
                {
                    label: diversity.ms_ssim(images[labels == index], labels[labels == index], between=False)
                    for index, label in enumerate(plan.data.labels)
                }
            )
        }
        for name, images, labels in (
            ("synthetic", candidate.images, candidate.labels),
            ("real", real.images, real.labels),
        )
    }


def _utility(plan: StudyPlan, candidate: Candidate, real: Part, known: Part) -> dict[str, Any]:
    if candidate.classifier is None:
        return {}
    own = Classifier(known.images, known.labels, classes=len(plan.data.labels))
    labels = real.labels.numpy()
    found: dict[str, Any] = {}
    for name, classifier in (("tstr", candidate.classifier), ("trtr", own)):
        sure = classifier.probabilities(real.images)
        found[name] = {
            "auc": tstr.auc(sure, labels, real.patients).to_json(),
            "accuracy": tstr.accuracy(sure, labels, real.patients).to_json(),
        }
    return found


def _privacy(candidate: Candidate, real: Part, known: Part, trained: Cache, held_out: Cache) -> dict[str, Any]:
    near = nearness.compare(known.images, real.images, candidate.images)
    attack = loss_attack(losses(candidate.model, trained), losses(candidate.model, held_out))
    return {
        "nearest_trained": near.trained.to_json(),
        "nearest_held_out": near.held_out.to_json(),
        "distance_ratio": near.ratio.to_json(),
        "distance_auc": near.auc.to_json(),
        "loss_attack_auc": attack.to_json(),
        "twins_left_out": near.twins,
    }


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {key: float(value) if math.isfinite(value) else None for key, value in values.items()}
