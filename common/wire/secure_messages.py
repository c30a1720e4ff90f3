"""What crosses the border in a secure round: the four legs of `docs/decisions/0014`, and the answer to each.

Tables by place travel as bytes (`common.secure.attempt.pack`). The answer to a `MaskedRequest` is a `TrainReply` whose
arrays are those of the masked sum. All travel as Flower's "train": the runner holds back "query" above a rate, which is
there for greetings.
"""

from dataclasses import dataclass
from typing import ClassVar

from common.wire.messages import TrainRequest, WireMessage


@dataclass(frozen=True, kw_only=True)
class KeyRequest(WireMessage):
    """Leg 1: the server asks for a fresh key for an attempt at a round."""

    kind: ClassVar[str] = "secure-key"
    plan: str
    round: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class KeyReply(WireMessage):
    """A round key.

    Attributes:
        public: 32 bytes of an X25519 public key.
        signature: 64 bytes, by the identity of the roster.
        boxes: A box for each peer with a share of the private half, by place.
    """

    kind: ClassVar[str] = "secure-key-reply"
    plan: str
    site: str
    public: bytes
    signature: bytes
    boxes: bytes


@dataclass(frozen=True, kw_only=True)
class MaskedRequest(TrainRequest):
    """Leg 2: a `TrainRequest` with everybody's keys.

    Attributes:
        attempt: From 1.
        book: The key book.
        boxes: Those that peers have sealed for this site, by sender.
    """

    kind: ClassVar[str] = "train-masked"
    attempt: int
    book: bytes
    boxes: bytes


@dataclass(frozen=True, kw_only=True)
class ConfirmRequest(WireMessage):
    """Leg 3: whose sum is to be opened.

    Attributes:
        commitments: Of every member of the set, by place.
    """

    kind: ClassVar[str] = "secure-confirm"
    plan: str
    round: int
    attempt: int
    commitments: bytes


@dataclass(frozen=True, kw_only=True)
class ConfirmReply(WireMessage):
    """The site's signature on the set, 64 bytes."""

    kind: ClassVar[str] = "secure-confirm-reply"
    plan: str
    site: str
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class RevealRequest(WireMessage):
    """Leg 4: the signatures on the set.

    Attributes:
        signatures: By place.
        boxes: Those that members have sealed for this site in leg 2, by sender.
    """

    kind: ClassVar[str] = "secure-reveal"
    plan: str
    round: int
    attempt: int
    signatures: bytes
    boxes: bytes


@dataclass(frozen=True, kw_only=True)
class RevealReply(WireMessage):
    """Shares of keys.

    Attributes:
        own: Of the keys of the members' own masks, by place.
        gone: Of the round keys of those in the key book who are no members, by place.
    """

    kind: ClassVar[str] = "secure-reveal-reply"
    plan: str
    site: str
    own: bytes
    gone: bytes


SecureRequest = KeyRequest | ConfirmRequest | RevealRequest
SecureReply = KeyReply | ConfirmReply | RevealReply
