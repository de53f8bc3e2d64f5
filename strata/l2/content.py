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
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from strata.errors import WITHOUT_L2
from strata.l2.lifetimes import Lifetimes
from strata.protocol.markers import UNMARKED, SchemaMarkers
from strata.protocol.versions import NODE_BITS, VersionClock
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
_HEADS = (b"V1:", b"V2:", b"T1:", b"T2:")


class Contents:
    """Writes and reads what the keys of one schema hold. Immutable. `key_text` gives a record's key: what stands under
    another one is not read. Values of the far future are read as entries that cannot be read. `marks` says which are
    outdated."""

    def __init__(
        self,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        lifetimes: Lifetimes,
        versions: VersionClock,
        clock: Clock,
        key_text: Callable[[Any], str] | None = None,
        marks: SchemaMarkers = UNMARKED,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._lifetimes = lifetimes
        self._versions = versions
        self._clock = clock
        self._key_text = key_text
        self.marks = marks

    def write(
        self, version: int, record: Any, *, pending: bool = False, own: bool = False, since: int | None = None
    ) -> bytes:
        """What a key is to hold: the value, which may have a life of its `own`, or for None a tombstone; `since` is
        that of the markers before it was read."""
        form, number = ("1", "") if since is None else ("2", f"{since:016d}:")
        flag = "p" if pending else "s"
        if record is None:
            return f"T{form}:{version:019d}:{flag}:{number}".encode()
        return f"V{form}:{version:019d}:{flag}{';' if own else ':'}{number}".encode() + self._encode(record)

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
                    found = self._value(version, raw, left, body)
                    if self._key_text is not None and self._key_text(found.record) != key_text:
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

    def _value(self, version: int, raw: bytes, left: int, body: int) -> Found:
        found = Found(State.VALUE, version, raw[23:24] == b"p", self._decode(raw[body:]))
        if raw[HEADER - 1 : HEADER] == OWN_LIFE:
            # Of the last millisecond Redis says 0, which is still something.
            return replace(found, life=math.inf if left < 0 else max(left, 0.5) / 1000)
        if left < 0:
            return found
        if left <= self._lifetimes.stay_ms:
            return replace(found, state=State.STALE, raw=raw)
        # What L3 does not have yet cannot be had fresher from there.
        return replace(found, raw=raw, due=True) if left <= self._lifetimes.due_ms and not found.pending else found
