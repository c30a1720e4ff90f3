"""Held-out patients: chosen before the first round by a keyed hash, and never trained on.

Formal guarantee
    Whether a patient is held out depends on that patient's own ids, the site's secret and the share alone. It does not
    depend on the data, on other patients, on the plan's name or on other values that a server sends. So adding or
    removing a patient changes no other patient's part, and the privacy proof of training holds on the rest. A patient
    held out at one share is held out at every larger one. The choice is secret outside: the site's secret never leaves.

    The choice does not move with the ids. The hash is of the keys under which the site first met the patient
    (`client.cohort.people`), and one key is enough. Two ids may turn out to be one person after one was held out and
    the other trained in the same plan; the ledger knows. Both then leave that plan: the images of the first never
    train, and a patient who trained is no witness against memorisation.
"""

import hmac
from collections.abc import Iterable
from typing import Final

from client.cohort.cache import Cache
from client.cohort.consent import ConsentingCohort
from client.cohort.people import People
from client.ledger.ledger import Ledger

VERDICT: Final = "verdict"
"""Phase of the row that a verdict is booked as; its cohort holds those who are set aside, too."""


def is_held_out(secret: bytes, key: str, share: float) -> bool:
    """Whether the patient who was first met under this key is set aside, which it is with probability `share`.

    Args:
        secret: The site's secret.
        key: The patient's first key.
        share: Chance of being held out, 0 to 1.
    """
    word = hmac.digest(secret, b"held out\0" + key.encode(), "sha256")[:8]
    return int.from_bytes(word, "big") < share * 2**64


def split(
    cache: Cache, secret: bytes, share: float, *, people: People | None = None, trained: Iterable[str] = ()
) -> tuple[Cache, Cache]:
    """Return the cohort seen as (those who train, those set aside); with share 0 the first is the cache itself.

    Args:
        cache: The cohort.
        secret: The site's secret.
        share: Part of the patients to set aside.
        people: What the site remembers of who is who; None if no patient ever had another id.
        trained: Keys of all who trained in this plan so far.
    """
    if share <= 0:
        return cache, ConsentingCohort(cache, [], secret=secret)
    known, seen = people or People(), set(trained)
    train: list[int] = []
    apart: list[int] = []
    for i, key in enumerate(cache.patient_keys):
        if not any(is_held_out(secret, draw, share) for draw in known.draws(key)):
            train.append(i)
        elif known.kin(key).isdisjoint(seen):
            apart.append(i)
    return ConsentingCohort(cache, train, secret=secret), ConsentingCohort(cache, apart, secret=secret)


def trained_in(ledger: Ledger, plan: str) -> frozenset[str]:
    """Keys of all patients who were in a round of this plan, whether or not it ended."""
    cohorts = ledger.cohorts()
    rounds = [row for row in ledger.rows() if row.kind == "reserve" and row.plan == plan and row.phase != VERDICT]
    return frozenset[str]().union(*(cohorts.get(row.cohort, frozenset()) for row in rounds))
