"""Patients set aside for evaluation: chosen before the first round by a keyed hash, and never trained on.

Formal guarantee
    Whether a patient is set aside depends on that patient's key and the site's secret alone: not on the data, on other
    patients, on the plan's name or on anything a server sends but the share. So adding or removing a patient changes
    nobody else's part, and the privacy proof of training holds on the rest. A patient set aside at one share is set
    aside at every larger one. Nobody outside can tell who was: the secret never leaves the site.
"""

import hmac

from client.cache import Cache
from client.consent import ConsentingCohort


def is_held_out(secret: bytes, key: str, share: float) -> bool:
    """Whether the patient of this key is set aside, which it is with probability `share`."""
    word = hmac.digest(secret, b"held out\0" + key.encode(), "sha256")[:8]
    return int.from_bytes(word, "big") < share * 2**64


def split(cache: Cache, secret: bytes, share: float) -> tuple[Cache, Cache]:
    """Return the cohort seen as (those who train, those set aside); with share 0 the first is the cache itself."""
    if share <= 0:
        return cache, ConsentingCohort(cache, [], secret=secret)
    out = [is_held_out(secret, key, share) for key in cache.patient_keys]
    return (
        ConsentingCohort(cache, [i for i, held in enumerate(out) if not held], secret=secret),
        ConsentingCohort(cache, [i for i, held in enumerate(out) if held], secret=secret),
    )
