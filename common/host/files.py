"""Files that outlast a crash: there whole or not at all, and readable by their owner alone from their first byte on.

A file is filled under a draft's name, synced and moved to its place, and then its folder is synced. So a reader, also
after a crash or a power cut, finds the old content or the new one. A draft's name is hidden, ends in
`.draft` and is used once: neither another writer nor a draft that a killed one left behind is in the way of a write.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from common.errors import StateError

PRIVATE, PUBLIC = 0o600, 0o644
"""Modes of what only its owner may read, and of what anybody may."""
DRAFT = ".draft"
"""How the name of every draft ends."""


def write_atomically(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Put `content` in the place of `path`, durably; a crash leaves the old file or the new one.

    Args:
        path: The file; its folder is made where it is missing, with mode 0700 if `mode` is given.
        content: All of it.
        mode: Permissions, for any umask and any older file; None leaves them to the umask, as for any file.

    Raises:
        OSError: The disk refuses; the old file stays.
    """
    with _drafted(path, content, mode) as draft:
        draft.replace(path)
    sync_folder(path.parent)


def write_once(path: Path, content: bytes, *, mode: int = PRIVATE) -> bool:
    """Write `path` durably unless it is there: of several writers the first wins, and all read what it wrote.

    Args:
        path: The file; its folder is made where it is missing, with mode 0700.
        content: All of it.
        mode: Permissions, for any umask.

    Returns:
        Whether this writer won; either way the file is there when this returns, and outlasts a power cut.

    Raises:
        OSError: The disk refuses, or its file system knows no links.
    """
    with _drafted(path, content, mode) as draft:
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            won = False
        else:
            won = True
    sync_folder(path.parent)
    return won


@contextmanager
def new_file(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Make a file, yield it to be filled, and sync it when the block ends well. Its folder is the caller's to sync.

    Args:
        path: A name in a folder that exists.
        mode: Permissions, for any umask; None leaves them to it.

    Raises:
        FileExistsError: The name is taken, be it by a link that leads nowhere.
        OSError: The disk refuses.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666 if mode is None else mode), "wb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)  # gives back what the umask took; until here it was `mode` or less
        yield file
        sync(file)


def keep_private(path: Path) -> None:
    """Leave rights on a file or folder to its owner alone; nothing happens where there is none.

    Raises:
        OSError: It belongs to somebody else, or its file system refuses.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return
    if mode & 0o077:
        path.chmod(mode & 0o700)


def require_writable(path: Path) -> Path:
    """Return `path` if a file can be written there: asked before a command changes anything else.

    Raises:
        StateError: It is a folder, or what it lies in is none or may not be written.
    """
    there = path.parent
    while not there.exists() and there != there.parent:
        there = there.parent
    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StateError(f"{path} cannot be written; nothing was changed. Name another file with --out")
    return path


def sync(file: BinaryIO) -> None:
    """Make what was written to a file outlast a power cut."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the renames, links and removals in `folder` outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path, mode: int) -> None:
    """Make a folder and what is missing above it, all with `mode`: `Path.mkdir` gives it to the last one alone."""
    if not folder.is_dir():
        _make_folder(folder.parent, mode)
        folder.mkdir(exist_ok=True, mode=mode)


@contextmanager
def _drafted(path: Path, content: bytes, mode: int | None) -> Iterator[Path]:
    """Yield a synced draft next to `path` that holds `content`; what is left of it at the end is removed."""
    _make_folder(path.parent, 0o777 if mode is None else 0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}{DRAFT}")
    try:
        with new_file(draft, mode=mode) as file:
            file.write(content)
        yield draft
    finally:
        draft.unlink(missing_ok=True)
