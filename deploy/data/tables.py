"""CSV files that say which image belongs to which patient and its label: a data set's own, and ours."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.display.texts import NotText, read_text
from common.errors import SourceError

LABEL_HEADER = ("patient_id", "sop_instance_uid", "label")
Record = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Which columns of a CSV file name what.

    Attributes:
        path: The CSV file, UTF-8, with a header line.
        patient_column: Column of patient ids.
        label_column: Column of labels; None for images without labels.
        file_column: Column of file names, with or without folder and suffix; where None, the column most of
            whose values name an image of the source.
    """

    path: Path
    patient_column: str | None = None
    label_column: str | None = None
    file_column: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image as the table describes it: its name in the source, its patient, its label or nothing."""

    file: str
    patient: str
    label: str


def read_table(table: Table, files: Sequence[str]) -> list[Row]:
    """Read the rows that name an image of the source; rows that name none are left out.

    Args:
        table: Which file and columns.
        files: Names of the source's images.

    Returns:
        One row an image, in the order of the table.

    Raises:
        SourceError: The file is unreadable, a column is missing, no row names an image, a row has no patient,
            or two rows give one image to two patients or labels.
    """
    columns, records = _read_records(table.path)
    patient_column = _column(table, "patient", table.patient_column, columns)
    label_column = _column(table, "label", table.label_column, columns) if table.label_column else None
    by_name = _index(files)
    file_column = (
        _column(table, "file", table.file_column, columns)
        if table.file_column
        else max(columns, key=lambda column: sum(record[column] in by_name for record in records))
    )
    rows: dict[str, Row] = {}
    for number, record in enumerate(records, start=2):
        file = by_name.get(record[file_column])
        if file is None:
            continue
        if not record[patient_column]:
            raise SourceError(f"{table.path} line {number}: no patient in column {patient_column!r}. Fill it in.")
        row = Row(file=file, patient=record[patient_column], label=record[label_column] if label_column else "")
        if rows.setdefault(file, row) != row:
            raise SourceError(f"{table.path} line {number}: the image has another patient or label further up.")
    if not rows:
        raise SourceError(
            f"{table.path}: no value of column {file_column!r} names one of the source's {len(files)} "
            "images. Name the column of file names with --file-column."
        )
    return list(rows.values())


def write_labels(path: Path, lines: list[tuple[str, str, str]]) -> None:
    """Write `labels.csv`: patient id, SOP Instance UID (empty: all images of the patient), label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LABEL_HEADER)
        writer.writerows(lines)


def _read_records(path: Path) -> tuple[list[str], list[Record]]:
    """Return the columns and the lines of a CSV file, values stripped of blanks, short lines filled up."""
    try:
        text = io.StringIO(read_text(path), newline="")
        reader = csv.DictReader(text, restval="", strict=True)
        columns = list(reader.fieldnames or [])
        records = [{name: line[name].strip() for name in columns} for line in reader]
    except NotText as error:
        raise SourceError(f"{path} cannot be read as UTF-8 CSV: {error}.") from error
    except (OSError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read as UTF-8 CSV ({type(error).__name__}).") from error
    if not records:
        raise SourceError(f"{path} has no lines below its header. Give a table that names images.")
    return columns, records


def _column(table: Table, what: str, name: str | None, columns: list[str]) -> str:
    if name not in columns:
        asked = f"has no column {name!r}" if name else f"needs --{what}-column"
        raise SourceError(f"{table.path} {asked}; its columns are {', '.join(columns)}.")
    return name


def _index(files: Sequence[str]) -> dict[str, str]:
    """Map every way to name an image (path or file name, with or without suffix) to it, where unique."""
    index: dict[str, str] = {}
    ambiguous: set[str] = set()
    for file in files:
        path = PurePosixPath(file)
        for key in {file, path.name, path.stem, str(path.with_suffix(""))}:
            if index.setdefault(key, file) != file:
                ambiguous.add(key)
    return {key: file for key, file in index.items() if key not in ambiguous}
