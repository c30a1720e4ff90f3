"""Whose home it is: files in it are made by its owner alone, and a user without a name has a number."""

import getpass
import os
import pwd
from pathlib import Path

from common.errors import NotPermitted


def user_name(uid: int | None = None) -> str:
    """Name of a user, `uid-NUMBER` where the system knows none, as under OpenShift.

    Args:
        uid: Number of the user; None is the user of this process, as the environment may name it.
    """
    try:
        return getpass.getuser() if uid is None else pwd.getpwuid(uid).pw_name
    except (KeyError, OSError, ImportError):
        return f"uid-{os.getuid() if uid is None else uid}"


def require_owner(home: Path) -> None:
    """Refuse to work in a home as another user: what one command made with sudo, the daemon could not write again.

    Raises:
        NotPermitted: `home` is there and belongs to somebody else.
    """
    try:
        owner = home.stat().st_uid
    except OSError:
        return  # not there, or not to be seen: the code that opens it says so
    if owner != os.geteuid():
        name = user_name(owner)
        raise NotPermitted(
            f"{home} belongs to {name}, and this command runs as {user_name(os.geteuid())}; what it made there, the "
            "daemon could not write again. Nothing was changed. Run it as the owner: "
            f"`sudo -u {_login(owner)} wardround ...`"
        )


def strangers(home: Path) -> list[Path]:
    """What lies in `home` and does not belong to its owner."""
    owner = home.stat().st_uid
    return [path for path in sorted(home.rglob("*")) if path.lstat().st_uid != owner]


def _login(uid: int) -> str:
    """The user as sudo takes it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"'#{uid}'"
