"""The one door through which objects from a network reach a folder: checked, capped, complete or not there at all."""

import contextlib
import secrets
import shutil
import struct
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian

from client.pacs.elements import check_whole
from client.pacs.study import (
    AnnouncedInstance,
    PacsAnswerInvalid,
    PacsOverCap,
    PullLimits,
    StudyIncomplete,
    checked_uid,
    hashed,
)
from common.errors import StateError
from common.host.files import PRIVATE, new_file

_LAST_TAG = 0x0020000E  # SeriesInstanceUID: nothing behind it is read
_UNREADABLE = (
    InvalidDicomError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    IndexError,
    EOFError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
    Warning,  # where the process makes errors of them
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which object a DICOM file says it is: StudyInstanceUID and SOPInstanceUID, both well formed."""

    study: str
    sop: str


def read_identity(path: Path) -> Identity:
    """Read who a DICOM file says it is, and walk its elements to the end of the file.

    Raises:
        PacsAnswerInvalid: Not a DICOM file, without the two UIDs, deflated (its size cannot be bounded before it is
            inflated), or not whole.
    """
    try:
        syntax = str(read_file_meta_info(path).TransferSyntaxUID)
        if syntax == DeflatedExplicitVRLittleEndian:
            raise PacsAnswerInvalid("the PACS sent a deflated object. Ask its keeper for an uncompressed or JPEG form")
        with path.open("rb") as stream:
            head = read_partial(stream, stop_when=lambda tag, vr, length: tag > _LAST_TAG)
        uids = [
            raw_text(head, keyword).strip(" \0") for keyword in ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID")
        ]
    except (*_UNREADABLE, OSError) as error:
        raise PacsAnswerInvalid(f"the PACS sent something that is not a DICOM file ({type(error).__name__})") from error
    identity = Identity(
        study=checked_uid(uids[0], what="StudyInstanceUID"), sop=checked_uid(uids[1], what="SOPInstanceUID")
    )
    check_whole(path, syntax=syntax, sop_class=uids[2])
    return identity


def whole_files(paths: Collection[Path]) -> list[Path]:
    """Return those of the paths that are whole DICOM files."""
    found = []
    for path in paths:
        with contextlib.suppress(PacsAnswerInvalid):
            read_identity(path)
            found.append(path)
    return found


def raw_text(dataset: Dataset, keyword: str) -> str:
    """Return an element's value as it was sent, without pydicom's checks, which repeat bad values in a log."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    value = getattr(element, "value", None)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


@contextlib.contextmanager
def spooled(data: bytes, folder: Path, *, limits: PullLimits) -> Iterator[tuple[Path, Identity]]:
    """Write an object under a temporary name, readable by its owner only, and yield the path and who it says it is.

    To keep the file, move it away; a file that still lies there at the end is removed.

    Args:
        data: The object's bytes.
        folder: Folder of the temporary file.
        limits: Bounds on sizes and times.

    Raises:
        PacsOverCap: Larger than `limits.instance_bytes`; nothing was written.
        PacsAnswerInvalid: Not DICOM.
        StateError: The disk is full or cannot be written.
    """
    if len(data) > limits.instance_bytes:
        raise PacsOverCap(
            f"the PACS sent an object of {len(data)} bytes, the cap is {limits.instance_bytes}. "
            "Raise --max-instance-mib if such objects are expected"
        )
    part = folder / f"{secrets.token_hex(8)}.part"
    try:
        if shutil.disk_usage(folder).free < limits.free_bytes + len(data):
            raise StateError(
                f"{folder}: less than {limits.free_bytes} bytes are left on the disk. Make room, then run again"
            )
        with new_file(part, mode=PRIVATE) as stream:
            stream.write(data)
        yield part, read_identity(part)
    except OSError as error:
        raise StateError(
            f"{folder}: an object could not be stored ({error.strerror}). Make room or check the "
            "permissions, then run again"
        ) from error
    finally:
        part.unlink(missing_ok=True)


class StudyInbox:
    """The folder in which one study arrives, object by object; safe to call from several threads.

    What an interrupted run left behind is complete file by file (see `accept`) and counts as held. So do the objects
    that an earlier run finished, where the study has grown since.

    Attributes:
        folder: Where the files lie, named by the hash of their SOPInstanceUID.
        count: Objects held.
        size: Their bytes.
        received: Objects that came in this run.
        listed: Objects that the PACS lists.
        short: It announced more than that; set by `check_complete`.
    """

    def __init__(
        self, folder: Path, *, study_uid: str, limits: PullLimits, kept: Collection[Path] = (), moved: int | None = None
    ) -> None:
        """Open the folder.

        Args:
            folder: Made where it is missing.
            study_uid: The one StudyInstanceUID that is taken.
            limits: Bounds on sizes and numbers.
            kept: Files of the same study that lie in its final place.
            moved: How many objects it had, where somebody has moved the finished study on.
        """
        self.folder = folder
        self._study_uid = study_uid
        self._limits = limits
        self._kept = frozenset(path.stem for path in kept)
        self._moved = moved
        self._expected: frozenset[str] | None = None
        self._closed = True
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in folder.glob("*.part"):
            part.unlink()
        sizes = [path.stat().st_size for path in (*folder.glob("*.dcm"), *kept)]
        self.count, self.size, self.received = len(sizes), sum(sizes), 0
        self.listed, self.short = 0, False

    def expect(self, instances: Collection[AnnouncedInstance], *, closed: bool = True) -> None:
        """Take note of what the PACS announced: only these are accepted from here on.

        Args:
            instances: The objects of the study.
            closed: The PACS said that the list ends there; false where it only repeats itself.

        Raises:
            PacsOverCap: More objects than a study may have.
        """
        if len(instances) > self._limits.study_instances:
            raise PacsOverCap(
                f"the PACS announces {len(instances)} objects in one study, the cap is {self._limits.study_instances}"
            )
        self._expected = frozenset(instance.sop for instance in instances)
        self._closed, self.listed = closed, len(self._expected)

    def holds(self, sop_uid: str) -> bool:
        """Say whether this object is already here, or was here and has been moved on with its whole study."""
        if self._moved is not None and self._moved == self.listed:
            return True
        return hashed(sop_uid) in self._kept or self._path(sop_uid).exists()

    def accept(self, data: bytes) -> None:
        """Check one DICOM file and keep it, byte for byte; its bytes are on disk before this returns.

        An object that is already held is left as it is.

        Raises:
            PacsAnswerInvalid: Not DICOM, of another study, or not among the announced objects.
            PacsOverCap: The object, or the study with it, is too large.
            StateError: The disk is full or cannot be written.
        """
        with spooled(data, self.folder, limits=self._limits) as (part, identity):
            self.place(part, identity)

    def place(self, part: Path, identity: Identity) -> bool:
        """Move a checked file into this study; False if the object was already held. Raises as `accept` does."""
        if identity.study != self._study_uid:
            raise PacsAnswerInvalid(
                "the PACS sent an object of a study that was not asked for. Nothing of it was stored"
            )
        if self._expected is not None and identity.sop not in self._expected:
            raise PacsAnswerInvalid("the PACS sent an object that it had not announced. Nothing of it was stored")
        size = part.stat().st_size
        with self._lock:
            if self.holds(identity.sop):
                return False
            if self.count >= self._limits.study_instances or self.size + size > self._limits.study_bytes:
                raise PacsOverCap(
                    f"a study passes the cap of {self._limits.study_bytes} bytes or "
                    f"{self._limits.study_instances} objects. Raise --max-study-mib if that is expected"
                )
            part.rename(self._path(identity.sop))
            self.count, self.size, self.received = self.count + 1, self.size + size, self.received + 1
        return True

    def check_complete(self, announced: int | None) -> None:
        """Compare what lies here with what the PACS announced and listed.

        The list says what can be had. A number above it counts objects that the PACS does not hand out, or that have
        not arrived there. The study is then done, `short`, and listed again by every later run.

        Args:
            announced: NumberOfStudyRelatedInstances of the study, where the PACS gives it.

        Raises:
            StudyIncomplete: Objects of the list are missing, others lie here, the list is empty, or it is shorter
                than announced and did not come to an end of its own.
        """
        listed = self.listed
        missing = sum(not self.holds(uid) for uid in self._expected or ())
        strays = {path.stem for path in self.folder.glob("*.dcm")} - {hashed(uid) for uid in self._expected or ()}
        short = announced is not None and announced > listed
        if not listed or missing or strays or (short and not self._closed):
            raise StudyIncomplete(
                f"the PACS announced {listed if announced is None else announced} objects and listed {listed}, "
                f"{listed - missing} of them came. Run again when the study is closed"
            )
        self.short = short

    @property
    def arrived(self) -> bool:
        """Whether objects lie here that are not in the study's final place yet."""
        return any(self.folder.glob("*.dcm"))

    def discard(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, sop_uid: str) -> Path:
        return self.folder / f"{hashed(sop_uid)}.dcm"
