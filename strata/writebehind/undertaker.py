"""The end of a write that is given up: dead letter, caches back to what L3 holds, and the word to whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from strata.bound import Bound
from strata.clock import Clock
from strata.coherence.messages import Announcer
from strata.coherence.messages import Op as Said
from strata.errors import L2UnavailableError
from strata.l2.client import RedisServer
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.writebehind.deadletters import Letter, decode_letter, encode_letter
from strata.writebehind.entry import Entry, decode
from strata.writebehind.ledger import Ledger
from strata.writebehind.outcomes import Failed, Outcomes, Report
from strata.writebehind.shard import Shard, shards_of

SETTLED_MS = 10_000  # after which a burial that was not made known will not be by whoever began it


class Blame(NamedTuple):
    """Why a write is given up, in words that show nothing of the record."""

    error: str
    sqlstate: str = ""
    attempts: int = 1


class Undertaker:
    """Thread-safe: it keeps no state. Methods raise `L2UnavailableError`; a burial that was interrupted after it
    began is taken up again by `finish`."""

    def __init__(
        self,
        ledger: Ledger,
        outcomes: Outcomes,
        schemas: Mapping[str, Bound],
        announcer: Announcer,
        publisher: RedisServer | None,
        clock: Clock,
        log: SafeLogger,
        metrics: SafeMetrics,
    ) -> None:
        self._ledger = ledger
        self._outcomes = outcomes
        self._schemas = schemas
        self._announcer = announcer
        self._publisher = publisher
        self._clock = clock
        self._log = log
        self._metrics = metrics

    def bury(self, bound: Bound, shard: Shard, key_text: str, entry: Entry, blame: Blame) -> None:
        """Move the write to the dead letters, unless something newer has made it void."""
        now = int(self._clock.wall() * 1000)
        first = min(entry.since, now)
        letter = Letter(key_text, entry.encode(), blame.sqlstate, blame.error, blame.attempts, first, now)
        if self._ledger.bury(shard, key_text, entry.version, encode_letter(letter)):
            self._metrics.count("strata_write_behind_dead_letters", schema=bound.name)
            self._make_known(bound, shard, letter, entry)

    def learn(self, bound: Bound, shard: Shard, version: int) -> None:
        """A write of this process is a dead letter, of which it was not told."""
        raw = self._ledger.server.execute("HGET", self._ledger.key(shard, "dead"), f"{version:019d}")
        if raw is not None:
            letter = decode_letter(raw)
            self._outcomes.apply(Report(bound.name, failed=[_failed(letter, version)]))

    def finish(self) -> int:
        """Make known what was buried by processes that died over it; returns how many letters."""
        count = 0
        horizon = self._ledger.now() - SETTLED_MS
        for bound in list(self._schemas.values()):
            shards = shards_of(bound.name)
            for shard, flat in zip(shards, self._untold(shards), strict=True):
                for version in flat:
                    died = self._ledger.server.execute("ZSCORE", self._ledger.key(shard, "deaths"), version)
                    raw = self._ledger.server.execute("HGET", self._ledger.key(shard, "dead"), version)
                    if raw is not None and float(died or 0) < horizon:
                        letter = decode_letter(raw)
                        self._make_known(bound, shard, letter, decode(letter.entry))
                        count += 1
        return count

    def _untold(self, shards: Sequence[Shard]) -> list[list[bytes]]:
        return self._ledger.server.pipeline([("HKEYS", self._ledger.key(shard, "untold")) for shard in shards])

    def _make_known(self, bound: Bound, shard: Shard, letter: Letter, entry: Entry) -> None:
        purged = self._purge(bound, letter.key_text, entry.version)
        self._outcomes.send(entry.origin, Report(bound.name, failed=[_failed(letter, entry.version)]))
        if purged:
            self._ledger.server.execute("HDEL", self._ledger.key(shard, "untold"), f"{entry.version:019d}")

    def _purge(self, bound: Bound, key_text: str, version: int) -> bool:
        message = self._announcer.message(bound.name, key_text, Said.PURGE, version)
        try:
            if bound.l2 is not None:
                bound.l2.purge(self._announcer.channel, [(key_text, version, message)])
            elif self._publisher is not None:
                self._publisher.pipeline([("PUBLISH", self._announcer.channel, message)])
            return True
        except L2UnavailableError:
            self._log.warning("caches could not be told of a dead letter yet", schema=bound.name)
            return False


def _failed(letter: Letter, version: int) -> Failed:
    return Failed(letter.key_text, version, letter.sqlstate, letter.error, letter.attempts, True)
