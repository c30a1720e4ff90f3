"""Rights in a site's home: everything is its owner's alone, but for certificates and public keys."""

import stat
from collections.abc import Iterator
from pathlib import Path

from common.host.files import keep_private

_PUBLIC = (".crt", ".pub")
_PUBLIC_NAMES = ("coordinator.json",)


def opened(home: Path) -> Iterator[Path]:
    """What in `home`, and whether the home itself, gives rights to group or others and must not."""
    for path in [home, *sorted(home.rglob("*"))]:
        if path.is_symlink() or path.suffix in _PUBLIC or path.name in _PUBLIC_NAMES:
            continue
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                yield path
        except FileNotFoundError:  # gone meanwhile, as a draft goes
            continue


def close(home: Path) -> int:
    """Take those rights away; return how many files and folders had them. What belongs to others is passed over."""
    closed = 0
    for path in list(opened(home)):
        try:
            keep_private(path)
        except OSError:  # the doctor names it
            continue
        closed += 1
    return closed
