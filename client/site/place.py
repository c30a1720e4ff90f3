"""The place of a site's home: one folder on one machine, so that a copy does not serve in addition to the original.

`place.json` is written at the first use of the home. It holds what distinguishes this folder from every copy: machine,
boot, device, and inode and generation of the home and of a file in it that is never replaced. A file system may give a
freed inode number again, for example to a copy that is restored in place; its generation is then another. Within one
boot, device and inodes identify this folder. Across boots a device may be numbered anew. There the machine and the
inodes count, and the home is bound anew to the new boot's device. A machine without an id, as in many containers, is
not known to be the same after a boot. A renamed folder stays where it is. A copy, a restored backup and a snapshot that
is mounted elsewhere are other places. They are refused until a person runs `wardround site adopt`.

This cannot detect a machine that was cloned whole, with the home in it, and started instead of rebooted. The
coordinator can: one node key is in two places at once (`server.gateway.twins`), and the other copy does not know the
ledger's head.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from client.site import layout
from common.errors import HomeMoved, StateError
from common.host import clocks
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically, write_once
from common.host.locks import locked

PLACE, ANCHOR = layout.PLACE, "place.lock"
_MACHINE = Path("/etc/machine-id")
_GET_GENERATION = 0x80087601
"""FS_IOC_GETVERSION of Linux: what tells two files apart that had one inode number one after the other."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of a home.

    Attributes:
        machine: Digest of the machine's id; "" where it has none, as in many containers.
        boot: Id of the machine's boot; "" where it tells none.
        device: Device that the home lies on.
        inode: Inode of the home.
        anchor: Inode of `place.lock` in it.
        generations: Generations of both inodes; empty where the file system tells none, and in older records.
    """

    machine: str
    boot: str
    device: int
    inode: int
    anchor: int
    generations: tuple[int, ...] = ()

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        """What an entry of the record names; raises `KeyError` or `TypeError` where it names no place."""
        needed = {name: entry[name] for name in ("machine", "boot", "device", "inode", "anchor")}
        return cls(**needed, generations=tuple(entry.get("generations", ())))

    @classmethod
    def here(cls, home: Path) -> Self:
        """Where `home` is now."""
        with told(home):
            with locked(home / ANCHOR):
                anchor = (home / ANCHOR).stat()
            found = home.stat()
            generations = _generations(home, home / ANCHOR)
        machine = _text(_MACHINE)
        return cls(
            machine=hashlib.sha256(f"wardround {machine}".encode()).hexdigest() if machine else "",
            boot=clocks.boot(),
            device=found.st_dev,
            inode=found.st_ino,
            anchor=anchor.st_ino,
            generations=generations,
        )

    def is_still(self, now: Self) -> bool:
        """Whether the home that was bound here is the one that is at `now`."""
        if (self.inode, self.anchor) != (now.inode, now.anchor):
            return False
        if self.generations and now.generations and self.generations != now.generations:
            return False
        if self.boot and self.boot == now.boot:
            return self.device == now.device
        return self.machine != "" and self.machine == now.machine


def require(home: Path) -> None:
    """Bind a home to its place at its first use, and refuse it anywhere else from then on.

    After a boot, a home that is still there is bound anew.

    Raises:
        HomeMoved: The home was bound to another place.
        StateError: The record cannot be read or written.
    """
    now = Place.here(home)
    if not (home / PLACE).exists():
        with told(home / PLACE):
            write_once(home / PLACE, _bytes([_entry(now, by="")]))
    known = _still(home, now)
    if Place.of(known[-1]) != now:
        again = {**known[-1], **dataclasses.asdict(now)}
        with told(home / PLACE):
            write_atomically(home / PLACE, _bytes([*known[:-1], again]), mode=PRIVATE)


def examine(home: Path) -> None:
    """Refuse a home that is not where it was bound, as `require` does; write nothing."""
    _still(home, Place.here(home))


def adopt(home: Path, *, by: str) -> bool:
    """Bind a home to where it is now, by a person's word; return whether it was bound elsewhere before.

    Raises:
        StateError: The record cannot be read or written.
    """
    now = Place.here(home)
    known: list[dict[str, Any]] = []
    if (home / PLACE).exists():
        known = _read(home)
        if Place.of(known[-1]).is_still(now):
            return False
    with told(home / PLACE):
        write_atomically(home / PLACE, _bytes([*known, _entry(now, by=by)]), mode=PRIVATE)
    return True


def _still(home: Path, now: Place) -> list[dict[str, Any]]:
    """Return the record of a home that is where it was bound; raises as `require` does."""
    known = _read(home)
    if not Place.of(known[-1]).is_still(now):
        raise HomeMoved(
            f"{home} is not where it was bound: it was moved, restored or copied. Nothing was changed. If the other "
            "copy may still serve, stop it there and go on with one of the two; then say here that this one goes on: "
            "`wardround site adopt`, with `--merge OTHER_HOME` where the other copy has served since they parted"
        )
    return known


def _read(home: Path) -> list[dict[str, Any]]:
    """Every place the home was bound to, the last one in force."""
    try:
        with told(home / PLACE):
            found = json.loads((home / PLACE).read_bytes())
        for entry in [*found, found[-1]]:  # an empty list is no record
            Place.of(entry)
        return list(found)
    except (ValueError, KeyError, TypeError, IndexError, FileNotFoundError) as error:
        raise StateError(
            f"{home / PLACE} cannot be read ({type(error).__name__}), so it is unknown whether this home is a copy. "
            "If no other copy serves, remove that file and run `wardround site adopt`"
        ) from error


def _entry(place: Place, *, by: str) -> dict[str, Any]:
    return {**dataclasses.asdict(place), "by": by, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def _bytes(entries: list[dict[str, Any]]) -> bytes:
    return json.dumps(entries, indent=1, sort_keys=True).encode()


def _generations(*paths: Path) -> tuple[int, ...]:
    """Generation of each path's inode; nothing where the file system tells none."""
    found: list[int] = []
    for path in paths:
        opened = os.open(path, os.O_RDONLY)
        try:
            answer = fcntl.ioctl(opened, _GET_GENERATION, bytes(8))
        except OSError:
            return ()
        finally:
            os.close(opened)
        found.append(int.from_bytes(answer[:4], sys.byteorder))
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
