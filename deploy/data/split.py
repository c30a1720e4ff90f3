"""Dealing patients to hospitals; a patient is never at two of them."""

import re
from collections.abc import Mapping

import numpy as np

from common.errors import SourceError


def split_patients(
    images: Mapping[str, int], labels: Mapping[str, str], *, sites: int, split: str, seed: int
) -> list[list[str]]:
    """Deal patients to sites, every patient to exactly one and at least one to every site.

    Args:
        images: Number of images of each patient.
        labels: Label of each patient; only "dirichlet" looks at it; absent ones are a class of their own.
        sites: Number of sites, 1 or more.
        split: "iid" deals shuffled patients in turn; "by-patient" deals each to the site with the fewest
            images, patients with most images first, so that image counts balance; "dirichlet:ALPHA" draws for
            every label the sites' shares from Dirichlet(ALPHA): the smaller ALPHA, the less alike the sites.
        seed: Same patients and seed, same split.

    Returns:
        Patients of each site, sorted.

    Raises:
        SourceError: `split` is none of these, or there are fewer patients than sites.

    Source:
        Hsu, Qi and Brown 2019, arXiv:1909.06335 (Dirichlet splits).
    """
    alpha = _alpha(split)
    if sites < 1 or len(images) < sites:
        raise SourceError(
            f"{sites} sites were asked for, but the source has {len(images)} patients and every site needs "
            "one. Ask for fewer sites or give more images."
        )
    rng = np.random.default_rng(seed)
    if split == "by-patient":
        dealt = _balanced(images, sites)
    elif alpha is None:
        order = [str(patient) for patient in rng.permutation(sorted(images))]
        dealt = [order[site::sites] for site in range(sites)]
    else:
        dealt = _skewed(sorted(images), labels, sites, alpha, rng)
    return [sorted(patients) for patients in dealt]


def _alpha(split: str) -> float | None:
    """Return the Dirichlet parameter, None for the two plain splits."""
    if split in ("iid", "by-patient"):
        return None
    found = re.fullmatch(r"dirichlet:(\d{0,6}(?:\.\d{1,6})?)", split)
    alpha = float(found[1]) if found and found[1] else 0.0
    if not alpha > 0:
        raise SourceError(
            f"split {split!r} was asked for; known are iid, by-patient and dirichlet:ALPHA with ALPHA above "
            "0, such as dirichlet:0.5."
        )
    return alpha


def _balanced(images: Mapping[str, int], sites: int) -> list[list[str]]:
    dealt: list[list[str]] = [[] for _ in range(sites)]
    held = [0] * sites
    for patient in sorted(images, key=lambda name: (-images[name], name)):
        site = min(range(sites), key=lambda number: (held[number], len(dealt[number]), number))
        dealt[site].append(patient)
        held[site] += images[patient]
    return dealt


def _skewed(
    patients: list[str], labels: Mapping[str, str], sites: int, alpha: float, rng: np.random.Generator
) -> list[list[str]]:
    classes: dict[str, list[str]] = {}
    for patient in patients:
        classes.setdefault(labels.get(patient, ""), []).append(patient)
    dealt: list[list[str]] = [[] for _ in range(sites)]
    for name in sorted(classes):
        order = [str(patient) for patient in rng.permutation(classes[name])]
        shares = np.cumsum(rng.dirichlet(np.full(sites, alpha)))
        cuts = [0, *np.rint(shares[:-1] * len(order)).astype(int), len(order)]
        for site in range(sites):
            dealt[site] += order[cuts[site] : cuts[site + 1]]
    for site in range(sites):
        if not dealt[site]:
            dealt[site].append(max(dealt, key=len).pop())
    return dealt
