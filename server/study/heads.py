"""The heads of a site's ledger that its counted replies named, remembered over all studies of a coordinator.

A site's ledger is one chain, so its holder knows every head it ever named. A site that does not know one is an older
copy, or one of two copies that both went on. Asked with that head, it says so itself, and refuses. So each request of
any study carries a head, which a reply of any study named. In each study it is by turns the newest, and the last of
each other study. So the heads of one copy are asked of the other, in any order. After a refusal, the study asks the
site with the refused head until it answers. Two copies end within a few requests each, and go on once one of them has
booked what the other spent.

    heads/SITE.json   the verdict key that the site had then; by study the last head, newest last, the number of
                      requests, and the head that was refused

A site that was enrolled anew with another verdict key has another home, and begins anew. A study without a
coordinator's home, in a simulation, remembers its own heads alone (`server.study.study`).
"""

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from common.errors import LedgerBehind, LedgerCorrupt, StateError
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.host.locks import locked
from server.study import signers

log = logging.getLogger(__name__)

FOLDER = "heads"
_UNKNOWN = (LedgerBehind.__name__, LedgerCorrupt.__name__)
"""How a site says that it does not know a head; the second is an older version's word."""
_MOST = 256
"""Studies whose last head is kept of one site."""


@dataclass
class _Record:
    verdict_key: str
    heads: dict[str, str] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, table: dict[str, Any]) -> Self:
        return cls(
            verdict_key=str(table["verdict_key"]),
            heads={str(study): str(head) for study, head in table["heads"].items()},
            turns={str(study): int(turn) for study, turn in table["turns"].items()},
            refused={str(study): str(head) for study, head in table["refused"].items()},
        )


@dataclass(frozen=True)
class Heads:
    """What is remembered of every site, as a study sees it.

    Attributes:
        study: The study's folder, which links to the coordinator's `heads/`; without that, nothing is remembered.
    """

    study: Path

    def to_send(self, site: str) -> str:
        """The head to ask `site` with; "" where none is known."""
        if not self._folder.is_dir():
            return ""
        with self._alone():
            record = self._read(site)
            if not record.heads or self.study.name in record.refused:
                return record.refused.get(self.study.name, "")
            turn = record.turns[self.study.name] = record.turns.get(self.study.name, -1) + 1
            self._write(site, record)
            others = [head for study, head in sorted(record.heads.items()) if study != self.study.name]
            newest = list(record.heads.values())[-1]
            return others[turn // 2 % len(others)] if turn % 2 and others else newest

    def refused(self, site: str, *, sent: str, reason: str) -> None:
        """Remember a head that `site` does not know, to ask it with that again.

        Args:
            site: Name of the site.
            sent: The head that it was sent.
            reason: Type of its refusal.
        """
        if sent and reason in _UNKNOWN and self._folder.is_dir():
            with self._alone():
                record = self._read(site)
                record.refused[self.study.name] = sent
                self._write(site, record)

    def counted(self, site: str, head: str) -> None:
        """Remember the head that a reply of `site` to this study named; before the reply counts."""
        if not self._folder.is_dir():
            return
        with self._alone():
            record = self._read(site)
            record.refused.pop(self.study.name, None)
            record.heads.pop(self.study.name, None)  # the newest stands last
            record.heads[self.study.name] = head
            for old in list(record.heads)[:-_MOST]:
                del record.heads[old]
            self._write(site, record)

    @property
    def _folder(self) -> Path:
        return self.study / FOLDER

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with ExitStack() as held:
            with told(self._folder):
                held.enter_context(locked(self._folder / ".lock"))
            yield

    def _read(self, site: str) -> "_Record":
        key = signers.load(self.study).get(site, "")
        path = self._folder / f"{site}.json"
        try:
            with told(path):
                table = json.loads(path.read_text(encoding="utf-8"))
            known = _Record.of(table)
        except FileNotFoundError:
            return _Record(verdict_key=key)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"{path} cannot be read ({type(error).__name__}). Take it away, and call {site}: until it has answered "
                "once more, an older copy of its ledger goes unnoticed"
            ) from error
        if known.verdict_key not in ("", key):
            log.info("a site was enrolled anew with another home; its ledger begins anew")
            return _Record(verdict_key=key)
        known.verdict_key = key
        return known

    def _write(self, site: str, record: "_Record") -> None:
        path = self._folder / f"{site}.json"
        with told(path):
            write_atomically(path, json.dumps(asdict(record)).encode(), mode=PRIVATE)
