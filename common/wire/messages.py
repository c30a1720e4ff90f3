"""What crosses the border: frozen messages with a schema version, and their one form as Flower records.

Anything unknown, missing, of another type or not finite is refused by type, on both sides.

Arrays travel in one of two forms that mean the same: each as an array of Flower's own, or all in one (`pack`).
"""

import dataclasses
import io
import math
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import MessageRefused, by_name
from common.model.weights import Weights

SCHEMA = 1
MAX_BYTES = 256 * 1024 * 1024
"""Most that one message's arrays may hold."""
TEXT_SEARCHED = YES, NO, UNKNOWN = ("yes", "no", "unknown")
"""What a site can say of its search for text; "unknown" also where it said nothing."""
TYPES = (np.dtype("<f4"), np.dtype("<u8"))
"""What an array of a message may hold. Which of them a round's reply holds is the plan's sum's to say and to check."""
_TYPES = " or ".join(map(str, TYPES))
MOST_BYTES_FIELD = 64 * 1024
"""Most that one field of bytes may hold."""
PACKED, _PACKED_TYPE = "packed", "wardround.safetensors"


@dataclass(frozen=True, kw_only=True)
class WireMessage:
    """What all messages have: a kind, and one form as Flower records."""

    kind: ClassVar[str]

    def to_record(self) -> RecordDict:
        """Return the message as Flower records: one ConfigRecord, and one ArrayRecord where it has arrays."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "arrays"}
        record = RecordDict({"message": ConfigRecord({"schema": SCHEMA, "kind": self.kind, **fields})})
        if hasattr(self, "arrays"):
            record["arrays"] = ArrayRecord(
                {name: Array(np.ascontiguousarray(value)) for name, value in self.arrays.items()}
            )
        return record

    @classmethod
    def from_record(cls, record: RecordDict) -> Self:
        """Read a message; raises `MessageRefused` unless it is exactly one of this kind and schema."""
        scalars = _scalars(record)
        has_arrays = any(f.name == "arrays" for f in dataclasses.fields(cls))
        if set(record) != ({"message", "arrays"} if has_arrays else {"message"}):
            raise MessageRefused(f"{cls.kind}: the message has unknown or missing parts")
        if scalars.pop("schema", None) != SCHEMA or scalars.pop("kind", None) != cls.kind:
            raise MessageRefused(f"not a {cls.kind!r} message of schema {SCHEMA}")
        values: dict[str, Any] = {}
        for name, kind in typing.get_type_hints(cls).items():
            if name in ("arrays", "kind"):
                continue
            values[name] = _typed(scalars.pop(name, None), kind, f"{cls.kind}.{name}")
        if scalars:
            raise MessageRefused(f"{cls.kind}: unknown key {min(scalars)[:40]!r}")
        if has_arrays:
            values["arrays"] = _arrays(record)
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Hello(WireMessage):
    """The server asks a node who it is and whether it can take part in a plan."""

    kind: ClassVar[str] = "hello"
    plan: str


@dataclass(frozen=True, kw_only=True)
class HelloReply(WireMessage):
    """A site's public name; it has approved the plan and holds a cohort that the plan admits."""

    kind: ClassVar[str] = "hello-reply"
    plan: str
    site: str


@dataclass(frozen=True, kw_only=True)
class About(WireMessage):
    """The server asks how a site's installation treats scans; a site of an older version refuses to say."""

    kind: ClassVar[str] = "about"
    plan: str


@dataclass(frozen=True, kw_only=True)
class AboutReply(WireMessage):
    """How a site's installation treats scans: its settings, and nothing of its patients.

    Attributes:
        text_searched: Whether pictures were searched for text when they came in: one of `TEXT_SEARCHED`.
    """

    kind: ClassVar[str] = "about-reply"
    plan: str
    site: str
    text_searched: str


@dataclass(frozen=True, kw_only=True)
class TrainRequest(WireMessage):
    """Round `round` of the plan with this digest, on these weights. It carries no noise, no steps, no seed.

    Attributes:
        last_head: A `ledger_head` of a reply of the site that the server accepted, "" before the first: a ledger
            that does not know it was rolled back.
    """

    kind: ClassVar[str] = "train"
    plan: str
    round: int
    last_head: str = ""
    arrays: Weights


@dataclass(frozen=True, kw_only=True)
class TrainReply(WireMessage):
    """What a site releases in one round.

    Attributes:
        epsilon: What the study has cost a patient at this site, this round included.
        delta: The plan's delta.
        ledger_head: Hash of the site's last ledger row.
        arrays: Updated weights (phase "sgd") or the one array "release" (moments phases).
    """

    kind: ClassVar[str] = "train-reply"
    plan: str
    round: int
    phase: str
    site: str
    epsilon: float
    delta: float
    ledger_head: str
    arrays: Weights


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(WireMessage):
    """The finished model of the plan with this digest, to be judged before anything of it is released.

    Attributes:
        last_head: As in `TrainRequest`.
    """

    kind: ClassVar[str] = "evaluate"
    plan: str
    last_head: str = ""
    arrays: Weights


@dataclass(frozen=True, kw_only=True)
class Verdict(WireMessage):
    """A site's noised yes or no on a candidate, signed by the site.

    Attributes:
        candidate: Digest of the decoder that was judged.
        outcome: "passed", or the type name of the reason (`common.errors.GateFailed`).
        epsilon: What the study has cost a patient at this site, the verdict included.
        delta: The plan's delta.
        ledger_head: Hash of the site's last ledger row.
        public: Fingerprint of the site's signing key.
        signature: Over all other fields, see `common.wire.verdicts`.
    """

    kind: ClassVar[str] = "verdict"
    plan: str
    candidate: str
    site: str
    outcome: str
    epsilon: float
    delta: float
    ledger_head: str
    public: str
    signature: str


