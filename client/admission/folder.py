"""What lies in a folder: every file once, in a fixed order, with links and devices recognised before anything opens."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from client.admission.reasons import Reason
from common.errors import NoUsableScans

CONTROL_FILES = frozenset({"labels.csv", "merges.csv"})
"""Files of the steward at the top of the folder; they are read, not admitted, and not counted."""

UNFINISHED_PULLS = ".pulling"
"""Where `wardround site pull` keeps studies that are still arriving, at the top of the folder; not looked into."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing in the folder.

    Attributes:
        name: Path relative to the folder, the one form a file is called by.
        path: Where to read it; links inside the folder are resolved.
        stamp: Size, modification and change time (ns) and inode: equal stamps mean an unchanged file.
        reason: Why it is not even opened; None for a regular file.
    """

    name: str
    path: Path
    stamp: tuple[int, int, int, int]
    reason: Reason | None = None


def list_folder(folder: Path, *, leave_out: Path) -> list[Entry]:
    """List everything below a folder, sorted by name.

    Args:
        folder: What the hospital points at.
        leave_out: The site's own home, passed over where it lies inside.

    Raises:
        NoUsableScans: The folder is missing, no folder, or cannot be listed.
    """
    try:
        root = folder.resolve(strict=True)
        with os.scandir(root):
            pass
    except OSError as error:
        raise NoUsableScans(
            f"{folder} cannot be listed ({type(error).__name__}). Give the folder that holds the DICOM files"
        ) from None
    entries: list[Entry] = []
    home = leave_out.resolve()
    pending = [root]
    while pending:
        here = pending.pop()
        if here == home:
            continue
        try:
            with os.scandir(here) as listing:
                for item in listing:
                    if here == root and item.name == UNFINISHED_PULLS:
                        continue
                    if item.is_dir(follow_symlinks=False):
                        pending.append(Path(item.path))
                    elif here != root or item.name not in CONTROL_FILES:
                        entries.append(_entry(item, root))
        except OSError:
            entries.append(
                Entry(name=str(here.relative_to(root)), path=here, stamp=(0, 0, 0, 0), reason=Reason.UNREADABLE)
            )
    return sorted(entries, key=lambda entry: entry.name)


def _entry(item: "os.DirEntry[str]", root: Path) -> Entry:
    name = item.path.removeprefix(str(root)).lstrip("/")
    path, reason = Path(item.path), None
    try:
        status = item.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            path = path.resolve(strict=True)
            status = path.stat()
            if not path.is_relative_to(root) or stat.S_ISDIR(status.st_mode):
                reason = Reason.SYMLINK
        if reason is None and not stat.S_ISREG(status.st_mode):
            reason = Reason.NOT_REGULAR
    except (OSError, RuntimeError):
        reason = Reason.SYMLINK if item.is_symlink() else Reason.UNREADABLE
        return Entry(name=name, path=path, stamp=(0, 0, 0, 0), reason=reason)
    stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return Entry(name=name, path=path, reason=reason, stamp=stamp)
