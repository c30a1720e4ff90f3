"""The receipt: the ledger's newest head that something outside it rests on, a reply that left or a withdrawal.

Formal guarantee
    The receipt never goes back. It is written from the ledger as it stands, after a comparison with the receipt before,
    by one writer at a time. So a rollback of ledger and seal together is noticed. The older copy may lack a cost or the
    mark of a patient who withdrew.
"""

import json
from pathlib import Path

from client.ledger.ledger import Ledger
from client.site import layout
from common.errors import StateError
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.host.locks import locked

RECEIPT, LOCK = layout.RECEIPT, "receipt.lock"


def keep(home: Path, ledger: Ledger, *, head: str = "", entry: int = 0, plan: str = "", number: int = 0) -> None:
    """Write down durably where the ledger ends now.

    Args:
        home: The site's home.
        ledger: Its ledger.
        head: Hash of the row that what is about to leave names; "" where nothing leaves.
        entry: Ledger entry that paid for what is about to leave; 0 where nothing leaves.
        plan: Digest of the plan that it is of.
        number: Round number, 0 for a verdict.

    Raises:
        LedgerCorrupt: The ledger is behind `head` or behind the receipt that is there.
        StateError: The receipt cannot be read.
        DiskRefused: It cannot be written, by its kind.
    """
    unsent = ", so nothing was sent, and an older ledger put back would not be noticed; do it again"
    with told(home / RECEIPT, so=unsent), locked(home / LOCK):
        for known in (last_head(home), head):
            ledger.require(known)
        receipt = {"head": ledger.head(), "entry": entry, "plan": plan, "round": number}
        write_atomically(home / RECEIPT, json.dumps(receipt, sort_keys=True).encode(), mode=PRIVATE)


def last_head(home: Path) -> str:
    """Hash of the ledger row that the receipt names; "" before the first reply and the first withdrawal.

    Raises:
        StateError: The receipt cannot be read.
    """
    path = home / RECEIPT
    try:
        with told(path, so=", so nothing was sent"):
            return str(json.loads(path.read_text(encoding="utf-8"))["head"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"{path} is damaged ({type(error).__name__}), so nothing was sent. Put that one file back from its backup"
        ) from error
