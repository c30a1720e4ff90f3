"""What a disk refuses, by kind: full, locked, read-only, no permission, no locks; each has its type and its cure.

None of these says that a file is damaged. A restore of an older copy because of one of them would lose what
was written since, so no message here advises it.
"""

import errno
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import DiskFull, DiskReadOnly, DiskRefused, FileLocked, NoLocks, NotPermitted
from common.host.owner import user_name

_BY_ERRNO: dict[int, type[DiskRefused]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), DiskFull),
    **dict.fromkeys((errno.EBUSY, errno.EAGAIN, errno.ETXTBSY), FileLocked),
    errno.EROFS: DiskReadOnly,
    **dict.fromkeys((errno.EACCES, errno.EPERM), NotPermitted),
    **dict.fromkeys((errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS), NoLocks),
}
_BY_SQLITE: dict[int, type[DiskRefused]] = {
    sqlite3.SQLITE_FULL: DiskFull,
    sqlite3.SQLITE_BUSY: FileLocked,
    sqlite3.SQLITE_LOCKED: FileLocked,
    sqlite3.SQLITE_READONLY: NotPermitted,
    sqlite3.SQLITE_PERM: NotPermitted,
    sqlite3.SQLITE_AUTH: NotPermitted,
    sqlite3.SQLITE_PROTOCOL: NoLocks,
    sqlite3.SQLITE_NOLFS: DiskFull,
}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT)
"""What SQLite says of a file that is not as it was written, or whose tables are not ours."""
_CURES: dict[type[DiskRefused], str] = {
    DiskFull: "Free some space; nothing is damaged, and it goes on by itself",
    FileLocked: "Close the program that holds it; nothing is damaged, and it goes on by itself",
    DiskReadOnly: "Mount that file system writable; look in the system's log why it is not. Nothing is damaged",
    NoLocks: "Put the home on a local disk, or mount the network share with locks. Nothing is damaged",
    DiskRefused: "Look in the system's log what is wrong with the disk or the network share; try again then",
}
_NO_PLACE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_NO_ROOM_BYTES = 64 * 1024


def refusal(error: OSError, path: Path, *, so: str = "") -> DiskRefused:
    """Name what the disk refuses by its type, with its cure.

    Args:
        error: What the operating system said.
        path: The file or folder it said it of.
        so: What follows from it, as it stands in the message.
    """
    words = error.strerror or type(error).__name__
    if error.errno in _NO_PLACE:
        return DiskRefused(f"{path} cannot be used ({words}){so}. Name another place, or take away what is in its way")
    return _told(_BY_ERRNO.get(error.errno or 0, DiskRefused), path, words, so)


def sqlite_refusal(error: sqlite3.Error, path: Path) -> DiskRefused | None:
    """The same of SQLite's errors; None where the file itself is at fault."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = code & 0xFF
    if primary in _DAMAGED:
        return None
    kind = _BY_SQLITE.get(primary, DiskRefused)
    if kind is NotPermitted and _read_only(path):
        kind = DiskReadOnly
    elif kind is DiskRefused:  # SQLITE_IOERR, SQLITE_CANTOPEN: SQLite does not say why
        kind = _why(path, str(getattr(error, "sqlite_errorname", "")))
    return _told(kind, path, str(error), "")


@contextmanager
def told(path: Path, *, so: str = "") -> Iterator[None]:
    """Turn what the operating system refuses within the block into `refusal`.

    Raises:
        DiskRefused: By its kind; a file that is absent passes through as it is, and so does what is no disk's fault.
    """
    try:
        yield
    except (FileNotFoundError, ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise refusal(error, path, so=so) from error


def _told(kind: type[DiskRefused], path: Path, words: str, so: str) -> DiskRefused:
    cure = _rights(path) if kind is NotPermitted else _CURES[kind]
    return kind(f"{path} cannot be used ({words}){so}. {cure}")


def _rights(path: Path) -> str:
    """Who may and who tries, and the command that mends it."""
    there = next((place for place in (path, *path.parents) if _seen(place)), path)
    owner = user_name(there.stat().st_uid)
    return (
        f"{there} belongs to {owner}, this process runs as {user_name()}. Give the whole home back to the user that "
        f"the daemon runs as (`chown -R USER {path.parent}`), and run no command of it with sudo"
    )


def _seen(path: Path) -> bool:
    """Whether it is there and this process may know; `Path.exists` raises where a folder above is closed to it."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def _why(path: Path, name: str) -> type[DiskRefused]:
    folder = path.parent
    if _read_only(folder):
        return DiskReadOnly
    if any(_seen(place) and not os.access(place, os.R_OK | os.W_OK) for place in (path, folder)):
        return NotPermitted
    if _no_room(folder):
        return DiskFull
    return NoLocks if "LOCK" in name or "SHM" in name else DiskRefused


def _read_only(path: Path) -> bool:
    there = next((place for place in (path, *path.parents) if _seen(place)), None)
    return there is not None and bool(os.statvfs(there).f_flag & os.ST_RDONLY)


def _no_room(folder: Path) -> bool:
    """Whether the disk, or this process' own limit on file sizes, takes no more."""
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < _NO_ROOM_BYTES or (found.f_files and not found.f_favail):
        return True
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
