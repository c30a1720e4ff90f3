"""Who is who in a folder: which ids are one person, by the headers and by `merges.csv`, and the doubts about it.

Formal guarantee
    Two files are of one person only through a chain of links, each of which depends on those files and on `merges.csv`
    alone: the same id, one of them without issuer; one header with two issuers; a line that names both ids. So adding
    or removing all files of one person neither splits nor joins other persons.
"""

from collections import defaultdict
from collections.abc import Iterable

from client.admission.doubts import Doubt
from client.admission.records import FileRecord
from client.cohort.identity import MERGES_FILE, Keys, Merges
from client.cohort.people import Person
from common.errors import DataError

_SHOWN_LINES = 5


class Persons:
    """The persons of a folder."""

    def __init__(self, records: Iterable[FileRecord], merges: Merges) -> None:
        """Link ids to persons.

        Raises:
            DataError: A line of `merges.csv` names an id that several issuers gave to different persons.
        """
        self._leaders: dict[str, str] = {}
        self._bares: dict[str, str] = {}
        self._was: dict[str, set[str]] = defaultdict(set)
        self._of_id: dict[str, set[str]] = defaultdict(set)
        for record in records:
            if record.bare:
                self._add(Keys(bare=record.bare, full=record.full, second=record.second, was=record.was))
        for bare, ids in self._of_id.items():
            if bare in ids:  # a file that names no issuer may be of any of them
                self._join(ids)
        self._merge(merges)

    def key(self, record: FileRecord) -> str:
        """Return the key that the patient of a file is kept under."""
        return self._leader(record.full)

    def all(self) -> list[Person]:
        """Return every person, `merges.csv`'s own included."""
        members: dict[str, list[str]] = defaultdict(list)
        for key in self._bares:
            members[self._leader(key)].append(key)
        return [
            Person(key=leader, ids={key: self._bares[key] for key in sorted(keys)},
                   was=frozenset().union(*(self._was.get(key, ()) for key in keys)))
            for leader, keys in sorted(members.items())
        ]  # fmt: skip

    def issuers(self, bare: str) -> int:
        """How many issuers gave this id, as far as the folder tells."""
        return len(self._of_id.get(bare, set()) - {bare})

    def stands_alone(self, bare: str) -> bool:
        """Whether a file names this id without an issuer."""
        return bare in self._of_id.get(bare, ())

    def _add(self, keys: Keys) -> None:
        for key in {keys.full, keys.second} - {""}:
            self._bares[key] = keys.bare
            self._of_id[keys.bare].add(key)
        self._was[keys.full].update(keys.was)
        self._join({keys.full, keys.second} - {""})

    def _merge(self, merges: Merges) -> None:
        unclear = [line.line for line in merges.lines for side in (line.left, line.right) if self._is_unclear(side)]
        if unclear:
            tail = " ..." if len(unclear) > _SHOWN_LINES else ""
            raise DataError(
                f"{MERGES_FILE}: {len(unclear)} ids belong to patients of two issuers. Name the issuer as in "
                f"`id^^^ISSUER`: line {', '.join(map(str, unclear[:_SHOWN_LINES]))}{tail}"
            )
        for line in merges.lines:
            sides = set[str]()
            for side in (line.left, line.right):
                known = self._of_id.get(side.bare, set())
                sides |= {side.full} | (known if side.full == side.bare else set()) | ({side.bare} & known)
                self._bares.setdefault(side.full, side.bare)
                self._was[side.full].update(side.was)
            self._join(sides)

    def _is_unclear(self, side: Keys) -> bool:
        """Whether an id without issuer is that of several persons."""
        return side.full == side.bare and len({self._leader(key) for key in self._of_id.get(side.bare, ())}) > 1

    def _join(self, keys: Iterable[str]) -> None:
        leaders = sorted({self._leader(key) for key in keys})
        for other in leaders[1:]:
            self._leaders[other] = leaders[0]

    def _leader(self, key: str) -> str:
        """The smallest key of the group, halving the way there for the next one who asks."""
        while (above := self._leaders.get(key, key)) != key:
            self._leaders[key] = key = self._leaders.get(above, above)
        return key


def doubts_of(records: list[FileRecord], persons: Persons) -> dict[str, dict[str, list[str]]]:
    """Return doubt code -> whom it is about (any key) -> files; see `client.admission.doubts`."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    people: dict[str, list[FileRecord]] = defaultdict(list)
    alike: dict[str, dict[str, list[FileRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.bare:
            person = persons.key(record)
            people[person].append(record)
            alike[record.loose][person].append(record)
            for code in _of_header(record, persons):
                found[code][record.bare].append(record.name)
    for person, files in people.items():
        if any(len({getattr(file, trait) for file in files} - {""}) > 1 for trait in ("born", "sex")):
            found[Doubt.SEVERAL_PEOPLE][person] = [file.name for file in files]
    for ids in alike.values():
        if len(ids) > 1 and len({file.bare for files in ids.values() for file in files}) > 1:
            found[Doubt.ALIKE_IDS].update((person, [file.name for file in files]) for person, files in ids.items())
    return found


def _of_header(record: FileRecord, persons: Persons) -> Iterable[str]:
    yield from record.doubts
    if persons.stands_alone(record.bare) and (issuers := persons.issuers(record.bare)):
        yield Doubt.ISSUERS_JOINED if issuers > 1 else Doubt.ISSUER_MISSING
