"""Telling of writes that were given up: the log line, and OnWriteError, in a thread of its own.

The hook is the user's, and may take its time, or call the store. Whoever has found the failure waits for it but a
moment: what says so in Redis stays there until the hook has returned, and a flush waits, up to its own time-out, since
the write stays in the buffer until then.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from strata import waits
from strata.bound import Bound
from strata.errors import StrataError, WriteBehindMaxRetryError
from strata.runtime.daemon import Daemon
from strata.waits.hub import LOOK
from strata.waits.nudge import Nudge
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import home_of
from strata.writebehind.persist.outcomes import Failed

Place = tuple[str, Any, int]


class Word:
    """One failure, on its way to the hook of its schema."""

    __slots__ = ("__weakref__", "bound", "ended", "failure", "key", "nudge")

    def __init__(self, bound: Bound, key: Any, failure: Failed) -> None:
        self.bound = bound
        self.key = key
        self.failure = failure
        self.ended = False
        self.nudge = Nudge()  # of the call that tells it

    @property
    def version(self) -> int:
        """That a write waits out an outage is another thing than that it is given up, which may come later."""
        return self.failure.version if self.failure.final else -self.failure.version

    @property
    def place(self) -> Place:
        """What it is about."""
        return self.bound.name, self.key, self.version


class Notifier:
    """Started by the first failure. Thread-safe: `_queue` and `_under_way` are used in one call each. A word that is
    under way, which somebody may find once more meanwhile, lives in the queue, or with the call that tells it: one that
    is broken off leaves a dead reference. After fork the child makes another one. Where no thread can be had, as when
    the interpreter ends, who has found the failure calls the hook.
    """

    def __init__(self, common: Common, buffer: DirtyBuffer) -> None:
        self._ledger = common.ledger
        self._buffer = buffer
        self._log = common.log
        self._metrics = common.metrics
        self._queue: deque[Word] = deque()
        self._under_way: dict[Place, weakref.ref[Word]] = {}
        self.daemon = Daemon("strata-teller", self._step, common.log)

    def tell(self, bound: Bound, failed: Sequence[tuple[Any, Failed]]) -> bool:
        """Have the hook told of these, each once among all processes; the buffer lets go of those that are final when
        it was. Whether it was told of all; otherwise this is to be called once more. Raises `L2UnavailableError`."""
        words = [word for key, failure in failed if self._begin(word := Word(bound, key, failure))]
        if not words:
            return not failed
        try:
            claims = self._ledger.tell([(home_of(bound.name, word.failure.key_text), word.version) for word in words])
        except StrataError:
            for word in words:  # whoever keeps the error keeps them alive
                del self._under_way[word.place]
            raise
        told = [word for word, mine in zip(words, claims, strict=True) if mine]
        self._say(bound.name, told)
        for word, mine in zip(words, claims, strict=True):
            if mine:
                self._queue.append(word)
            else:
                self._end(word)
        if told and not self.daemon.wake():
            self._step()
        deadline = waits.monotonic() + (0 if self.daemon.is_current else LOOK)
        for word in told:
            word.nudge.wait(deadline - waits.monotonic())
        return len(words) == len(failed) and all(word.ended for word in words)

    def stop(self, timeout: float) -> None:
        """Tell what is left, for so many seconds at most, and end the thread."""
        deadline = waits.monotonic() + timeout
        while self._queue and not self.daemon.is_current and waits.monotonic() < deadline:
            waits.sleep(LOOK)
        self.daemon.stop()
        self.daemon.join(max(0.0, deadline - waits.monotonic()))

    def _begin(self, word: Word) -> bool:
        known = self._under_way.get(word.place)
        if known is not None and known() is not None:
            return False
        self._under_way[word.place] = weakref.ref(word)
        return True

    def _end(self, word: Word) -> None:
        if word.failure.final:
            self._buffer.drop(word.bound.name, word.key, word.failure.version)
        self._under_way.pop(word.place, None)
        word.ended = True
        word.nudge.give()

    def _step(self) -> None:
        while self._queue:
            try:
                word = self._queue.popleft()
            except IndexError:
                return  # another thread took it
            try:
                self._call(word)
            finally:
                self._end(word)

    def _call(self, word: Word) -> None:
        bound, failure = word.bound, word.failure
        end = "it is a dead letter" if failure.final else "it goes on waiting"
        error = WriteBehindMaxRetryError(
            f"a deferred write to schema {bound.name!r} failed {failure.attempts} times and {end}: {failure.error}",
            sqlstate=failure.sqlstate,
            attempts=failure.attempts,
            final=failure.final,
        )
        self._metrics.count("strata_write_behind_errors", schema=bound.name)
        bound.hooks.write_error(word.key, error)

    def _say(self, schema: str, words: Sequence[Word]) -> None:
        for (sqlstate, final), count in Counter((word.failure.sqlstate, word.failure.final) for word in words).items():
            if final:
                advice = "see `strata dead-letters list`"
                self._log.error(
                    "deferred writes were given up", schema=schema, sqlstate=sqlstate, advice=advice, count=count
                )
            else:
                self._log.warning(
                    "an outage outlasts the retries of deferred writes; they go on waiting", schema=schema
                )
