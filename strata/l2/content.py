"""What a key of L2 holds, as bytes and as what they mean.

`V1:<version>:<s|p>:` with a record behind it, `T1:` for a tombstone, `I1:` for the intents of writers, `L1:` for the
lease of a reader; p is pending, s settled. A `;` in the place of the last colon says that the value has a life of its
own: what the key has left of it is all that a copy of it has. A release that does not know of such lives does not look
at that place. What markers concern is `V2:<version>:<s|p>:<since>:` or `T2:`, with the number of the last marker that
was heard of before it was read (`strata.protocol.markers`).
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from strata import waits
from strata.errors import WITHOUT_L2
from strata.l2.lifetimes import Lifetimes
from strata.protocol.markers import UNMARKED, SchemaMarkers
from strata.protocol.versions import NODE_BITS, VersionClock, text
from strata.waits.clock import Clock

LONGEST_MS = 86_400_000  # of an intent
HEADER = 25  # bytes of `V1:<19 digits>:<s|p>:`
OWN_LIFE = b";"  # in the last of them
MARKED = HEADER + 17  # bytes of `V2:<19 digits>:<s|p>:<16 digits>:`

_DEADLINE = re.compile(rb"[^=;]+=([0-9]{1,15});")  # of an intent's writer, in ms


class State(enum.Enum):
    """What a read found: a value, a stale one, a tombstone, nothing (and left a lease), somebody's lease, or an intent.

    STALE: its TTL is over, and it is kept in case the tiers below are down. LOADING: another reader's lease. OUTDATED:
    a marker says that it may be older than what L3 has.
    """

    VALUE = enum.auto()
    STALE = enum.auto()
    TOMBSTONE = enum.auto()
    LEASED = enum.auto()
    LOADING = enum.auto()
    BUSY = enum.auto()
    OUTDATED = enum.auto()


class Found(msgspec.Struct, frozen=True, gc=False):
    """The answer of a read. `token` is the lease where the state is LEASED; `raw` is the content of what is stale, or
    `due` for a refresh, with which it may be replaced. `life`: the seconds that it has left of a life of its own."""

    state: State
    version: int = 0
    pending: bool = False
    record: Any = None
    token: str = ""
    raw: bytes = b""
    due: bool = False
    life: float | None = None


OUTDATED = Found(State.OUTDATED)
Unread: TypeAlias = dict[str, bytes | None]  # what keys hold, by their texts


class Plain(NamedTuple):
    """Values of which there is nothing more to say, as most are: settled ones, which live as long as all. Their records
    by key text, and the digits of their versions in the same order."""

    records: dict[str, Any]
    digits: list[bytes]

    @property
    def versions(self) -> list[int]:
        return list(map(int, self.digits))


NO_VALUES = Plain({}, [])


def together(parts: Sequence[Plain]) -> Plain:
    """The values of several."""
    if len(parts) == 1:
        return parts[0]
    records = {text: record for part in parts for text, record in part.records.items()}
    return Plain(records, [digits for part in parts for digits in part.digits])


class Answers(NamedTuple):
    """What was found of some keys: plain values, and what else there is, by key text."""

    plain: Plain
    others: dict[str, Found]

    def all(self) -> dict[str, Found]:
        """Of each key, plain or not."""
        records, versions = self.plain.records.items(), self.plain.versions
        return self.others | {
            text: Found(State.VALUE, version, False, record)
            for (text, record), version in zip(records, versions, strict=True)
        }


_HEADS = (b"V1:", b"V2:", b"T1:", b"T2:")


class Contents:
    """Writes and reads what the keys of one schema hold. Immutable. `texts_of` gives the texts of records' keys:
    what stands under another one is not read. Values of the far future are read as entries that cannot be read. `marks`
    says which are outdated."""

    def __init__(
        self,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        lifetimes: Lifetimes,
        versions: VersionClock,
        clock: Clock,
        texts_of: Callable[[Iterable[Any]], list[str]] | None = None,
        marks: SchemaMarkers = UNMARKED,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._lifetimes = lifetimes
        self._versions = versions
        self._clock = clock
        self._texts_of = texts_of
        self.marks = marks

    def write(
        self, version: int, record: Any, *, pending: bool = False, own: bool = False, since: int | None = None
    ) -> bytes:
        """What a key is to hold: the value, which may have a life of its `own`, or for None a tombstone; `since` is
        that of the markers before it was read."""
        form, number = (b"1", b"") if since is None else (b"2", b"%016d:" % since)
        flag = b"p" if pending else b"s"
        if record is None:
            return b"T%s:%019d:%s:%s" % (form, version, flag, number)
        mark = OWN_LIFE if own else b":"
        return b"V%s:%019d:%s%s%s%s" % (form, version, flag, mark, number, self._encode(record))

    def write_each(
        self, versions: Iterable[int], records: Iterable[Any], *, pending: bool, since: int | None
    ) -> list[bytes]:
        """As `write`, of several records."""
        form, number = (b"1", b"") if since is None else (b"2", b"%016d:" % since)
        head, middle, encode = b"V%s:" % form, b":%s:%s" % (b"p" if pending else b"s", number), self._encode
        return [
            b"%s%019d%s%s" % (head, version, middle, encode(record))
            for version, record in zip(versions, records, strict=True)
        ]

    def asks(self, raw: bytes | None) -> bool:
        """Whether what a content means depends on what its key has left."""
        return raw is not None and raw[HEADER - 1 : HEADER] == OWN_LIFE and raw[:3] in (b"V1:", b"V2:")

    def read(self, key_text: str, raw: bytes | None, left: int) -> Found | None:
        """What a content with so many ms left (-1: it does not expire) means; None where there is none, or it cannot be
        read. Raises `L2UnavailableError` where the markers must be asked for."""
        if raw is None:
            return None
        head = raw[:3]
        try:
            if head in _HEADS:
                digits = raw[3:22]
                version = int(digits)
                if not digits.isdigit() or not self._versions.believed(version):
                    return None
                body, since = HEADER, None
                if head[1:2] == b"2":
                    body, since = MARKED, self._since(raw[HEADER:MARKED])
                if head[:1] == b"T":
                    found = Found(State.TOMBSTONE, version, raw[23:24] == b"p")
                else:
                    found = Found(State.VALUE, version, raw[23:24] == b"p", self._decode(raw[body:]))
                    if left >= 0 or raw[HEADER - 1 : HEADER] == OWN_LIFE:
                        found = self._aged(found, raw, left)
                    if self._texts_of is not None and self._texts_of((found.record,)) != [key_text]:
                        return None
                # What is pending is a write, which nothing outdates but a newer one.
                return OUTDATED if not found.pending and self.marks.outdated(found.record, since) else found
        except WITHOUT_L2:
            raise
        except Exception:  # noqa: BLE001 a codec of the user's may raise anything; the entry is a miss either way
            return None
        if head == b"I1:":
            return Found(State.BUSY) if self._ends(raw) else None
        return Found(State.LOADING) if head == b"L1:" else None

    def read_plain(self, key_texts: Sequence[str], raws: Sequence[bytes | None]) -> tuple[Plain, Unread]:
        """As `read`, of what does not age: the plain values, and what is left to be read, one by one. Columns instead
        of objects, since what is done for each key by itself costs more than to decode it."""
        some = {}
        if self.marks.since is None:
            some = {
                text: raw
                for text, raw in zip(key_texts, raws, strict=True)
                if raw is not None and raw[:3] == b"V1:" and raw[HEADER - 2 : HEADER] == b"s:"
            }
        plain = self._plain(some) if some else NO_VALUES
        if len(plain.records) == len(raws):
            return plain, {}
        return plain, {text: raw for text, raw in zip(key_texts, raws, strict=True) if text not in plain.records}

    def _plain(self, some: Mapping[str, bytes]) -> Plain:
        """These values; none of them where one cannot be read, since `read` says which."""
        decode, texts_of = self._decode, self._texts_of
        digits = [raw[3:22] for raw in some.values()]
        try:
            records = [decode(raw[HEADER:]) for raw in waits.in_turns(some.values())]
            if not b"".join(digits).isdigit() or max(digits) > text(self._versions.surely()).encode():
                return NO_VALUES
            if texts_of is not None and texts_of(records) != [*some]:
                return NO_VALUES
        except Exception:  # noqa: BLE001 a codec of the user's may raise anything
            return NO_VALUES
        return Plain(dict(zip(some, records, strict=True)), digits)

    def _ends(self, raw: bytes) -> bool:
        """Whether an intent has writers; no commit takes a day, so that one which ends later is nobody's."""
        latest = (self._versions.reference_ms() or self._clock.wall() * 1000) + LONGEST_MS
        return any(int(deadline) < latest for deadline in _DEADLINE.findall(raw, 5))

    def _since(self, digits: bytes) -> int:
        """The number of a marker. Raises `ValueError` for one of the far future, which nobody has set."""
        number = int(digits[:16])
        if not digits[:16].isdigit() or digits[16:] != b":" or not self._versions.believed(number << NODE_BITS):
            raise ValueError
        return number

    def _aged(self, found: Found, raw: bytes, left: int) -> Found:
        """What was found, by the ms that its key has left."""
        if raw[HEADER - 1 : HEADER] == OWN_LIFE:
            # Of the last millisecond Redis says 0, which is still something.
            return replace(found, life=math.inf if left < 0 else max(left, 0.5) / 1000)
        if left <= self._lifetimes.stay_ms:
            return replace(found, state=State.STALE, raw=raw)
        # What L3 does not have yet cannot be had fresher from there.
        return replace(found, raw=raw, due=True) if left <= self._lifetimes.due_ms and not found.pending else found
