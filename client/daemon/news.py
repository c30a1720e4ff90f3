"""What a hospital's daemon says: whether it works, and each message that left, from the egress log and the ledger."""

import json
from pathlib import Path
from typing import Any

from client.approval.approvals import approvals
from client.egress.egress_log import LOG
from client.ledger.ledger import Ledger
from client.site import layout
from common.host.announcer import Announcer


class News:
    """Follows the egress log from where it ends now.

    Args:
        home: The site's home.
        announcer: Says the lines.
    """

    def __init__(self, home: Path, announcer: Announcer) -> None:
        self._home, self._announcer = home, announcer
        self._seen = self._size()

    def look(self) -> None:
        """Say what has left since the last look; a line that is still being written waits for the next."""
        size = self._size()
        if size == self._seen:
            return
        if size < self._seen:  # a full file was put away; its last lines are in the log all the same
            self._seen = 0
        with (self._home / LOG).open("rb") as file:
            file.seek(self._seen)
            whole, end, _ = file.read(size - self._seen).rpartition(b"\n")
        self._seen += len(whole) + len(end)
        for line in whole.splitlines():
            if words := self._words(line):
                self._announcer.event(words)

    def _size(self) -> int:
        path = self._home / LOG
        return path.stat().st_size if path.exists() else 0

    def _words(self, written: bytes) -> str:
        """One line of the log in words; "" for one that records no message."""
        try:
            line: dict[str, Any] = json.loads(written)
            kind, payload = str(line["kind"]), str(line["payload"])
        except (ValueError, KeyError, TypeError):
            return ""
        if kind == "train":
            return self._of_entry(int(line["entry"]), f"{int(line['bytes']):,} bytes of noised sums left")
        if kind == "verdict":
            return self._of_entry(int(line["entry"]), "a noised verdict left")
        if kind == "refusal":
            return f"a request was refused: {payload}"
        return f"{self._study(payload)}: answered, ready to take part" if kind == "hello" else ""

    def _of_entry(self, entry: int, what: str) -> str:
        row = next((row for row in Ledger(self._home / layout.LEDGER).rows() if row.id == entry), None)
        return f"{what}, for ledger entry {entry}" if row is None else f"{row.study}, round {row.round}: {what}"

    def _study(self, digest: str) -> str:
        names = [approval.plan.name for approval in approvals(self._home) if approval.plan.digest == digest]
        return names[0] if names else "a study"
