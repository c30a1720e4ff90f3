"""Going on with a home that was moved, restored or copied: by a person's word, and with what another copy has spent.

Order
    The other copy's ledger is read from a draft of its own, so that nothing in the other home changes. All of the
    other copy is read and checked before anything changes here. First comes what it knows outside its ledger
    (`client.site.home_copy`): a plan's delta must be here before its bookings are. Then what it has booked and this one
    has not is booked here, its withdrawals with it. Keys of rounds under way are removed, because the other copy may
    have sent what was made with one; such a round is booked anew. Only then is the home bound to where it is now.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from client.cohort.identity import site_secret
from client.daemon.home import DaemonHome
from client.daemon.serve import alone
from client.ledger import noise_key, receipt
from client.ledger.bookings import Bookings
from client.ledger.ledger import Ledger
from client.ledger.ledger_store import LedgerStore, Row
from client.secure.session import close_all
from client.site import layout, place
from client.site.home_copy import HomeCopy
from client.site.rules import SitePolicy
from common.errors import StateError
from common.host.disk import told
from common.host.locks import is_held


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What an adoption changed.

    Attributes:
        moved: Whether the home was bound to another place before.
        booked: Reservations of the other copy that were booked here.
        withdrawn: Patients of the other copy who had withdrawn there alone.
        plans: Names of the plans that were approved there alone.
    """

    moved: bool
    booked: int = 0
    withdrawn: int = 0
    plans: tuple[str, ...] = ()


def adopt(home: Path, *, by: str, other: Path | None = None) -> Adopted:
    """Go on with `home` where it is now; book first what the copy `other` has spent.

    Args:
        home: The site's home.
        by: Who says so.
        other: Home of the other copy, or a copy of that home; nothing in it is changed.

    Raises:
        StateError: A daemon still serves one of the two, `other` is no copy of this home, a ledger is corrupt, or
            `client.site.home_copy` refuses. Nothing was changed then.
    """
    SitePolicy.load(home)
    with alone(DaemonHome(home)):
        if other is None:
            return Adopted(moved=_bound(home, by=by))
        theirs = _rows(home, other)
        ledger = Ledger(home / layout.LEDGER)
        before = len(ledger.withdrawals())
        beside = HomeCopy.read(home, other, booked=Bookings.among(theirs).plans())
        beside.take(home, by=by)
        booked = ledger.merge(theirs)
        receipt.keep(home, ledger)
        withdrawn = len(ledger.withdrawals()) - before
        plans = tuple(approval.plan.name for approval in beside.alone)
        return Adopted(moved=_bound(home, by=by), booked=booked, withdrawn=withdrawn, plans=plans)


def in_words(home: Path, found: Adopted, other: Path | None) -> str:
    """What an adoption changed, as a person reads it.

    Args:
        home: The home that goes on.
        found: What the adoption found.
        other: The other copy that was merged; None for none.
    """
    words = [f"{home} goes on here" if found.moved else f"{home} is where it was bound already"]
    if other is not None:
        words.append(f"{found.booked} reservations and {found.withdrawn} withdrawals of {other} are booked")
    if found.plans:
        words.append(f"approved there alone, and noted as left: {', '.join(found.plans)}")
    return "; ".join(words) + ". If another copy was ever served, join with new keys: see docs/operations.md"


def _bound(home: Path, *, by: str) -> bool:
    noise_key.destroy_all(home)
    close_all(home, why="this home was adopted")
    return place.adopt(home, by=by)


def _rows(home: Path, other: Path) -> list[Row]:
    """Every row of the other copy's ledger, read from a draft next to this one's."""
    if other.resolve() == home.resolve():
        raise StateError(f"{other} is this very home. Name the home of the other copy")
    if not (other / layout.LEDGER).exists():
        raise StateError(f"{other} holds no ledger. Name the home of the other copy, or a copy of that home")
    if is_held(other / layout.DAEMON / "serve.lock"):
        raise StateError(f"{other} is being served. Stop that daemon first; it would go on spending")
    with told(other), tempfile.TemporaryDirectory(prefix=".adopt-", dir=home) as scratch:
        draft = Path(scratch)
        for name in (layout.LEDGER, layout.LEDGER_WAL, layout.LEDGER_SEAL, layout.SECRET, layout.SECRET_CHECK):
            if (other / name).exists():
                shutil.copyfile(other / name, draft / name)
        if not (draft / layout.SECRET).exists() or site_secret(draft) != site_secret(home):
            raise StateError(
                f"{other} has another secret than {home}: it is not a copy of this home, and its patients are known "
                "under other keys. Nothing was booked"
            )
        return LedgerStore(draft / layout.LEDGER).rows()
