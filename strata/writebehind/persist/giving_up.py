"""The end of a write that is given up: dead letter, caches back to what L3 holds, and the word to whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from strata.bound import Bound
from strata.errors import WITHOUT_L2, DecodeError, L2RefusedError
from strata.model.plan import UnknownColumnError
from strata.policies import Retention
from strata.protocol.entry import Entry, decode, is_newer, version_of
from strata.protocol.messages import MessageOp as Said
from strata.protocol.shards import SHARDS
from strata.protocol.versions import text
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard, shards_of
from strata.writebehind.persist.dead_letters import Letter, encode_letter, letter_of
from strata.writebehind.persist.outcomes import Failed, OutcomeReport, Outcomes

SETTLED_MS = 10_000  # after which a burial that was not made known will not be by whoever began it


class Reason(NamedTuple):
    """Why a write is given up, in words that show nothing of the record."""

    error: str
    sqlstate: str = ""
    attempts: int = 1


class GivingUp:
    """Thread-safe: it keeps nothing but what it said last. Methods raise `L2UnavailableError`, `L2RefusedError`; a
    burial that was interrupted after it began is taken up again by `finish`."""

    def __init__(self, common: Common, outcomes: Outcomes, retention: Retention) -> None:
        self._versions = common.versions
        self._ledger = common.ledger
        self._outcomes = outcomes
        self._schemas = common.schemas
        self._announcer = common.announcer
        self._publisher = common.publisher
        self._kept = retention.dead_letter_ttl
        self._most = -(-retention.max_dead_letters // SHARDS)
        self._clock = common.clock
        self._log = common.log
        self._metrics = common.metrics

    def bury(self, bound: Bound, shard: Shard, key_text: str, entry: Entry, blame: Reason) -> None:
        """Move the write to the dead letters, unless something newer has made it void."""
        now = int(self._clock.wall() * 1000)
        first = min(entry.since, now)
        letter = Letter(key_text, entry.encode(), blame.sqlstate, blame.error, blame.attempts, first, now)
        if self._ledger.bury(shard, key_text, entry.version, encode_letter(letter)):
            self._metrics.count("strata_write_behind_dead_letters", schema=bound.name)
            self._make_known(bound, shard, letter, entry)
            self.wither(bound, [shard])

    def wither(self, bound: Bound, shards: Sequence[Shard]) -> int:
        """Take out letters that are too old, and the oldest of those that are too many; returns how many."""
        count = self._ledger.wither(shards, self._kept, self._most)
        if count:
            self._metrics.count("strata_write_behind_dead_letters_dropped", count, schema=bound.name)
            self._log.warning(
                "dead letters were dropped, being too old or too many; see Config.retention",
                schema=bound.name,
                count=count,
            )
        return count

    def set_aside(self, bound: Bound, shard: Shard, key_text: str, raw: bytes, reason: str) -> int:
        """Move what stands in the ledger and cannot be read to the dead letters; the version by which it goes there.

        Nobody is told, since nobody knows whose it was.
        """
        now = int(self._clock.wall() * 1000)
        known = version_of(raw) if is_newer(raw) else 0
        version = known or self._versions.stamp()
        shown = key_text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        letter = encode_letter(Letter(shown, raw, "", reason, 0, now, now))
        if self._ledger.set_aside(shard, key_text, raw, version, letter):
            self._metrics.count("strata_write_behind_unreadable", schema=bound.name)
            self._log.warning(
                "what stood in the ledger cannot be read; it is a dead letter", reason=reason, schema=bound.name
            )
            if known:
                self._purge(bound, key_text, known)
            self.wither(bound, [shard])
        return version

    def learn(self, bound: Bound, shard: Shard, version: int) -> None:
        """A write of this process is a dead letter, of which it was not told."""
        [raw] = self._ledger.ask([(shard, ("HGET", "dead", text(version)))])
        if isinstance(raw, bytes) and (letter := letter_of(raw)) is not None:
            self._outcomes.apply(OutcomeReport(bound.name, failed=[_failed(letter, version)]))

    def finish(self) -> int:
        """Make known what was buried by processes that died over it; returns how many letters."""
        count = 0
        horizon = self._ledger.now() - SETTLED_MS
        for bound in list(self._schemas.values()):
            shards = shards_of(bound.name)
            for shard, names in zip(shards, self._ledger.ask([(s, ("HKEYS", "untold")) for s in shards]), strict=True):
                for name in [] if isinstance(names, L2RefusedError) else names:
                    count += self._finish(bound, shard, name, horizon)
        return count

    def _finish(self, bound: Bound, shard: Shard, name: bytes, horizon: float) -> bool:
        died, raw = self._ledger.ask([(shard, ("ZSCORE", "deaths", name)), (shard, ("HGET", "dead", name))])
        if not isinstance(raw, bytes) or isinstance(died, L2RefusedError) or float(died or 0) >= horizon:
            return False
        letter = letter_of(raw)
        try:
            if letter is None:
                raise DecodeError("a dead letter")
            self._make_known(bound, shard, letter, decode(letter.entry))
        except UnknownColumnError:
            return False  # a newer release can tell
        except DecodeError:
            self._ledger.ask([(shard, ("HDEL", "untold", name))])  # nobody can be told of it
            return False
        return True

    def _make_known(self, bound: Bound, shard: Shard, letter: Letter, entry: Entry) -> None:
        purged = self._purge(bound, letter.key_text, entry.version)
        told = [
            self._outcomes.send(origin, OutcomeReport(bound.name, failed=[_failed(letter, version)]))
            for origin, version in entry.versions().items()
        ]
        if purged and all(told):
            self._ledger.ask([(shard, ("HDEL", "untold", text(entry.version)))])

    def _purge(self, bound: Bound, key_text: str, version: int) -> bool:
        message = self._announcer.message(bound.name, key_text, Said.PURGE, version)
        try:
            if bound.l2 is not None:
                bound.l2.purge(self._announcer.channel, [(key_text, version, message)])
            elif self._publisher is not None:
                self._publisher.pipeline([("PUBLISH", self._announcer.channel, message)])
            return True
        except WITHOUT_L2:
            self._log.debug("caches could not be told of a dead letter yet", schema=bound.name)
            return False


def _failed(letter: Letter, version: int) -> Failed:
    return Failed(letter.key_text, version, letter.sqlstate, letter.error, letter.attempts, True)
