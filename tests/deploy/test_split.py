"""A patient is at exactly one hospital, every hospital has one, and the same seed deals the same way."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import SourceError
from deploy.data.split import split_patients


@given(
    counts=st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(1, 30), min_size=6, max_size=30),
    sites=st.integers(1, 6),
    split=st.sampled_from(["iid", "by-patient", "dirichlet:0.01", "dirichlet:0.5", "dirichlet:100"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_every_patient_is_at_one_site_and_every_site_has_a_patient(
    counts: dict[str, int], sites: int, split: str, seed: int
) -> None:
    labels = {patient: str(len(patient) % 2) for patient in counts if not patient.startswith("a")}
    dealt = split_patients(counts, labels, sites=sites, split=split, seed=seed)
    assert sorted(itertools.chain(*dealt)) == sorted(counts)
    assert len(dealt) == sites
    assert all(dealt)
    assert dealt == split_patients(counts, labels, sites=sites, split=split, seed=seed)


def test_iid_sites_differ_by_one_patient_at_most_and_change_with_the_seed() -> None:
    counts = {f"p{number:02}": 1 for number in range(32)}
    first = split_patients(counts, {}, sites=3, split="iid", seed=1)
    assert sorted(map(len, first)) == [10, 11, 11]
    assert first != split_patients(counts, {}, sites=3, split="iid", seed=2)


def test_by_patient_balances_images_where_patients_are_very_uneven() -> None:
    counts = {f"p{number:02}": size for number, size in enumerate([22, 22, 18, 17, 13, 9, 8, 7, *[1] * 40])}
    dealt = split_patients(counts, {}, sites=3, split="by-patient", seed=0)
    held = [sum(counts[patient] for patient in site) for site in dealt]
    assert max(held) - min(held) <= 1


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    counts = {f"p{number:03}": 1 for number in range(400)}
    labels = {patient: str(int(patient[1:]) % 2) for patient in counts}

    def spread(alpha: str) -> float:
        dealt = split_patients(counts, labels, sites=2, split=f"dirichlet:{alpha}", seed=5)
        shares = [sum(labels[patient] == "1" for patient in site) / len(site) for site in dealt]
        return abs(shares[0] - shares[1])

    assert spread("0.05") > 0.4
    assert spread("1000") < 0.1


@pytest.mark.parametrize(
    "split", ["random", "dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan", "IID"]
)
def test_an_unknown_split_is_refused_with_the_known_ones(split: str) -> None:
    with pytest.raises(SourceError, match="known are iid, by-patient and dirichlet:ALPHA"):
        split_patients({"a": 1, "b": 1}, {}, sites=2, split=split, seed=0)


@pytest.mark.parametrize("split", ["iid", "by-patient", "dirichlet:1"])
def test_fewer_patients_than_sites_are_refused(split: str) -> None:
    with pytest.raises(SourceError, match="3 sites were asked for, but the source has 2 patients"):
        split_patients({"a": 9, "b": 9}, {}, sites=3, split=split, seed=0)
