"""Where a site's home is bound: one place on one machine, so that a copy does not serve in addition to the original.

`place.json` is written where the home is first used and holds what tells this folder from every copy: machine, boot,
device, and the inodes of the home and of a file in it that is never replaced. Within one boot, device and inodes are
this very folder and nothing else is. Across boots a device may be numbered anew, so there the machine and the inodes
count. A folder that was renamed stays where it is; a copy, a restored backup and a snapshot that is mounted elsewhere
are other places, and are refused until a person says that they are to go on: `wardround site adopt`.

What this cannot see is a machine that was cloned whole, with the home in it, and started instead of rebooted. That the
coordinator sees: one node key in two places at once (`server.gateway.twins`), and a ledger's head that the other
copy does not know.
"""

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.errors import HomeMoved, StateError
from common.host import clocks
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically, write_once
from common.host.locks import locked

PLACE, ANCHOR = "place.json", "place.lock"
_MACHINE = Path("/etc/machine-id")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of a home.

    Attributes:
        machine: Digest of the machine's id; "" where it has none, as in many containers.
        boot: Id of the machine's boot; "" where it tells none.
        device: Device that the home lies on.
        inode: Inode of the home.
        anchor: Inode of `place.lock` in it.
    """

    machine: str
    boot: str
    device: int
    inode: int
    anchor: int

    @classmethod
    def here(cls, home: Path) -> Self:
        """Where `home` is now."""
        with told(home):
            with locked(home / ANCHOR):
                anchor = (home / ANCHOR).stat()
            found = home.stat()
        machine = _text(_MACHINE)
        return cls(
            machine=hashlib.sha256(f"wardround {machine}".encode()).hexdigest() if machine else "",
            boot=clocks.boot(),
            device=found.st_dev,
            inode=found.st_ino,
            anchor=anchor.st_ino,
        )

    def is_still(self, now: Self) -> bool:
        """Whether the home that was bound here is the one that is at `now`."""
        if (self.inode, self.anchor) != (now.inode, now.anchor):
            return False
        return self.device == now.device if self.boot and self.boot == now.boot else self.machine == now.machine


def require(home: Path) -> None:
    """Bind a home to its place at its first use, and refuse it anywhere else from then on.

    Raises:
        HomeMoved: The home was bound to another place.
        StateError: The record cannot be read or written.
    """
    now = Place.here(home)
    if not (home / PLACE).exists():
        with told(home / PLACE):
            write_once(home / PLACE, _bytes([_entry(now, by="")]))
    if not _bound(home).is_still(now):
        raise HomeMoved(
            f"{home} is not where it was bound: it was moved, restored or copied. Nothing was changed. If the other "
            "copy may still serve, stop it there and go on with one of the two; then say here that this one goes on: "
            "`wardround site adopt`, with `--merge OTHER_HOME` where the other copy has served since they parted"
        )


def adopt(home: Path, *, by: str) -> bool:
    """Bind a home to where it is now, by a person's word; return whether it was bound elsewhere before.

    Raises:
        StateError: The record cannot be read or written.
    """
    now = Place.here(home)
    known: list[dict[str, Any]] = []
    if (home / PLACE).exists():
        if _bound(home).is_still(now):
            return False
        known = _read(home)
    with told(home / PLACE):
        write_atomically(home / PLACE, _bytes([*known, _entry(now, by=by)]), mode=PRIVATE)
    return True


def _bound(home: Path) -> Place:
    return Place(**{field.name: _read(home)[-1][field.name] for field in dataclasses.fields(Place)})


def _read(home: Path) -> list[dict[str, Any]]:
    """Every place the home was bound to, the last one in force."""
    try:
        with told(home / PLACE):
            found = json.loads((home / PLACE).read_bytes())
        for entry in [*found, found[-1]]:  # an empty list is no record
            Place(**{field.name: entry[field.name] for field in dataclasses.fields(Place)})
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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
