"""Who is who without names: patient keys under the site's secret, merges of two ids, the data set's identity."""

import csv
import hmac
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from client.cohort.patient_ids import PatientId
from client.ledger.ledger_store import LedgerStore
from client.site import layout
from common.display.texts import NotText, read_text, why
from common.errors import DataError, StateError
from common.host.files import write_once

SECRET_BYTES = 32
CHECK_FILE = layout.SECRET_CHECK
"""Holds the HMAC-SHA256 (hex) of a constant under the site's secret, which tells another secret from it."""
SIGNING_KEY = "signing/site.key"
"""The key, below a site's home, that its verdicts are signed with; the coordinator records its public half."""
MERGES_FILE = "merges.csv"
_HEADER = ["patient_id", "same_as"]


def site_secret(home: Path) -> bytes:
    """Return the site's 32-byte secret, made by the operating system's CSPRNG on first use.

    The file `secret.key` (mode 0600) never leaves the site. With another secret every patient would have another key:
    withdrawn patients would match no more, and other patients would be held out. So a secret that was in use is not
    replaced. `secret.check` commits to it, and is written next to the secret of an older home when that is next read.

    Raises:
        StateError: The file does not hold 32 bytes, is not the one of before, or is gone from a home that had one.
        LedgerCorrupt: It is gone, and the ledger that would tell whether it was in use cannot be believed.
    """
    path = home / layout.SECRET
    if not path.exists():
        if _in_use(home) and not path.exists():  # looked at again: another process may have made both meanwhile
            raise StateError(
                f"{path} is gone, and this home was used with it; under another, patients who withdrew would come "
                "back. Restore it from the site's backup, or retire this data set"
            )
        write_once(path, os.urandom(SECRET_BYTES))
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise StateError(f"{path} must hold {SECRET_BYTES} bytes, not {len(secret)}. Restore it from the site's backup")
    check, commitment = home / CHECK_FILE, hmac.digest(secret, b"secret\0", "sha256").hex().encode()
    if not check.exists():
        write_once(check, commitment)
    if check.read_bytes() != commitment:
        raise StateError(
            f"{path} is not the secret this home was used with; under another, patients who withdrew would come back. "
            "Restore the first one from the site's backup"
        )
    return secret


def _in_use(home: Path) -> bool:
    """Whether the home has had a secret: one that was committed to, or one that rows of the ledger came of."""
    ledger = home / layout.LEDGER
    begun = ledger.exists() or ledger.with_suffix(".seal").exists()
    return (home / CHECK_FILE).exists() or (begun and bool(LedgerStore(ledger).rows()))


def patient_key(secret: bytes, patient_id: str, issuer: str = "") -> str:
    """Return the key of a PatientID and, where present, its issuer; see `Keys.of`.

    Args:
        secret: The site's secret.
        patient_id: PatientID as it stands in a header, a file or a command.
        issuer: IssuerOfPatientID; "" where none is named.
    """
    return Keys.of(secret, PatientId.read(patient_id, issuer)).full


def trait_key(secret: bytes, kind: str, value: str) -> str:
    """Return a key (16 hexadecimal digits) of something else that a header says of its patient; "" of nothing.

    Args:
        secret: The site's secret.
        kind: What the value is, "born" for one.
        value: The value as the header states it; "" for none.
    """
    word = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
    return hmac.digest(secret, word, "sha256").hex()[:16] if value else ""


def _keyed(secret: bytes, *parts: str) -> str:
    return hmac.digest(secret, b"patient\0" + "\0".join(parts).encode("utf-8", "surrogatepass"), "sha256").hex()


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What one header's patient may be known by, each an HMAC-SHA256 (hex) under the site's secret.

    Attributes:
        bare: Of the id alone.
        full: Of id and issuer; `bare` where no issuer is named.
        second: Of the id and a second issuer that the same header names; "" without one.
        was: What versions before "one rule" (docs/admission.md) knew the same patient by, where that differs.
    """

    bare: str
    full: str
    second: str = ""
    was: tuple[str, ...] = ()

    @classmethod
    def of(cls, secret: bytes, patient: PatientId) -> Self:
        """Return the keys of an id; older ones are known to `read` only."""
        bare = _keyed(secret, patient.id)
        full = _keyed(secret, patient.id, patient.issuer) if patient.issuer else bare
        return cls(bare=bare, full=full, second=_keyed(secret, patient.id, patient.second) if patient.second else "")

    @classmethod
    def read(cls, secret: bytes, patient_id: str, issuer: str = "") -> Self:
        """Return the keys of PatientID and IssuerOfPatientID as they stand in a header, a file or a command.

        Args:
            secret: The site's secret.
            patient_id: PatientID.
            issuer: IssuerOfPatientID; "" where none is named.
        """
        now, text, named = cls.of(secret, PatientId.read(patient_id, issuer)), patient_id.strip(), issuer.strip()
        lost = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        before = {_keyed(secret, text), _keyed(secret, lost)}
        if named:
            before |= {_keyed(secret, text, named), _keyed(secret, lost, named)}
        return replace(now, was=tuple(sorted(before - {now.bare, now.full})))


def cohort_identity(secret: bytes, patients: Iterable[str]) -> str:
    """Return the data set's identity for the privacy ledger: HMAC-SHA256 (hex) of the sorted patient keys."""
    return hmac.digest(secret, b"cohort\0" + "\n".join(sorted(set(patients))).encode(), "sha256").hex()


@dataclass(frozen=True, kw_only=True)
class Merge:
    """One line of `merges.csv`: two ids of one person, and its number; 0 where it comes from no file."""

    left: Keys
    right: Keys
    line: int = 0


@dataclass(frozen=True)
class Merges:
    """Ids that the hospital says are one person."""

    lines: tuple[Merge, ...] = ()

    @classmethod
    def read(cls, path: Path, secret: bytes) -> Self:
        """Read `merges.csv` with the columns `patient_id,same_as`; an absent file merges no ids.

        Raises:
            DataError: The file is not UTF-8 CSV with that header, or a line lacks one of its two ids.
        """
        if not path.exists():
            return cls()
        try:
            rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
        except (OSError, NotText) as error:
            raise DataError(f"{path.name}: {why(error)}") from error
        except csv.Error as error:
            raise DataError(f"{path.name}: not a CSV file ({type(error).__name__}). Save it as such") from error
        if not rows or [cell.strip() for cell in rows[0]] != _HEADER:
            raise DataError(f"{path.name}: the first line must be `{','.join(_HEADER)}`")
        lines: list[Merge] = []
        for number, row in enumerate(rows[1:], start=2):
            if row and (len(row) != len(_HEADER) or not all(PatientId.read(cell).id for cell in row)):
                raise DataError(f"{path.name}: line {number} must hold two ids")
            if row:
                left, right = (Keys.read(secret, cell) for cell in row)
                lines.append(Merge(left=left, right=right, line=number))
        return cls(tuple(lines))
