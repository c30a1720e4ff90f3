"""A table says whose image is whose; where it leaves that open, nothing is imported."""

from pathlib import Path

import pytest

from common.errors import SourceError
from deploy.data.tables import Row, Table, read_table, write_labels

FILES = ("set/a.png", "set/b.png", "c.png")


def table(tmp_path: Path, text: str, **columns: str) -> Table:
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    return Table(path=tmp_path / "table.csv", **{"patient_column": "who", **columns})


def test_rows_name_images_by_path_name_or_stem(tmp_path: Path) -> None:
    given = table(
        tmp_path, "\ufeffwho,image,class\n p1 ,a,x\np1,b.png,\np2,c.png,y\np3,absent,y\n", label_column="class"
    )
    assert read_table(given, FILES) == [
        Row(file="set/a.png", patient="p1", label="x"),
        Row(file="set/b.png", patient="p1", label=""),
        Row(file="c.png", patient="p2", label="y"),
    ]


def test_without_a_label_column_no_image_has_a_label(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, "who,image,class\np1,a,x\n"), FILES)
    assert [row.label for row in rows] == [""]


def test_the_column_of_files_is_found_by_its_values_or_named(tmp_path: Path) -> None:
    text = "note,who,image\na,p1,b\nzzz,p2,c\n"
    assert [row.file for row in read_table(table(tmp_path, text), FILES)] == ["set/b.png", "c.png"]
    assert [row.file for row in read_table(table(tmp_path, text, file_column="note"), FILES)] == ["set/a.png"]


def test_a_name_that_fits_two_images_names_neither(tmp_path: Path) -> None:
    files = ("x/a.png", "y/a.png", "x/b.png")
    rows = read_table(table(tmp_path, "who,image\np1,a\np2,x/a\np3,y/a.png\np4,b\n"), files)
    assert [(row.patient, row.file) for row in rows] == [("p2", "x/a.png"), ("p3", "y/a.png"), ("p4", "x/b.png")]


def test_the_same_row_twice_is_one_image(tmp_path: Path) -> None:
    assert len(read_table(table(tmp_path, "who,image\np1,a\np1,a.png\n"), FILES)) == 1


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("who,image\np1,a\n", {"patient_column": "patient"}, "no column 'patient'; its columns are who, image"),
        ("who,image\np1,a\n", {"patient_column": ""}, "needs --patient-column; its columns are who, image"),
        ("who,image\np1,a\n", {"label_column": "class"}, "no column 'class'"),
        ("who,image\np1,a\n", {"file_column": "file"}, "no column 'file'"),
        ("who,image\np1,a\n,b\n", {}, "line 3: no patient"),
        ("who,image\np1,a\np2,a\n", {}, "line 3: the image has another patient or label"),
        ("who,image,class\np1,a,x\np1,a,y\n", {"label_column": "class"}, "line 3: the image has another"),
        ("who,image\np1,zzz\n", {}, "names one of the source's 3 images"),
        ("who,image\n", {}, "no lines below its header"),
        ("", {}, "no lines below its header"),
        ('who,image\n"p1,a\n', {}, "cannot be read as UTF-8 CSV"),
    ],
)
def test_a_table_that_leaves_something_open_is_refused(
    tmp_path: Path, text: str, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read_table(table(tmp_path, text, **columns), FILES)


def test_no_message_about_a_row_names_a_patient(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        read_table(table(tmp_path, "who,image\nJane Doe,a\nJohn Doe,a\n"), FILES)
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize("data", [b"who,image\nM\xfcller,a\n", None])
def test_a_file_that_is_no_utf8_or_not_there_is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(SourceError, match="cannot be read as UTF-8 CSV"):
        read_table(Table(path=tmp_path / "t.csv", patient_column="who"), FILES)


def test_labels_are_written_in_the_form_that_sites_read(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", [("p,1", "", "normal"), ("p2", "2.25.1", "lesion")])
    assert (tmp_path / "labels.csv").read_bytes() == (
        b'patient_id,sop_instance_uid,label\n"p,1",,normal\np2,2.25.1,lesion\n'
    )
