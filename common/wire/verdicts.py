"""What a site signs when it judges a candidate, and how anybody checks it: JSON fields under an Ed25519 signature."""

import dataclasses
import re
from typing import Any

from common.errors import GateFailed, SignatureInvalid, by_name
from common.wire.messages import Verdict
from common.wire.signing import Key, verify

PASSED = "passed"


def signed(key: Key, *, plan: str, candidate: str, site: str, outcome: str, epsilon: float, delta: float,
           ledger_head: str) -> Verdict:  # fmt: skip
    """Return a site's verdict under its key; the arguments are `Verdict`'s fields.

    Args:
        key: The site's signing key.
        plan: Digest of the plan.
        candidate: Digest of the candidate.
        site: The site's name.
        outcome: "passed" or the type of the no.
        epsilon: What the plan has cost a patient, the verdict included.
        delta: The delta of that epsilon.
        ledger_head: Hash of the ledger's newest entry.
    """
    bare = Verdict(plan=plan, candidate=candidate, site=site, outcome=outcome, epsilon=epsilon, delta=delta,
                   ledger_head=ledger_head, public=key.public, signature="")  # fmt: skip
    return dataclasses.replace(bare, signature=key.sign(_content(bare)))


def verified(verdict: Verdict, *, plan: str, candidate: str) -> Verdict:
    """Return the verdict if it is one on this candidate of this plan, signed by the key it names.

    Args:
        verdict: What the site sent.
        plan: Digest of the plan.
        candidate: Digest of the candidate.

    Raises:
        SignatureInvalid: Altered, on something else, or of an outcome that does not exist.
    """
    if (verdict.plan, verdict.candidate) != (plan, candidate):
        raise SignatureInvalid(f"the verdict of {verdict.site!r} is on another candidate. Ask the site again")
    if not re.fullmatch(r"[0-9a-f]{64}", verdict.public):
        raise SignatureInvalid(f"the verdict of {verdict.site!r} names no key. Ask the site again")
    if verdict.outcome != PASSED and not issubclass(by_name(verdict.outcome), GateFailed):
        raise SignatureInvalid(f"the verdict of {verdict.site!r} is neither yes nor a known no. Ask the site again")
    verify(_content(verdict), verdict.signature, public=verdict.public, what=f"verdict of {verdict.site!r}")
    return verdict


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Plain JSON types; an infinite epsilon, of a study without noise, becomes null."""
    return dataclasses.asdict(verdict) | {"epsilon": _finite(verdict.epsilon)}


def from_json(record: dict[str, Any]) -> Verdict:
    """Undo `to_json`; raises `SignatureInvalid` when the record is something else."""
    try:
        epsilon = float("inf") if record["epsilon"] is None else float(record["epsilon"])
        return Verdict(**{**record, "epsilon": epsilon})
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureInvalid(
            f"a stored verdict cannot be read ({type(error).__name__}). Ask the site again"
        ) from error


def _content(verdict: Verdict) -> dict[str, Any]:
    fields = to_json(verdict)
    del fields["signature"]
    return fields


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
