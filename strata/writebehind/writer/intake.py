"""What became of a write that the buffer was given: it has room, or is in L3, and is as durable as was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from strata import waits
from strata.bound import Bound
from strata.errors import (
    WITHOUT_L2,
    WITHOUT_L3,
    ConstraintError,
    EncodeError,
    L2RefusedError,
    L2UnavailableError,
    MigrationError,
    UnavailableError,
    WriteBehindFullError,
)
from strata.policies import Durability
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.slot import Accepted, Buffered
from strata.writebehind.ledger.common import Common
from strata.writebehind.persist.bypass import Bypass
from strata.writebehind.writer.handoff import HandOff
from strata.writebehind.writer.replay import Replay

ROOM = 0.05  # seconds between looks for room in a full buffer


class Intake:
    """Thread-safe: it keeps no state. `beat` says that this instance reads its outcomes."""

    def __init__(
        self,
        common: Common,
        durability: Durability,
        buffer: DirtyBuffer,
        replay: Replay | None,
        handoff: HandOff,
        bypass: Bypass,
        beat: Callable[[], None],
    ) -> None:
        self._common = common
        self._durability = durability
        self._buffer = buffer
        self._replay = replay
        self._handoff = handoff
        self._bypass = bypass
        self._beat = beat

    def see_to(self, bound: Bound, key: Any, key_text: str, put: Accepted, item: Buffered) -> Accepted:
        """See to a write that was put, `item` but for its version; as what it was taken in the end. Raises as
        `WriteBehind.put` does."""
        if not put.room:
            late = self._overflow(bound, key, key_text, replace(item, version=put.version))
            if late is None:
                return put  # L3 has it
            put = late
        if not put.orphan and self._durability is not Durability.MEMORY and not self._durable(bound, key):
            self._hand_over(bound, key, key_text)
        return put

    def _durable(self, bound: Bound, key: Any) -> bool:
        """Whether the journal has the write; where it cannot take it, the ledger must."""
        if self._replay is None:
            return False
        try:
            self._replay.note(bound, key)
        except OSError as error:
            told = type(error).__name__
            self._common.log.error("the journal took no write; it goes to the ledger at once", error=told)
            return False
        return True

    def _hand_over(self, bound: Bound, key: Any, key_text: str) -> None:
        """The ledger, or else L3, has the write when `set` returns."""
        try:
            self._beat()
            self._handoff.run_for(bound.name, key)
        except WITHOUT_L2 as error:
            shown = self._buffer.shown(bound.name, key)
            if shown is None:
                return  # L3 has it meanwhile
            current = shown[1]
            try:
                self._bypass.one(bound, key, key_text, current)
            except (*WITHOUT_L3, MigrationError):
                words = (
                    "neither the ledger nor PostgreSQL took the write; it is tried again as long as this process lives"
                )
                if isinstance(error, L2RefusedError):
                    raise L2RefusedError(f"{words}. {error}") from error
                raise L2UnavailableError(words, outcome_unknown=True) from error
            except (ConstraintError, EncodeError):
                # The caller hears of it now, and not once more by OnWriteError.
                self._buffer.drop(bound.name, key, current.version)
                raise
            self._buffer.confirm(bound.name, [(key, current.version)])

    def _overflow(self, bound: Bound, key: Any, key_text: str, item: Buffered) -> Accepted | None:
        """The buffer is full: to L3 at once; where that fails, wait for room or for L3, then raise. How the buffer has
        taken it, None where L3 has.

        What others have written meanwhile the buffer does not know. So the write is one of now when it gets room,
        unless it may be in L3 already, or adds to what is there, whenever that is.
        """
        clock = self._common.clock
        self._common.metrics.count("strata_write_behind_full", schema=bound.name)
        deadline = clock.monotonic() + self._common.ledger.timing.full
        settled = bool(item.added)
        while True:
            try:
                self._bypass.one(bound, key, key_text, item)
                return None
            except WITHOUT_L3 as error:
                settled = settled or (isinstance(error, UnavailableError) and error.outcome_unknown)
                left = deadline - clock.monotonic()
                if left <= 0:
                    raise WriteBehindFullError(
                        f"{self._buffer.unsent} deferred writes wait for Redis, and PostgreSQL does not answer "
                        "either; the write was not taken"
                    ) from error
                waits.sleep(min(left, ROOM))
                if settled:
                    put = self._buffer.put(bound.name, key, key_text, item, safe=False)
                else:
                    put = self._buffer.write(bound.name, key, key_text, replace(item))
                if put.room:
                    return put
