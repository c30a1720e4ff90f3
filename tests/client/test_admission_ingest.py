"""What `ingest` promises: every file accounted for, the same cache whatever the order, no id anywhere."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Resize

from client.admission.cache_writer import exclusive
from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from common.errors import NoUsableScans
from common.images.pixels import fit_square, uint16_to_unit, unit_to_uint16
from common.plan.study_plan import StudyPlan
from tests.client.scans import cohort, picture, save, scan
from tests.client.windows import window_to_unit

SETTINGS = IngestSettings(image_size=32)


def cache_bytes(home: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in (home / "cache").rglob("*") if path.is_file() and path.name != "LOCK"
    }


def test_every_file_is_in_exactly_one_of_admitted_refused_and_quarantined(tmp_path: Path) -> None:
    cohort(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no scan")
    save(scan(seed=90, patient="P9", BurnedInAnnotation="YES"), tmp_path / "in" / "us.dcm")
    save(scan(seed=91, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"), tmp_path / "in" / "report.dcm")
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (summary.files, summary.admitted, summary.refused, summary.quarantined) == (9, 6, 2, 1)
    assert summary.reasons == {"not_dicom": 1, "burned_in": 1, "unsupported_object": 1}
    assert sorted(summary.refusals) == [
        ("notes.txt", "not_dicom"), ("report.dcm", "unsupported_object"), ("us.dcm", "burned_in"),
    ]  # fmt: skip
    assert "refusals" not in summary.to_dict()
    json.dumps(summary.to_dict())


def test_cache_does_not_depend_on_file_names_or_workers(tmp_path: Path) -> None:
    files = cohort(tmp_path / "in", patients=5)
    shutil.copytree(tmp_path / "in", tmp_path / "other")
    for number, path in enumerate(sorted((tmp_path / "other").rglob("*.dcm"), reverse=True)):
        path.rename(tmp_path / "other" / f"{number}.bin")
    assert len(files) == 10
    (tmp_path / "h1").mkdir()
    (tmp_path / "h2").mkdir()
    for home in ("h1", "h2"):
        (tmp_path / home / "secret.key").write_bytes(bytes(range(32)))
    ingest(tmp_path / "in", tmp_path / "h1", SETTINGS, workers=1)
    ingest(tmp_path / "other", tmp_path / "h2", SETTINGS, workers=3)
    assert cache_bytes(tmp_path / "h1") == cache_bytes(tmp_path / "h2")


def test_pixels_are_the_plans_window_in_the_plans_size(tmp_path: Path) -> None:
    stored = picture(7, rows=60, columns=30)
    save(scan(stored, seed=7, RescaleSlope=2, RescaleIntercept=-1000), tmp_path / "in" / "a.dcm")
    ingest(tmp_path / "in", tmp_path / "home", IngestSettings(image_size=32, window=(1500.0, 3000.0)))
    values = torch.from_numpy(stored.astype(np.float32) * 2 - 1000)
    expected = fit_square(window_to_unit(values, centre=1500.0, width=3000.0), size=32)
    images, labels = Cache.open(tmp_path / "home").patient(0)
    assert labels.tolist() == [0]
    torch.testing.assert_close(images[0, 0], expected, atol=5e-5, rtol=0)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    stored = picture(3, bits=16)
    for name, photometric in (("m1", "MONOCHROME1"), ("m2", "MONOCHROME2")):
        save(scan(stored, PhotometricInterpretation=photometric), tmp_path / name / "a.dcm")
        ingest(tmp_path / name, tmp_path / f"home-{name}", IngestSettings(image_size=32, window=(30000.0, 40000.0)))
    one, two = (Cache.open(tmp_path / f"home-{name}").patient(0)[0] for name in ("m1", "m2"))
    # resizing pads the short side with the picture's darkest level, which differs between the two
    torch.testing.assert_close(one[..., 5:27, :], -two[..., 5:27, :], atol=5e-5, rtol=0)


def test_folder_that_is_missing_empty_or_free_of_images_is_refused_and_writes_no_cache(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    for name in ("missing", "empty", "text"):
        with pytest.raises(NoUsableScans, match=name):
            ingest(tmp_path / name, tmp_path / "home", SETTINGS)
    assert not list((tmp_path / "home").rglob("index.json"))


def test_dry_run_counts_the_same_and_writes_nothing(tmp_path: Path) -> None:
    cohort(tmp_path / "in")
    dry = ingest(tmp_path / "in", tmp_path / "home", SETTINGS, dry_run=True)
    assert not (tmp_path / "home").exists()
    assert dry == ingest(tmp_path / "in", tmp_path / "home", SETTINGS)


def test_no_patient_id_is_anywhere_in_the_home(tmp_path: Path) -> None:
    save(scan(patient="MUELLER-4711"), tmp_path / "in" / "a.dcm")
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert not [path for path in files if b"4711" in path.read_bytes()]


def test_patients_are_told_apart_by_id_and_issuer(tmp_path: Path) -> None:
    for seed, (patient, issuer) in enumerate([("1", "A"), ("1", "B"), (" 1 ", "A"), ("2", None)], start=1):
        extra = {} if issuer is None else {"IssuerOfPatientID": issuer}
        save(scan(seed=seed, patient=patient, **extra), tmp_path / "in" / f"{seed}.dcm")
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS).patients == 3


def test_same_uid_or_same_pixels_count_once_for_a_patient(tmp_path: Path) -> None:
    save(scan(seed=1, patient="P1"), tmp_path / "in" / "a.dcm")
    save(scan(seed=1, patient="P1"), tmp_path / "in" / "copy.dcm")
    save(scan(seed=1, patient="P1", SOPInstanceUID="1.2.3"), tmp_path / "in" / "same-pixels.dcm")
    save(scan(seed=1, patient="P2", SOPInstanceUID="1.2.4"), tmp_path / "in" / "of-another.dcm")
    save(scan(seed=2, patient="P1"), tmp_path / "in" / "b.dcm")
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (summary.admitted, summary.reasons) == (3, {"duplicate": 2})


def test_merge_file_makes_two_ids_one_patient(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=4)
    before = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    (tmp_path / "in" / "merges.csv").write_text("patient_id,same_as\nP1,P3\n")
    after = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (before.patients, after.patients, after.files) == (4, 3, 8)
    assert sorted(Cache.open(tmp_path / "home").patient(i)[0].shape[0] for i in range(3)) == [2, 2, 4]


def test_unchanged_folder_is_not_read_again(tmp_path: Path) -> None:
    files = cohort(tmp_path / "in")
    first = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    before = cache_bytes(tmp_path / "home")
    second = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (first.reused, second.reused) == (0, len(files))
    assert cache_bytes(tmp_path / "home") == before
    assert first.to_dict() | {"reused": 0} == second.to_dict() | {"reused": 0}


def test_only_changed_files_are_read_again_and_the_cache_equals_a_fresh_one(tmp_path: Path) -> None:
    files = cohort(tmp_path / "in", patients=4)
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    old = Cache.open(tmp_path / "home")
    files[0].unlink()
    files[1].unlink()
    save(scan(seed=77, patient="P2"), files[2])
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (summary.reused, summary.patients) == (5, 3)
    shutil.copytree(tmp_path / "home", tmp_path / "fresh")
    shutil.rmtree(tmp_path / "fresh" / "cache")
    ingest(tmp_path / "in", tmp_path / "fresh", SETTINGS)
    assert cache_bytes(tmp_path / "home") == cache_bytes(tmp_path / "fresh")
    assert Cache.open(tmp_path / "home").identity != old.identity


def test_other_settings_make_another_cache(tmp_path: Path) -> None:
    cohort(tmp_path / "in")
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    other = IngestSettings(image_size=28)
    ingest(tmp_path / "in", tmp_path / "home", other)
    cache = Cache.open(tmp_path / "home")
    assert (cache.image_size, cache.settings_digest) == (28, other.digest)
    assert SETTINGS.digest != other.digest


def test_links_devices_and_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=1, images=1)
    outside = save(scan(seed=50, patient="OUT"), tmp_path / "outside.dcm")
    (tmp_path / "in" / "out.dcm").symlink_to(outside)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "fifo")
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (summary.admitted, summary.reasons) == (1, {"not_regular": 1, "symlink": 2})


def test_settings_follow_the_plan() -> None:
    plan = StudyPlan.parse(
        'name = "s"\n[data]\nimage_size = 32\nmodality = ["CR"]\nwindow = [40, 400]\nlabels = ["a", "b"]'
    )
    settings = IngestSettings.from_plan(plan)
    assert settings == IngestSettings(image_size=32, modality=("CR",), window=(40.0, 400.0), labels=("a", "b"))
    assert IngestSettings.from_dict(settings.to_dict()) == settings


def test_every_inclusion_key_of_a_plan_reaches_admission() -> None:
    plan = StudyPlan.parse(
        'name = "a"\n[data]\nbody_parts = ["CHEST"]\nviews = ["PA", "AP"]\nmin_side = 200\n'
        'labels = ["F", "M"]\nlabel_attribute = "PatientSex"\n'
    )
    settings = IngestSettings.from_plan(plan)
    assert settings.body_parts == ("CHEST",)
    assert settings.views == ("PA", "AP")
    assert (settings.min_side, settings.label_attribute) == (200, "PatientSex")


def test_stored_form_is_exact_to_half_a_step() -> None:
    image = torch.rand(4, 4) * 2 - 1
    torch.testing.assert_close(uint16_to_unit(unit_to_uint16(image)), image, atol=1.7e-5, rtol=0)


def test_what_a_killed_ingest_left_in_the_cache_folder_is_cleared_and_nothing_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    (folder / ".draft-half").mkdir(parents=True)
    (folder / ".draft-half" / "images.npy").write_bytes(b"half")
    (folder / ".CURRENT.0123456789abcdef.draft").write_bytes(b"half")
    (folder / "CURRENT").write_bytes(b"whole")
    with exclusive(tmp_path):
        assert sorted(path.name for path in folder.iterdir()) == ["CURRENT", "LOCK"]


@pytest.mark.parametrize("size", [28, 100, 128])
@pytest.mark.parametrize("shape", [(40, 48), (28, 28), (17, 9), (700, 512), (3, 200), (128, 128)])
def test_an_image_is_resized_bit_for_bit_as_by_monai_which_an_ingest_need_not_load(
    shape: tuple[int, int], size: int
) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    inside = tuple(max(1, round(side * size / max(shape))) for side in shape)
    mode = "area" if max(shape) > size else "bilinear"
    resize = Resize(spatial_size=inside, mode=mode, align_corners=None if mode == "area" else False)
    expected = torch.as_tensor(np.asarray(resize(image[None])))[0].clamp(-1, 1)
    top, left = ((size - side) // 2 for side in inside)
    found = fit_square(image, size=size)[top : top + inside[0], left : left + inside[1]]
    assert torch.equal(found, expected)
