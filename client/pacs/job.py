"""A pull that survives its own death: study by study, each complete or absent, and what is done stays done."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from client.admission.folder import UNFINISHED_PULLS
from client.pacs.inbox import StudyInbox, whole_files
from client.pacs.state import DoneStudy, PullState
from client.pacs.study import (
    AnnouncedStudy,
    PacsError,
    PacsSource,
    PacsUnreachable,
    PullLimits,
    StudyQuery,
    checked_uid,
    hashed,
)
from common.errors import OutputInUse, StateError
from common.host.files import sync_folder
from common.host.locks import locked

logger = logging.getLogger(__name__)

WORK_FOLDER = UNFINISHED_PULLS
"""Holds the state, the lock and the studies still arriving; nothing in it is for ingest."""
UNREACHABLE_IN_A_ROW = 3
"""After so many studies lost to the transport the PACS counts as gone, and the pull stops until the next run."""
_LONGEST_WAIT_S = 60.0
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """How one announced study ended in this run.

    Attributes:
        skipped: It was done before this run.
        error: Name of the error type, or empty.
        instances: Objects that came in this run and are kept.
        bytes: Size of the whole study if it was finished in this run, else 0.
        short: The PACS announces more objects than it lists.
    """

    skipped: bool = False
    error: str = ""
    instances: int = 0
    bytes: int = 0
    short: bool = False


class PullFolder:
    """The folder a pull fills, with its state; one process at a time.

    A study is recorded as done after its folder has its final name: the folder is the truth, the record only
    remembers it, also after somebody has moved the folder on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / WORK_FOLDER
        self._lock = ExitStack()
        busy = OutputInUse(f"{folder}: another pull or receiver is filling it. Wait for it, or give another --to")
        try:
            self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.enter_context(locked(self.work / "lock", busy=busy, mode=0o666))
        except OSError as error:
            raise StateError(
                f"{folder}: cannot be written ({error.strerror}). Give a folder of your own with --to"
            ) from error
        try:
            self._state = PullState(self.work / "state.sqlite")
            for part in self.work.glob("*.part"):  # of a receiver that was killed
                part.unlink()
        except StateError:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the folder go."""
        self._state.close()
        self._lock.close()

    def done(self, name: str) -> DoneStudy | None:
        """Return what is known of the study of this hashed name, if some run finished it.

        A version before this one did not walk objects to their end. Its studies are walked here, once; one that holds
        half an object is not done.
        """
        folder, known = self.folder / name, self._state.done(name)
        if not folder.exists() or (known is not None and known.walked):
            return known
        files = sorted(folder.glob("*.dcm"))
        if len(whole_files(files)) < len(files):
            return None
        size = sum(path.stat().st_size for path in files)
        announced = len(files) if known is None else known.announced
        self._state.record_done(name, instances=len(files), size=size, announced=announced)
        return self._state.done(name)

    def inbox(self, study_uid: str, *, limits: PullLimits, done: DoneStudy | None = None) -> StudyInbox:
        """Open the place where this study arrives; whole objects of it that are in place need not come again.

        Args:
            study_uid: Its StudyInstanceUID.
            limits: Bounds on sizes and numbers.
            done: What an earlier run recorded of it.
        """
        name = hashed(study_uid)
        place = self.folder / name
        moved = done.instances if done is not None and not place.exists() else None
        try:
            files = sorted(place.glob("*.dcm"))
            kept = files if done is not None else whole_files(files)
            return StudyInbox(self.work / name, study_uid=study_uid, limits=limits, kept=kept, moved=moved)
        except OSError as error:
            raise StateError(
                f"{self.work}: cannot be written ({error.strerror}). Check permissions, then run again"
            ) from error

    def settle(self, inbox: StudyInbox, *, announced: int | None) -> None:
        """Give a complete study its final name, then record it; both are on disk when this returns.

        Objects of a study that has grown join those in place one by one: killed in between, the next run fetches the
        rest, for the record still holds the number of before.
        """
        place = self.folder / inbox.folder.name
        try:
            sync_folder(inbox.folder)
            if place.exists():
                for path in sorted(inbox.folder.glob("*.dcm")):
                    path.rename(place / path.name)
                sync_folder(place)
                inbox.folder.rmdir()
            else:
                inbox.folder.rename(place)
            sync_folder(self.folder)
        except OSError as error:
            raise StateError(
                f"{self.folder}: a finished study could not be moved in place ({error.strerror}). "
                "Check the folder, then run again"
            ) from error
        self._state.record_done(place.name, instances=inbox.listed, size=inbox.size, announced=announced)

    def record_unchanged(self, inbox: StudyInbox, *, announced: int | None) -> None:
        """Remember what the PACS announced of a study of which nothing new came."""
        inbox.discard()
        self._state.record_done(inbox.folder.name, instances=inbox.listed, size=inbox.size, announced=announced)

    def record_failure(self, name: str, error: PacsError) -> None:
        """Remember by which kind of error a study failed; the next run tries it again."""
        self._state.record_failure(name, type(error).__name__)

    def failures(self) -> dict[str, int]:
        """Count the studies not done, by the error type of their last try."""
        return self._state.failures()


def find_studies(source: PacsSource, query: StudyQuery, *, limits: PullLimits) -> list[AnnouncedStudy]:
    """List the studies that fit the query, trying again while the PACS cannot be reached.

    Args:
        source: The PACS.
        query: What is asked for.
        limits: Bounds on sizes and times.

    Raises:
        PacsError: The list could not be had.
    """
    studies = _with_retries(lambda: source.find(query), progress=lambda: 0, limits=limits)
    return studies[: query.limit]


def pull_studies(
    source: PacsSource,
    studies: list[AnnouncedStudy],
    folder: PullFolder,
    *,
    limits: PullLimits,
) -> Iterator[StudyOutcome]:
    """Pull the studies one after the other, and say of each how it ended.

    A study that fails is recorded and does not stop the others. Killed at any point, the next run goes on with
    the objects that are missing. A study that is done is asked for again where the PACS announces another number of
    objects than then, gives none, or announced more than it listed.

    Args:
        source: The PACS.
        studies: The DICOM studies that it announced.
        folder: Where they are put.
        limits: Bounds on sizes and times.

    Yields:
        One outcome per study, in order.

    Raises:
        PacsUnreachable: The PACS was lost for several studies in a row.
        StateError: The folder cannot be written.
    """
    lost = 0
    for study in studies:
        name = hashed(study.uid)
        done = folder.done(name)
        if done is not None and study.instances == done.announced == done.instances:
            yield StudyOutcome(skipped=True)
            continue
        try:
            outcome = _pull_one(source, study, folder, done, limits=limits)
            lost = 0
        except PacsError as error:
            logger.warning("study not pulled: %s: %s", type(error).__name__, error)
            folder.record_failure(name, error)
            outcome = StudyOutcome(error=type(error).__name__)
            lost = lost + 1 if isinstance(error, PacsUnreachable) else 0
        yield outcome
        if lost >= UNREACHABLE_IN_A_ROW:
            raise PacsUnreachable(
                f"the PACS was lost for {lost} studies in a row. Run the same command again when it "
                "answers; finished studies are kept"
            )


def summarise(outcomes: Counter[str], *, studies: int) -> dict[str, int]:
    """Return the numbers of a pull as its `--json` shows them; `short` only where there are such studies."""
    keys = ("done", "failed", "skipped", "instances", "bytes", *(["short"] if outcomes["short"] else []))
    return {"studies": studies, **{key: outcomes[key] for key in keys}}


def tally(outcomes: Counter[str], outcome: StudyOutcome) -> None:
    """Add one study's outcome to the running numbers."""
    outcomes["skipped" if outcome.skipped else "failed" if outcome.error else "done"] += 1
    outcomes["instances"] += outcome.instances
    outcomes["bytes"] += outcome.bytes
    outcomes["short"] += outcome.short


