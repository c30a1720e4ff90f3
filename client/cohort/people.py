"""What a site remembers of each person: every id that the person was ever known by, and the id of the first draw.

Formal guarantee
    A person stays the same person when the ids change. `draws`, the keys of a person's first meeting, decide whether
    the person is held out (`client.cohort.held_out`). A later id inherits them, from a new line in `merges.csv`, from
    an issuer that the archive begins to send, or from another spelling. An id that was ever merged with a withdrawn one
    stays out. A link that is taken back is forgotten in neither respect. All of it follows from the person's own ids,
    never from another person's files.

`people.json` (mode 0600) holds keys only. It is written before the cache that was judged by it comes into use. A crash
in between leaves knowledge that is early, never late. A home from before it has none. There each patient's own key is
its draw, which is what was true then.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from client.site import layout
from common.errors import StateError
from common.host.disk import told
from common.host.files import PRIVATE, write_atomically
from common.host.locks import locked

PEOPLE_FILE = layout.PEOPLE
LOCK_FILE = "people.lock"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is remembered of one id.

    Attributes:
        bare: Key of the same id without issuer; "" where that was not told.
        draws: Keys by which it is told whether the person is set aside.
        kin: Keys of every id that was ever one person with this one, itself included.
    """

    bare: str
    draws: frozenset[str]
    kin: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person, by every key that a folder and `merges.csv` know it by now.

    Attributes:
        key: The one that the cache keeps the person under.
        ids: Id key -> key of the same id without issuer.
        was: Keys that earlier versions knew it by.
    """

    key: str
    ids: Mapping[str, str]
    was: frozenset[str] = frozenset()


@dataclass(frozen=True)
class People:
    """Everybody that a site has met.

    Attributes:
        known: By id key.
    """

    known: Mapping[str, Known] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path, *, expected: bool = False) -> Self:
        """Read what is remembered; nothing in a home that never wrote it.

        Args:
            home: The site's home.
            expected: The cache in use was judged by it, so it must be there.

        Raises:
            StateError: It cannot be read, or is gone. Who is set aside and who withdrew cannot be guessed.
        """
        path = home / PEOPLE_FILE
        if not path.exists() and not expected:
            return cls()
        try:
            with told(path):
                plain: dict[str, Any] = json.loads(path.read_bytes())
            return cls({
                key: Known(bare=bare, draws=frozenset(draws or [key]), kin=frozenset([key, *kin]))
                for key, (bare, draws, kin) in plain[f"schema {SCHEMA}"].items()
            })  # fmt: skip
        except (FileNotFoundError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(
                f"{path} is gone or cannot be read ({type(error).__name__}), so it is unknown who is held out, or "
                "withdrew, under another id. Restore it from the site's newest backup"
            ) from error

    def save(self, home: Path) -> None:
        """Write it durably; raises `StateError` when the disk refuses."""
        plain = {
            key: [item.bare, [] if item.draws == {key} else sorted(item.draws), sorted(item.kin - {key})]
            for key, item in self.known.items()
        }
        content = json.dumps({f"schema {SCHEMA}": plain}, sort_keys=True).encode()
        with told(home / PEOPLE_FILE):
            write_atomically(home / PEOPLE_FILE, content, mode=PRIVATE)

    def learn(self, persons: Iterable[Person]) -> Self:
        """Return what is remembered once these persons were met."""
        known, of_id = dict(self.known), defaultdict[str, set[str]](set)
        for key, item in self.known.items():
            of_id[item.bare].add(key)
        for person in persons:
            related = self._related(person, of_id)
            before = [self.known[key] for key in sorted(related)]
            draws = frozenset[str]().union(*(item.draws for item in before)) or frozenset({person.key})
            kin = frozenset({*person.ids, *person.was}).union(*(item.kin for item in before))
            for key, bare in person.ids.items():
                known[key] = Known(bare=bare, draws=draws, kin=kin)
        return type(self)(known)

    def united(self, other: Self) -> Self:
        """Return what is remembered once a copy of the same site adds what it met."""
        known = dict(self.known)
        for key, item in other.known.items():
            mine = known.get(key, item)
            known[key] = Known(bare=mine.bare or item.bare, draws=mine.draws | item.draws, kin=mine.kin | item.kin)
        return type(self)(known)

    def draws(self, key: str) -> frozenset[str]:
        """Return the keys by which it is told whether the patient cached under `key` is set aside."""
        return self.known[key].draws if key in self.known else frozenset({key})

    def kin(self, key: str) -> frozenset[str]:
        """Return every key that the patient cached under `key` was ever known by."""
        return self.known[key].kin if key in self.known else frozenset({key})

    def names(self, key: str) -> frozenset[str]:
        """Return `kin` and the keys of the same ids without issuer, which are every such patient's."""
        kin = self.kin(key)
        return kin | {self.known[other].bare for other in kin if other in self.known} - {""}

    def of_id(self, bare: str) -> frozenset[str]:
        """Return every id key that was ever met with this key of the id alone."""
        return frozenset(key for key, item in self.known.items() if item.bare == bare)

    def of_told_id(self) -> frozenset[str]:
        """Return every id key of which it is known, too, which the key of its id without issuer is."""
        return frozenset(key for key, item in self.known.items() if item.bare)

    def _related(self, person: Person, of_id: Mapping[str, set[str]]) -> set[str]:
        """Remembered ids that this person is, or may be.

        An id without issuer may be any of that id; an id with issuer may be the one that had none before.
        """
        related = {*person.ids, *person.was}
        for key, bare in person.ids.items():
            related |= of_id.get(bare, set()) if key == bare else {bare}
        return related & self.known.keys()


def remember(home: Path, *meetings: Iterable[Person], expected: bool) -> People:
    """Learn durably who was met, earlier meetings first, and return everybody known; one writer at a time.

    Args:
        home: The site's home.
        meetings: Persons, as they were known at one time.
        expected: See `People.load`.

    Raises:
        StateError: What is remembered cannot be read, or the disk refuses.
    """
    with locked(home / LOCK_FILE):
        before = people = People.load(home, expected=expected)
        for met in meetings:
            people = people.learn(met)
        if people != before:
            people.save(home)
    return people


def unite(home: Path, other: People) -> None:
    """Add durably what another copy of this home remembers; one writer at a time.

    Raises:
        StateError: What is remembered here cannot be read, or the disk refuses.
    """
    with locked(home / LOCK_FILE):
        before = People.load(home)
        if (people := before.united(other)) != before:
            people.save(home)
