"""What the ledger is given and what it answers, as values."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from strata.errors import L2RefusedError
from strata.protocol.messages import MessageOp
from strata.writebehind.ledger.shard import Shard

ANY = "*"
WHATEVER = -1  # in the place of a life: no copy of the record is good, of whatever version
NEVER = "-"  # report the state of the key, store nothing
_CLAIM = re.compile(rb"\d+:([^:]+):(\d+):(\d+):(\d+)")


class Verdict(enum.Enum):
    """What became of one record at hand-off: taken, there already, in L3 (at that version or a newer one), a newer
    one is pending, another one than expected is pending, or there is no room."""

    TAKEN = "+"
    THERE = "="
    PERSISTED = "<"
    NEWER = ">"
    UNEXPECTED = "?"
    FULL = "!"


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A verdict with the version, or the entry, that it is about."""

    verdict: Verdict
    version: int = 0
    entry: bytes = b""


class LedgerPut(msgspec.Struct, frozen=True, gc=False):
    """One record on its way into the ledger, and into L2 where `l2_key` is not empty.

    `expected` is the version that the ledger must hold for it to be taken: ANY, "" for none, NEVER. `said`: what the
    bus hears once it is taken.
    """

    key_text: str
    entry: bytes
    expected: str = ANY
    l2_key: str = ""
    content: bytes = b""
    px: int = 0
    said: MessageOp | None = None

    @property
    def kind(self) -> tuple[bool, str, MessageOp | None]:
        """What those have in common that are handed off together."""
        return bool(self.l2_key), self.expected, self.said


class LedgerBatch(NamedTuple):
    """Records of one shard that are handed off alike, no key twice: of each its key, entry, L2 content and px in turn,
    and its L2 key, where they go into L2; the version `expected` of all, and the head of the message about them, b""
    being none."""

    shard: Shard
    records: Sequence[Any]
    l2_keys: Sequence[str] = ()
    expected: str = ANY
    head: bytes = b""

    @classmethod
    def of(cls, shard: Shard, puts: Sequence[LedgerPut], head: bytes = b"") -> LedgerBatch:
        """These, which are of one kind."""
        records = [value for put in puts for value in (put.key_text, put.entry, put.content, put.px)]
        with_l2, expected, _ = puts[0].kind
        return cls(shard, records, [put.l2_key for put in puts] if with_l2 else (), expected, head)

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.records) // 4


class ShardAnswer(NamedTuple):
    """What a shard said to a hand-off."""

    epoch: bytes
    ring: bool
    answers: list[Answer]


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """What was leased to this worker, with what its earlier claims ended in. A key that is not UTF-8 has surrogates."""

    key_text: str
    entry: bytes
    crashes: int = 0
    attempts: int = 0
    outages: int = 0


class Release(NamedTuple):
    """A claim given back, due again after `pause` seconds."""

    key_text: str
    version: int
    pause: float
    crashes: int
    attempts: int
    outages: int


class KeyStatus(NamedTuple):
    """What the ledger knows of a key: versions, 0 where there is none."""

    pending: int
    persisted: int
    dead: tuple[int, ...]


class ShardTimes(NamedTuple):
    """The first and the last due time of a shard in ms (None: nothing is timed), its epoch, and whether there may be
    entries that have no time."""

    due: float | None
    epoch: bytes
    untimed: bool = False
    last: float | None = None


TAKEN = Answer(Verdict.TAKEN)
_VERDICTS = {verdict.value.encode(): verdict for verdict in Verdict}


def key_text_of(key: bytes) -> str:
    """The text of a key; one that is not UTF-8 has surrogates."""
    return key.decode("utf-8", "surrogateescape")


def raw_of(key_text: str) -> bytes:
    """The key of a text."""
    return key_text.encode("utf-8", "surrogateescape")


def taken(said: Any, count: int) -> ShardAnswer:
    """The answer to a hand-off of so many."""
    epoch, ring, *rest = said
    return ShardAnswer(epoch, bool(ring), [_answer(raw) for raw in rest] if rest else [TAKEN] * count)


def _answer(raw: bytes) -> Answer:
    if raw == b"+":  # nearly always
        return TAKEN
    verdict = _VERDICTS[raw[:1]]
    if verdict in (Verdict.PERSISTED, Verdict.NEWER):
        return Answer(verdict, int(raw[1:]))
    return Answer(verdict, 0, raw[1:])


def statuses(flat: Sequence[bytes]) -> list[KeyStatus]:
    """The answer of a probe."""
    return [_status(*flat[at : at + 3]) for at in range(0, len(flat), 3)]


def _status(pending: bytes, persisted: bytes, graves: bytes) -> KeyStatus:
    return KeyStatus(int(pending or 0), int(persisted or 0), tuple(int(one) for one in graves.split() if one.isdigit()))


def claimed_fields(claims: Any, wanted: Callable[[bytes, int, int], bool]) -> list[bytes]:
    """The keys of those claims that are `wanted`, by their token, attempts and outages."""
    pairs = claims.items() if isinstance(claims, dict) else zip(claims[::2], claims[1::2], strict=True)
    found = [(key, _CLAIM.fullmatch(claim)) for key, claim in pairs]
    return [key for key, claim in found if claim and wanted(claim[1], int(claim[3]), int(claim[4]))]


def times_of(answers: Sequence[Any]) -> ShardTimes | L2RefusedError:
    """The answers of a look at a shard."""
    for answer in answers:
        if isinstance(answer, L2RefusedError):
            return answer
    first, last, epoch, timed, pending = answers
    return ShardTimes(_score(first), epoch or b"", timed < pending, _score(last))


def _score(pairs: Any) -> float | None:
    if not pairs:
        return None
    first = pairs[0]
    return float(first[1] if isinstance(first, list | tuple) else pairs[1])
