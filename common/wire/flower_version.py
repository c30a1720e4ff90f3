"""Which versions of Flower speak with each other: those of one minor, and those that were tried with each other.

Flower says its version in every request, and its SuperLink of 1.41 and 1.42 notes a SuperNode of another minor and lets
it in, for any change between the two. So the gateway judges. A pair passes if either side was released with it
(`tests/benchmarks/upgrade_day.py` tries it). Every other pair is refused, and both sides are told both versions.
"""

import importlib.metadata
import re

TOGETHER = frozenset({"1.41", "1.42"})
"""Minors that were tried with each other, either way round."""
HEADER, TRIED_HEADER = "wardround-flower", "wardround-flower-tried"
"""Headers by which the gateway says its version in every answer, and a hospital which minors it was tried with."""
REFUSED = 426
"""Status of the gateway's refusal of a version."""


def installed() -> str:
    """The version that is installed here."""
    return importlib.metadata.version("flwr")


def minor(version: str) -> str:
    """The part of a version before its second dot; "" of what is no version."""
    found = re.match(r"(\d{1,4}\.\d{1,4})(\.|$)", version)
    return found[1] if found else ""


def tried(one: str, other: str) -> bool:
    """Whether two versions are of different minors that were tried with each other."""
    pair = {minor(one), minor(other)}
    return len(pair) == 2 and pair <= TOGETHER


def speak(one: str, other: str) -> bool:
    """Whether two versions speak with each other through the gateway."""
    return (minor(one) == minor(other) != "") or tried(one, other)


def listed(text: str) -> frozenset[str]:
    """The minors in the text of a header; nothing where it is anything else."""
    return frozenset(part for part in text[:200].split() if minor(part) == part)


def shown(text: str) -> str:
    """A version as it may be shown and kept: what somebody else sent as one may be anything."""
    return text if re.fullmatch(r"[0-9A-Za-z.+-]{1,30}", text) else ""
