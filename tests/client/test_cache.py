"""What the training cache promises: whole or refused, fast by patient, padded for vmap."""

from pathlib import Path

import pytest
import torch

from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from common.errors import CacheCorrupt, CacheMissing
from tests.client.scans import save, scan, write_labels


@pytest.fixture
def home(tmp_path: Path) -> Path:
    seed = 0
    for patient, images in (("A", 1), ("B", 5), ("C", 2)):
        for _ in range(images):
            seed += 1
            save(scan(seed=seed, patient=patient), tmp_path / "in" / f"{seed}.dcm")
    write_labels(tmp_path / "in", "A,,no", "B,,yes", "C,,yes", "C,1.2.826.0.1.3680043.8.498.8,no")
    ingest(tmp_path / "in", tmp_path / "home", IngestSettings(image_size=32, labels=("no", "yes")))
    return tmp_path / "home"


def test_images_of_a_patient_lie_together_in_range_and_order(home: Path) -> None:
    cache = Cache.open(home)
    assert (cache.patients, cache.images) == (3, 8)
    assert sorted(len(cache.patient(i)[1]) for i in range(3)) == [1, 2, 5]
    for i in range(3):
        images, labels = cache.patient(i)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.shape == (len(labels), 1, 32, 32)
        assert -1 <= images.min() < images.max() <= 1
    assert cache.patient_keys == tuple(sorted(cache.patient_keys))


def test_label_counts_are_patients_not_images(home: Path) -> None:
    assert Cache.open(home).label_counts() == [2, 2]


def test_at_most_k_images_a_patient_and_padding_weighs_nothing(home: Path) -> None:
    cache = Cache.open(home)
    counts = [len(cache.patient(i)[1]) for i in range(3)]
    x, y, w = cache.patients_images([0, 1, 2, 0], 3, torch.Generator().manual_seed(1))
    assert (x.shape, y.shape, w.shape) == ((4, 3, 1, 32, 32), (4, 3), (4, 3))
    assert w.sum(1).tolist() == [min(3, counts[i]) for i in (0, 1, 2, 0)]
    assert not x[w == 0].any()
    for place, i in enumerate((0, 1, 2, 0)):
        images, labels = cache.patient(i)
        for slot in range(int(w[place].sum())):
            match = [j for j in range(len(labels)) if torch.equal(images[j], x[place, slot])]
            assert [int(labels[j]) for j in match] == [int(y[place, slot])]


def test_the_draw_of_images_is_without_replacement_and_follows_the_generator(home: Path) -> None:
    cache = Cache.open(home)
    big = max(range(3), key=lambda i: len(cache.patient(i)[1]))
    draws = [cache.patients_images([big], 4, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert len({tuple(image.flatten().tolist()) for image in draws[0][0]}) == 4


def test_unknown_patient_is_an_index_error(home: Path) -> None:
    cache = Cache.open(home)
    for index in (-1, 3):
        with pytest.raises(IndexError, match="the cache has 3"):
            cache.patient(index)
        with pytest.raises(IndexError, match="the cache has 3"):
            cache.patients_images([index], 1, torch.Generator())


def test_home_without_a_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheMissing, match="ingest"):
        Cache.open(tmp_path)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "offsets.npy", "index.json", "CURRENT"])
def test_one_flipped_bit_anywhere_is_noticed(home: Path, name: str) -> None:
    (path,) = (home / "cache").rglob(name)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheCorrupt):
        Cache.open(home)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "offsets.npy", "index.json"])
def test_a_missing_part_is_noticed(home: Path, name: str) -> None:
    (path,) = (home / "cache").rglob(name)
    path.unlink()
    with pytest.raises(CacheCorrupt):
        Cache.open(home)


def test_open_cache_survives_the_next_ingest(home: Path) -> None:
    cache = Cache.open(home)
    before = cache.patient(0)[0]
    save(scan(seed=99, patient="D"), home.parent / "in" / "new.dcm")
    write_labels(home.parent / "in", "A,,no", "B,,yes", "C,,yes", "D,,no")
    ingest(home.parent / "in", home, IngestSettings(image_size=32, labels=("no", "yes")))
    assert torch.equal(cache.patient(0)[0], before)
    assert Cache.open(home).patients == 4
