"""A light LiRA on a simulation's finished model: shadow models are the plan's closed form on random halves of patients.

Shadows come in pairs, each the complement of the other, so that every patient is in as many as it is out of. A shadow
runs the plan's own moments phases, noise included, with the code that hospitals and the coordinator run. It runs no
gradient step. So it is light, and weaker than an attacker who trains whole shadow models. It looks at every patient's
scans, so it is for simulations on data one may see.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.cache import Cache
from client.cohort.consent import ConsentingCohort
from client.cohort.identity import site_secret
from client.evaluation.membership import lira, loss_attack, losses
from client.mechanism.patient_sum import release
from client.mechanism.randomness import SecureRandom
from client.site.site import Site
from common.errors import PlanError
from common.host.ordered import in_order
from common.model.study_model import initial, model_with
from common.model.weights import Weights
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from server.mechanism.patient_sum import absorb

KIND = "closed form on random halves of all patients, noised as the plan says; no gradient steps"
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pool:
    """One site's patients, as an attacker of a simulation may see them.

    Attributes:
        name: The site's.
        cache: All its patients.
        members: [patients] whether the finished model was trained on them.
        secret: The site's.
    """

    name: str
    cache: Cache
    members: Mask
    secret: bytes

    @classmethod
    def of(cls, site: Site, plan: StudyPlan) -> "Pool":
        """Open a simulated site's patients."""
        trained = set(site.cohort(plan).patient_keys)
        admitted = site.admitted(plan)
        members = np.array([key in trained for key in admitted.patient_keys])
        return cls(site.policy.name, admitted, members, site_secret(site.home))


def attack(
    plan: StudyPlan,
    weights: Weights,
    pools: list[Pool],
    *,
    shadows: int,
    seed: int,
    on_shadow: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Return both attacks' AUC, LiRA's and the loss's, by site and over all sites together ("all"); plain JSON types.

    Args:
        plan: The study plan.
        weights: The finished model, as it is released.
        pools: Every site.
        shadows: Number of shadow models; even, at least 2.
        seed: Of the halves and of the shadows' noise.
        on_shadow: Called after each shadow.

    Raises:
        PlanError: The plan has no closed form, holds out no patient, or `shadows` is odd.
        StudyStopped: Half of the patients are too few for the plan's noise.
    """
    if "moments" not in plan.privacy.phases or not plan.evaluation.gated or shadows < 2 or shadows % 2:
        raise PlanError(
            f"plan {plan.name!r}: a light LiRA needs the moments phase, patients set aside, and an even number of "
            f"shadows, not {shadows}. Ask for none"
        )
    begin = initial(plan).arrays()
    target = _losses(plan, weights, pools)
    halves = list(_halves(pools, shadows, seed))
    found = []
    for values in in_order(
        lambda i: _losses(plan, _train(plan, begin, pools, halves[i], seed + i), pools), range(shadows)
    ):
        found.append(values)
        on_shadow()
    known, inside = np.stack(found), np.stack(halves)
    members = np.concatenate([pool.members for pool in pools])
    ends = np.cumsum([len(pool.members) for pool in pools])
    places = {pool.name: slice(end - len(pool.members), end) for pool, end in zip(pools, ends, strict=True)}
    return {
        name: {
            "lira_auc": lira(target[rows], known[:, rows], inside[:, rows], members[rows]).to_json(),
            "loss_auc": loss_attack(target[rows][members[rows]], target[rows][~members[rows]]).to_json(),
            "patients": {"trained": int(members[rows].sum()), "held_out": int((~members[rows]).sum())},
        }
        for name, rows in {"all": slice(None), **places}.items()
    }


def _halves(pools: list[Pool], shadows: int, seed: int) -> Iterator[Mask]:
    """Masks [patients of all sites] of the shadows' patients, in pairs of complements."""
    random = np.random.default_rng(seed)
    for _ in range(shadows // 2):
        half = np.concatenate([_half(len(pool.members), random) for pool in pools])
        yield half
        yield ~half


def _half(count: int, random: np.random.Generator) -> Mask:
    chosen = np.zeros(count, bool)
    chosen[random.permutation(count)[: count // 2]] = True
    return chosen


def _train(plan: StudyPlan, weights: Weights, pools: list[Pool], chosen: Mask, seed: int) -> Weights:
    """The federation's closed form on the chosen patients."""
    cohorts, first = [], 0
    for pool in pools:
        mine = chosen[first : first + len(pool.members)]
        cohorts.append((pool.name, ConsentingCohort(pool.cache, np.flatnonzero(mine).tolist(), secret=pool.secret)))
        first += len(pool.members)
    for step in schedule(plan):
        if step.trains:
            break
        releases = [
            release(plan, step, weights, cohort, SecureRandom.simulated(seed, "shadow", name, step.number))
            for name, cohort in cohorts
        ]
        total = np.sum([sent["release"].astype(np.float64) for sent in releases], axis=0)
        weights = absorb(plan, step, weights, total, sites=len(pools))
    return weights


def _losses(plan: StudyPlan, weights: Weights, pools: list[Pool]) -> NDArray[np.float64]:
    model = model_with(plan, weights)
    return np.concatenate([losses(model, pool.cache) for pool in pools])
