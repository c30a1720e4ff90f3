"""What `labels.csv` promises: the right class or a refusal with a line number, never an id."""

from pathlib import Path

import pytest

from client.admission.ingest import IngestSettings, ingest
from client.cohort.cache import Cache
from common.errors import LabelsError
from tests.client.scans import cohort, save, scan, write_labels

SETTINGS = IngestSettings(image_size=32, labels=("no", "yes"))


def test_a_line_with_a_uid_outweighs_the_patients_line(tmp_path: Path) -> None:
    for seed in (1, 2):
        save(scan(seed=seed, patient="A"), tmp_path / "in" / f"{seed}.dcm")
    write_labels(tmp_path / "in", "A,,no", "A,1.2.826.0.1.3680043.8.498.2,yes")
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert Cache.open(tmp_path / "home").patient(0)[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["P0,,no", "P1,,maybe"], "line 3"),
        (["P0,,no", "P1,yes"], "line 3"),
        (["P0,,no", ",,yes"], "line 3"),
        (["P0,,no", "P1,,yes", "SECRET-7,,yes"], "1 unknown patients.*line 4"),
        (["P0,,no", "P1,9.9.9,yes"], "line 3"),
    ],
)
def test_what_is_wrong_in_a_line_is_told_by_its_number_without_its_text(
    tmp_path: Path, lines: list[str], told: str
) -> None:
    cohort(tmp_path / "in", patients=2)
    write_labels(tmp_path / "in", *lines)
    with pytest.raises(LabelsError, match=told) as caught:
        ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert "SECRET" not in str(caught.value)
    assert "maybe" not in str(caught.value)
    assert "9.9.9" not in str(caught.value)
    assert not list((tmp_path / "home").rglob("index.json"))


def test_missing_file_and_wrong_header_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=1)
    with pytest.raises(LabelsError, match="missing"):
        ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    write_labels(tmp_path / "in", "P0,,no", header="patient,uid,label")
    with pytest.raises(LabelsError, match="first line"):
        ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    (tmp_path / "in" / "labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelsError, match="UTF-8"):
        ingest(tmp_path / "in", tmp_path / "home", SETTINGS)


def test_an_accent_is_the_same_word_however_the_table_was_saved(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=2)
    write_labels(tmp_path / "in", "P0,,o\u0308dem", "P1,,\u00f6dem")
    ingest(tmp_path / "in", tmp_path / "home", IngestSettings(image_size=32, labels=("normal", "\u00f6dem")))
    assert Cache.open(tmp_path / "home").label_counts() == [0, 2]


def test_unlabelled_and_contradictory_images_are_refused_and_the_patient_is_reported(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=3)
    write_labels(tmp_path / "in", "P0,,no", "P1,,yes", "P1,,no")
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (summary.admitted, summary.reasons) == (2, {"contradictory_label": 2, "unlabelled": 2})
    assert summary.contradictory_patients == 1


def test_new_labels_reach_unchanged_files(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=2)
    write_labels(tmp_path / "in", "P0,,no")
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    write_labels(tmp_path / "in", "P0,,yes", "P1,,no")
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (summary.patients, summary.refused) == (2, 0)
    assert Cache.open(tmp_path / "home").label_counts() == [1, 1]


def test_label_of_a_patient_whose_only_file_is_broken_stops_nobody(tmp_path: Path) -> None:
    files = cohort(tmp_path / "in", patients=2, images=1)
    write_labels(tmp_path / "in", "P0,,no", "P1,,yes")
    files[0].write_bytes(files[0].read_bytes()[:150])
    assert ingest(tmp_path / "in", tmp_path / "home", SETTINGS).patients == 1


def test_label_can_come_from_an_attribute(tmp_path: Path) -> None:
    for seed, word in enumerate(["No", "yes", "unclear"], start=1):
        save(scan(seed=seed, patient=f"P{seed}", StudyDescription=word), tmp_path / "in" / f"{seed}.dcm")
    settings = IngestSettings(image_size=32, labels=("no", "yes"), label_attribute="StudyDescription")
    summary = ingest(tmp_path / "in", tmp_path / "home", settings)
    assert (summary.admitted, summary.reasons) == (2, {"unlabelled": 1})
    assert Cache.open(tmp_path / "home").label_counts() == [1, 1]


def test_a_twin_without_a_label_does_not_keep_a_labelled_image_out(tmp_path: Path) -> None:
    for number, patient in enumerate("ABCDEFGH"):
        save(scan(seed=5, patient=patient, SOPInstanceUID=f"1.2.{number}"), tmp_path / "in" / f"{number}.dcm")
    write_labels(tmp_path / "in", "D,,yes")
    summary = ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert (summary.admitted, summary.reasons) == (1, {"unlabelled": 7})


def test_labels_that_change_while_files_are_read_are_seen_by_the_next_ingest(tmp_path: Path) -> None:
    cohort(tmp_path / "in", patients=2)
    write_labels(tmp_path / "in", "P0,,no", "P1,,no")

    def progress(_done: int, _total: int) -> None:
        write_labels(tmp_path / "in", "P0,,no", "P1,,yes")

    ingest(tmp_path / "in", tmp_path / "home", SETTINGS, progress=progress)
    assert Cache.open(tmp_path / "home").label_counts() == [2]
    ingest(tmp_path / "in", tmp_path / "home", SETTINGS)
    assert Cache.open(tmp_path / "home").label_counts() == [1, 1]