def _pull_one(
    source: PacsSource, study: AnnouncedStudy, folder: PullFolder, done: DoneStudy | None, *, limits: PullLimits
) -> StudyOutcome:
    checked_uid(study.uid, what="StudyInstanceUID")
    inbox = folder.inbox(study.uid, limits=limits, done=done)
    try:
        _with_retries(lambda: source.fetch(study, inbox), progress=lambda: inbox.received, limits=limits)
        inbox.check_complete(study.instances)
    except PacsUnreachable:
        raise  # what came is sound and waits for the next run
    except PacsError:
        inbox.discard()
        raise
    if inbox.short:
        logger.warning("a study is done as the PACS lists it, though it announces more objects; listed again next time")
    if done is not None and not inbox.arrived:
        folder.record_unchanged(inbox, announced=study.instances)
        return StudyOutcome(skipped=True, short=inbox.short)
    folder.settle(inbox, announced=study.instances)
    return StudyOutcome(instances=inbox.received, bytes=inbox.size, short=inbox.short)


def _with_retries(action: Callable[[], _T], *, progress: Callable[[], int], limits: PullLimits) -> _T:
    """Repeat `action` while the transport fails, giving up after `limits.attempts` tries that brought nothing new."""
    failures = 0
    while True:
        before = progress()
        try:
            return action()
        except PacsUnreachable as error:
            failures = 1 if progress() > before else failures + 1
            if failures >= limits.attempts:
                raise
            wait_s = min(limits.backoff_s * 2 ** (failures - 1), _LONGEST_WAIT_S)
            logger.info("the PACS cannot be reached, next try in %.1f s: %s", wait_s, error)
            time.sleep(wait_s)
