"""What the ledger holds, as a thread saw it last: those who want to know never wait for Redis."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from strata.bound import Bound
from strata.errors import WITHOUT_L2, InvalidConfigError
from strata.protocol.shards import SHARDS
from strata.waits.clock import Clock
from strata.writebehind.ledger.shard import shards_of

if TYPE_CHECKING:
    from strata.writebehind.ledger.ledger import Ledger

APART = 1.0  # seconds between looks
WANTED = 60.0  # seconds after which nobody seems to want to know any more
LATE = 15.0  # seconds after which what waits is worth a look; what a killed worker held is free by then


class PendingStats(NamedTuple):
    """What the ledger holds of a schema: entries, dead letters, and of each shard that has entries the seconds since
    the oldest of them was written."""

    pending: int = 0
    dead: int = 0
    ages: Mapping[int, float] = MappingProxyType({})

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest entry was written; 0 without any."""
        return max(self.ages.values(), default=0.0)

    @property
    def late(self) -> dict[int, float]:
        """The shards whose oldest entry has waited for longer than `LATE`, with its age."""
        return {shard: age for shard, age in self.ages.items() if age > LATE}


class Seen(NamedTuple):
    """What a look found, by schema, and when it was, by the monotonic clock."""

    at: float
    by_schema: Mapping[str, PendingStats]


class Lag:
    """The last look at the ledger's entries of some schemas, and the next one.

    Thread-safe: each attribute is replaced as a whole, by any thread, two looks at once being harmless. After fork the
    child calls `reset`.
    """

    def __init__(self, ledger: Ledger, schemas: Mapping[str, Bound], clock: Clock) -> None:
        self._ledger = ledger
        self._schemas = schemas
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Nothing is known."""
        self.seen: Seen | None = None
        self._wanted_at = -math.inf
        self._looked_at = -math.inf

    def look(self, *, wanted: bool = False) -> None:
        """Ask the ledger, where somebody wanted to know of late and the last look is a while ago; never raises what
        the ledger raises."""
        now = self._clock.monotonic()
        if (wanted or now < self._wanted_at + WANTED) and now >= self._looked_at + APART:
            self._looked_at = now
            with contextlib.suppress(*WITHOUT_L2, InvalidConfigError):
                self.seen = Seen(now, self.ask())

    def ask(self) -> dict[str, PendingStats]:
        """What the ledger holds now, by schema. Raises `L2UnavailableError`."""
        return {name: self._stats(name) for name in list(self._schemas)}

    def fields(self, schema: str) -> dict[str, Any]:
        """Of one schema, by the names that `Stats` has for it; None is unknown. A thread looks again soon."""
        self._wanted_at = now = self._clock.monotonic()
        seen = self.seen
        if seen is None or schema not in seen.by_schema:
            return dict.fromkeys(("pending", "oldest_age", "dead_letters", "ledger_age"))
        found = seen.by_schema[schema]
        age = max(0.0, now - seen.at)
        return {
            "pending": found.pending,
            "oldest_age": found.oldest_age,
            "dead_letters": found.dead,
            "ledger_age": age,
        }

    def _stats(self, name: str) -> PendingStats:
        shards = shards_of(name)
        asked_for = (("HLEN", "dirty"), ("ZCARD", "deaths"))
        answers = self._ledger.ask([(shard, command) for command in asked_for for shard in shards])
        now, oldest = self._clock.wall(), self._ledger.oldest(shards)
        ages = {
            shard.number: max(0.0, now - since / 1000)
            for shard, since in zip(shards, oldest, strict=True)
            if since is not None
        }
        return PendingStats(_sum(answers[:SHARDS]), _sum(answers[SHARDS:]), ages)


def _sum(counts: Sequence[Any]) -> int:
    return sum(count for count in counts if isinstance(count, int))


def together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The `fields` of several schemas as one: what is unknown of one is unknown of all."""
    if not parts:
        return {}
    totals: dict[str, Any] = {}
    for name, add in (("pending", sum), ("oldest_age", max), ("dead_letters", sum), ("ledger_age", max)):
        values = [part[name] for part in parts]
        totals[name] = None if None in values else add(values)
    return totals
