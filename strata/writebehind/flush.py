"""Flushing: everything that this process wrote, into L3, in the calling thread and without any worker."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from strata.bound import Bound
from strata.clock import Clock
from strata.errors import InvalidConfigError, L2UnavailableError, StrataError
from strata.l3.failures import Diagnosis
from strata.writebehind.apply import Applier, Result
from strata.writebehind.buffer import Buffered, DirtyBuffer, Slot
from strata.writebehind.direct import Direct
from strata.writebehind.handoff import HandOff
from strata.writebehind.holder import Holder
from strata.writebehind.ledger import Claimed, Ledger
from strata.writebehind.outcomes import Outcomes
from strata.writebehind.shard import Shard
from strata.writebehind.watch import Watch

PAUSE = 0.05  # seconds between passes over what is left


class Persister:
    """Claims and applies. Thread-safe: it keeps no state."""

    def __init__(
        self, ledger: Ledger, applier: Applier, holder: Holder, schemas: Mapping[str, Bound], clock: Clock
    ) -> None:
        self._ledger = ledger
        self._applier = applier
        self._holder = holder
        self._schemas = schemas
        self._clock = clock

    def shard(self, shard: Shard, *, claimed_some: Callable[[], None] | None = None) -> tuple[int, bool]:
        """Persist what is due in a shard, for about one budget; how many records, and whether more is due."""
        bound = self._schemas[shard.schema]
        deadline = self._clock.monotonic() + self._ledger.pace.budget
        count, soon = 0, 0.0
        while True:
            token = self._ledger.token()
            claimed = self._ledger.claim(shard, token)
            if not claimed and soon and self._clock.monotonic() + soon < deadline:
                time.sleep(soon * 1.2)
                soon = 0.0
                continue
            if not claimed:
                return count, False
            if claimed_some is not None:
                with contextlib.suppress(L2UnavailableError):  # what was claimed must be applied, or given back
                    claimed_some()
            result = self._apply(bound, shard, token, claimed)
            count += result.persisted
            soon = result.soon
            if result.stopped is not None:
                self._ledger.leave(shard)
                return count, False
            if self._clock.monotonic() >= deadline:
                return count, True

    def keys(self, shard: Shard, keys: Sequence[str]) -> tuple[set[str], Diagnosis | None]:
        """Persist the pending writes of some keys, whoever has claimed them; which keys were pending, and what
        keeps L3 from being written."""
        bound = self._schemas[shard.schema]
        token = self._ledger.token()
        claimed = self._ledger.claim(shard, token, keys)
        if not claimed:
            return set(), None
        result = self._apply(bound, shard, token, claimed)
        return {item.key_text for item in claimed}, result.stopped

    def _apply(self, bound: Bound, shard: Shard, token: str, claimed: Sequence[Claimed]) -> Result:
        try:
            with self._holder.holding(shard, token, [item.key_text for item in claimed]):
                return self._applier.apply(bound, shard, token, claimed)
        except BaseException:
            # A time limit, or a server lost on the way: not the records' doing, so the claims do not count as crashes.
            self._applier.give_back(shard, token, claimed)
            raise


class Flush:
    """One call of `flush`. Not thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        buffer: DirtyBuffer,
        handoff: HandOff,
        persister: Persister,
        direct: Direct,
        outcomes: Outcomes,
        watch: Watch,
        schemas: Mapping[str, Bound],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._buffer = buffer
        self._handoff = handoff
        self._persister = persister
        self._direct = direct
        self._outcomes = outcomes
        self._watch = watch
        self._schemas = schemas
        self._clock = clock
        self._wanted = {slot: item.version for slot, item in buffer.pending()}
        self._left = buffer.left()
        self.stopped: Diagnosis | None = None

    def run(self, timeout: float, *, settle_for_ledger: bool = False) -> int:
        """Returns how many writes L3 does not have after `timeout` seconds.

        `settle_for_ledger`: do not wait for L3 to come back, once everything is safe in the ledger.
        """
        deadline = self._clock.monotonic() + timeout
        while True:
            self.stopped = None
            self._pass()
            left = self._remaining()
            if not left or self._clock.monotonic() >= deadline:
                return left
            if settle_for_ledger and self.stopped is not None and not self._buffer.unsent:
                return left
            time.sleep(min(PAUSE, max(0.0, deadline - self._clock.monotonic())))

    def _pass(self) -> None:
        try:
            self._handoff.run()
            self._own()
            self._overtaken()
            self._others()
            self._outcomes.collect()
        except (L2UnavailableError, InvalidConfigError):  # away; or it has come to be another database's
            self._around()

    def _own(self) -> None:
        """What is in the ledger: claim it from whoever has it, since applying twice is harmless."""
        by_shard: dict[Shard, list[tuple[Slot, Buffered]]] = {}
        for slot, item in self._buffer.pending():
            if slot in self._wanted and slot.sent:
                by_shard.setdefault(slot.shard, []).append((slot, item))
        step = self._ledger.pace.claim
        for shard, group in by_shard.items():
            for at in range(0, len(group), step):
                part = group[at : at + step]
                pending, stopped = self._persister.keys(shard, [slot.key_text for slot, _ in part])
                self.stopped = self.stopped or stopped
                unknown = [(slot, item) for slot, item in part if slot.key_text not in pending]
                if unknown:
                    self._watch.ask_after(unknown)

    def _overtaken(self) -> None:
        """Writes of which a newer version was met: L3 has that one, or takes these, whatever the ledger remembers."""
        for slot, item in self._buffer.overtaken():
            if slot in self._wanted:
                outcome = self._direct.overtaken(self._schemas[slot.schema], [(slot, item)])
                self.stopped = self.stopped or outcome.stopped

    def _others(self) -> None:
        """Shards into which writes went that the buffer had no room to keep."""
        for shard, version in self._left.items():
            self._persister.shard(shard)
            if self._ledger.look([shard])[0].due is None:
                self._buffer.drained(shard, version)

    def _around(self) -> None:
        """The ledger is away: straight to L3."""
        by_schema: dict[str, list[tuple[Slot, Buffered]]] = {}
        for slot, item in self._buffer.pending():
            if slot in self._wanted:
                by_schema.setdefault(slot.schema, []).append((slot, item))
        step = self._ledger.pace.claim
        for name, group in by_schema.items():
            for at in range(0, len(group), step):
                try:
                    self._direct.many(self._schemas[name], group[at : at + step])
                except StrataError:
                    continue  # what is left is counted

    def _remaining(self) -> int:
        pending = {slot for slot, _ in self._buffer.pending()}
        left = [slot for slot, version in self._wanted.items() if slot in pending and slot.persisted < version]
        return len(left) + sum(1 for shard in self._left if shard in self._buffer.left())