@dataclass(frozen=True, kw_only=True)
class Refused(WireMessage):
    """A site says no, by the type of its reason alone."""

    kind: ClassVar[str] = "refused"
    plan: str
    site: str
    reason: str

    def __post_init__(self) -> None:
        if by_name(self.reason).__name__ != self.reason:
            object.__setattr__(self, "reason", "WardroundError")


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An answer of a site that is no message of ours.

    Attributes:
        extra: A key that has no place in it, "" where there is none: the commonest fault of a foreign client, which
            sends a metric, a count or a loss.
        why: What is wrong, for the log.
    """

    extra: str
    why: str


Reply = HelloReply | AboutReply | TrainReply | Verdict
_Reply = TypeVar("_Reply", bound=WireMessage)


def pack(record: RecordDict) -> RecordDict:
    """Return the records with all arrays in one.

    Flower sends, stores and fetches each array by a request of its own, two for each in fact. A model of thirty arrays
    costs ninety requests a round and site; packed it costs one for each piece of its size.
    """
    if "arrays" not in record:
        return record
    data = save({name: np.ascontiguousarray(array) for name, array in _arrays(record).items()})
    packed = Array(dtype="uint8", shape=(len(data),), stype=_PACKED_TYPE, data=data)
    return RecordDict({**record, "arrays": ArrayRecord({PACKED: packed})})


def is_of(record: RecordDict, kind: type[WireMessage]) -> bool:
    """Whether records say that they are a message of this kind; nothing else of them is checked."""
    message = record.get("message")
    return isinstance(message, ConfigRecord) and message.get("kind") == kind.kind


def read_reply(record: RecordDict, expected: type[_Reply]) -> _Reply | Refused:
    """Read a site's answer: the expected reply or a refusal; raises `MessageRefused` for anything else."""
    if _scalars(record).get("kind") == Refused.kind:
        return Refused.from_record(record)
    return expected.from_record(record)


def read_answer(record: RecordDict, expected: type[_Reply]) -> _Reply | Refused | Unreadable:
    """Read a site's answer as `read_reply` does, and raise nothing: anything else is `Unreadable`."""
    if extra := _extra_key(record, expected):
        return Unreadable(extra=extra, why=f"the reply holds the unknown key {extra!r}")
    try:
        return read_reply(record, expected)
    except MessageRefused as error:
        return Unreadable(extra="", why=str(error))


def _extra_key(record: RecordDict, expected: type[WireMessage]) -> str:
    known = {field.name for kind in (expected, Refused) for field in dataclasses.fields(kind)} | {"schema", "kind"}
    message = record.get("message")
    keys = set(message) if isinstance(message, ConfigRecord) else set()
    return min((set(record) - {"message", "arrays"}) | (keys - known), default="")[:40]


def _scalars(record: RecordDict) -> dict[str, Any]:
    message = record.get("message")
    if not isinstance(message, ConfigRecord):
        raise MessageRefused("the message has no part named 'message'")
    return dict(message)


def _typed(value: object, kind: type, name: str) -> Any:
    if kind is float and isinstance(value, float) and not math.isnan(value):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str) and len(value) <= 256:
        return value
    if kind is bytes and isinstance(value, bytes) and len(value) <= MOST_BYTES_FIELD:
        return value
    raise MessageRefused(f"{name} is missing or not a {kind.__name__}")


def _arrays(record: RecordDict) -> Weights:
    arrays = record["arrays"]
    if not isinstance(arrays, ArrayRecord):
        raise MessageRefused("the part 'arrays' holds no arrays")
    if sum(len(array.data) for array in arrays.values()) > MAX_BYTES:
        raise MessageRefused(f"the arrays hold more than {MAX_BYTES} bytes")
    if set(arrays) == {PACKED} and arrays[PACKED].stype == _PACKED_TYPE:
        return _unpacked(arrays[PACKED].data)
    return {name: _read_array(array.data, f"array {name[:80]!r}") for name, array in arrays.items()}


def _unpacked(data: bytes) -> Weights:
    """Read packed arrays; safetensors compares what its header announces with the bytes at hand."""
    try:
        arrays: Weights = load(data)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise MessageRefused(f"the packed arrays cannot be read ({type(error).__name__})") from error
    if odd := [name for name, array in arrays.items() if array.dtype not in TYPES]:
        raise MessageRefused(f"array {odd[0][:80]!r} is {arrays[odd[0]].dtype}, not {_TYPES} in C order")
    return arrays


def _read_array(data: bytes, what: str) -> NDArray[Any]:
    """Read one NPY array; the header's size is compared with the bytes at hand before anything is allocated."""
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise MessageRefused(f"{what} is not of NPY version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError) as error:
        raise MessageRefused(f"{what} is not in NPY form ({type(error).__name__})") from error
    if dtype not in TYPES or fortran:
        raise MessageRefused(f"{what} is {dtype}, not {_TYPES} in C order")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise MessageRefused(f"{what} announces {list(shape)} but holds {len(data) - stream.tell()} bytes")
    return np.frombuffer(data, dtype=dtype, offset=stream.tell()).reshape(shape)
