"""An archive spells one person's id in two ways, or two persons' ids in one: what does a hospital make of it?

    python -m tests.attacks.one_person_two_ids

One person counted as two patients has half the guarantee that is stated. Two persons counted as one are safe, and lost
to the study. Neither may happen without a word: each archive below is ingested as a steward does, and must come to the
right number of patients, or be refused, or be told as a doubt.

Prints each archive and what became of it; exit code 1 if one was miscounted silently.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.admission.ingest import IngestSettings, ingest
from common.errors import DataError
from tests.client.scans import save, scan


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One archive.

    Attributes:
        what: What is odd in it, in words.
        headers: DICOM values of each file; `patient` is the PatientID.
        persons: How many persons these truly are.
        merges: Lines of merges.csv.
        bytes_of: What stands in each PatientID in place of "?", as bytes.
    """

    what: str
    headers: tuple[dict[str, Any], ...]
    persons: int
    merges: str = ""
    bytes_of: tuple[bytes, ...] = ()


def _ids(*ids: tuple[str, str]) -> tuple[dict[str, Any], ...]:
    return tuple({"patient": name, **({"IssuerOfPatientID": issuer} if issuer else {})} for name, issuer in ids)


UTF8 = {"SpecificCharacterSet": "ISO_IR 192"}
ARCHIVES = (
    Archive(what="issuer in one file, none in the other", headers=_ids(("4711", ""), ("4711", "HOSP")), persons=1),
    Archive(what="issuer in two cases and with blanks", headers=_ids(("4711", "HOSP"), ("4711", " hosp ")), persons=1),
    Archive(what="the id as an HL7 CX", headers=_ids(("4711", "HOSP"), ("4711^^^HOSP&1.2&ISO", "")), persons=1),
    Archive(what="a CX and no issuer", headers=_ids(("4711", ""), ("4711^^^HOSP", "")), persons=1),
    Archive(what="a CX and another issuer", persons=1,
            headers=_ids(("4711^^^HOSP", "X"), ("4711", "HOSP"), ("4711", "X"))),
    Archive(what="the id in two cases", headers=_ids(("abc-1", ""), ("ABC-1", "")), persons=1),
    Archive(what="leading zeros", headers=_ids(("004711", ""), ("4711", "")), persons=1),
    Archive(what="padding", headers=_ids(("4711 ", ""), (" 4711", "")), persons=1),
    Archive(what="two issuers, one id", headers=_ids(("4711", "A"), ("4711", "B")), persons=2),
    Archive(what="merges.csv names an id of two issuers", headers=_ids(("4711", "A"), ("4711", "B"), ("4712", "")),
            persons=2, merges="4711,4712"),
    Archive(what="two ids that decode to the same replacement characters", persons=2, bytes_of=(b"\xfc", b"\xf6"),
            headers=({"patient": "M?ller", **UTF8}, {"patient": "M?ller", **UTF8})),
    Archive(what="ids whose letters were lost before", persons=2,
            headers=({"patient": "M\ufffdller", **UTF8}, {"patient": "M\ufffdller", **UTF8})),
    Archive(what="a placeholder", headers=_ids(*[("ANONYMOUS", "")] * 5), persons=5),
    Archive(what="nought as a placeholder", headers=_ids(("0", ""), ("0", "")), persons=2),
    Archive(what="one id with two birth dates", persons=2,
            headers=tuple({"patient": "4711", "PatientBirthDate": date} for date in ("19500101", "19610203"))),
    Archive(what="one id with both sexes", persons=2,
            headers=({"patient": "4711", "PatientSex": "M"}, {"patient": "4711", "PatientSex": "F"})),
)  # fmt: skip


def main() -> int:
    """Ingest every archive and say what came of it."""
    silent = sum(miscounted(archive) for archive in ARCHIVES)
    print(f"\n{silent} of {len(ARCHIVES)} archives were miscounted silently")
    return 1 if silent else 0


def miscounted(archive: Archive) -> bool:
    """Ingest one archive, print what became of it, and return whether it was miscounted without a word."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write(archive, place / "in")
        try:
            summary = ingest(place / "in", place / "home", IngestSettings(image_size=28), workers=1, ocr=False)
        except DataError as error:
            return _said(archive, f"refused: {error}", silent=False)
    got = f"{summary.patients} patients; doubts {summary.doubts}; left out {summary.reasons}"
    return _said(archive, got, silent=summary.patients != archive.persons and not (summary.doubts or summary.reasons))


def _write(archive: Archive, folder: Path) -> None:
    for number, values in enumerate(archive.headers):
        path = save(scan(seed=number + 1, **values), folder / f"{number}.dcm")
        if archive.bytes_of:
            path.write_bytes(path.read_bytes().replace(b"?", archive.bytes_of[number]))
    if archive.merges:
        (folder / "merges.csv").write_text(f"patient_id,same_as\n{archive.merges}\n")


def _said(archive: Archive, got: str, *, silent: bool) -> bool:
    print(f"{archive.what}: truly {archive.persons}\n  {got}")
    print(f"  -> {'THE ATTACK WORKS: miscounted without a word' if silent else 'right, refused or told'}")
    return silent


if __name__ == "__main__":
    sys.exit(main())
