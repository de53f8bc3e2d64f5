"""The invalidation bus: one thread a store listens to the channel and knows how long it has surely heard everything.

Heartbeat: every 0.5 s the instance publishes to a channel of its own on the same subscription, as a writer tells of a
write (`strata.coherence.pulse`). The echo of one sent at time t proves that everything published before t has arrived
and been handled, so L1 may be trusted until t + 1.5 s. A subscription that breaks means missed messages: L1 is cleared
after the new one is confirmed. It is never renewed behind our back, since nothing here reconnects by itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import RedisError

from strata.coherence.inbox import Inbox
from strata.errors import StrataError
from strata.l1.trust import Trust
from strata.l2.causes import cause_of
from strata.observe.log import SafeLogger
from strata.observe.outages import Outage
from strata.runtime.daemon import Daemon, Pause
from strata.waits.clock import Clock

if TYPE_CHECKING:
    from strata.l2.client import RedisServer
    from strata.l2.wire import Wire

HEARTBEAT = 0.5  # seconds between heartbeats
TRUST = 1.5  # seconds after a heartbeat's sending for which its echo vouches

# What ends a subscription; ValueError: redis-py reading from a socket that was closed under it.
_LOSSES = (RedisError, ValueError)


class Rhythm(Protocol):
    """What goes with the bus's thread, and is quick."""

    def beat(self, number: int) -> None:
        """Send the heartbeat of this number."""

    def confirmed(self) -> None:
        """A subscription stands, and what came before it may have been missed."""

    def subscribed(self) -> None:
        """It was the first one."""

    def returned(self) -> None:
        """There is one again, after one that was lost: meanwhile nobody could see what became of the server."""

    def lost(self) -> None:
        """A subscription that was alive has ended."""


class Bus:
    """Starts at the first `start`; thread-safe.

    All state is written by the thread only; who stops it reads `_subscription`, to hang up, and makes L1 untrusted once
    more. After fork the child calls `reset`: the parent's thread and subscription are not its own.
    """

    def __init__(
        self,
        server: RedisServer,
        channel: str,
        inbox: Inbox,
        trust: Trust,
        log: SafeLogger,
        outage: Outage,
        rhythm: Rhythm,
    ) -> None:
        self._server = server
        self._channel = channel
        self._inbox = inbox
        self._trust = trust
        self._clock = server.clock
        self.outage = outage
        self._rhythm = rhythm
        self.resets = 0
        self.daemon = Daemon("strata-bus", self._step, log, expected=_LOSSES, at_end=self._hang_up)
        self.start = self.daemon.start  # to be called without any lock held
        self.reset()

    def reset(self) -> None:
        """As new: not started, sure of nothing."""
        self.daemon.reset()
        self._subscription: Wire | None = None
        self._beats = _Beats(self._clock)
        self._confirmed = 0  # of the two channels
        self._lost = False  # whether a subscription was, or could not be had
        self.connected = False  # whether heartbeats come back
        self._trust.until = -math.inf

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread; L1 is not to be trusted afterwards."""
        self.daemon.stop()
        subscription = self._subscription
        if subscription is not None:
            subscription.hang_up()
        self.daemon.join(timeout)
        self._trust.until = -math.inf

    def _step(self) -> Pause:
        """Subscribe, or handle what came; then beat where it is time to. The wait for more is the daemon's."""
        try:
            if self._subscription is None:
                self._subscribe()
            wire = self._subscription
            assert wire is not None
            for answer in wire.heard():
                self._handle(answer)
            seconds = self._beat_in_time() if self._confirmed == 2 else HEARTBEAT
            return Pause(seconds, wire.hear, well=self.connected)
        except BaseException as error:
            self._lose(error)
            raise

    def _subscribe(self) -> None:
        self._beats, self._confirmed = _Beats(self._clock), 0
        self._subscription = self._server.subscribe(self._channel, self._own_channel)
        self._inbox.database = self._server.database

    def _beat_in_time(self) -> float:
        """Send a heartbeat if it is time to; seconds until the next."""
        now, beats = self._clock.monotonic(), self._beats
        if now - beats.last_echo > 2 * TRUST:
            raise OSError("the subscription went silent")
        if now >= beats.due:
            self._rhythm.beat(beats.send())
            now = self._clock.monotonic()
        return beats.due - now

    def _handle(self, answer: Any) -> None:
        if isinstance(answer, Exception):
            raise self._server.unavailable(answer) from answer
        kind, channel, data = answer
        if kind == b"message" and channel == self._own_channel.encode():
            sent = self._beats.heard(data)
            if sent is not None:
                self._trust.until = sent + TRUST
                self.connected = True
                self.outage.back()
        elif kind == b"message":
            self._inbox.handle(data)
        elif kind == b"subscribe":
            self._confirmed += 1
            if self._confirmed == 2:
                self._returned()

    @property
    def _own_channel(self) -> str:
        return f"{self._channel}:{self._inbox.source}"

    def _returned(self) -> None:
        self._trust.until = -math.inf
        self._trust.since = self._clock.monotonic()
        self._inbox.clear()
        self._rhythm.confirmed()
        self.resets += 1
        if self._lost:
            self._rhythm.returned()
        else:
            self._rhythm.subscribed()

    def _lose(self, error: BaseException) -> None:
        connected = self.connected
        self._lost = True
        self._hang_up()
        if not self.daemon.stopped:
            if isinstance(error, StrataError | OSError | RedisError):
                self.outage.gone(cause_of(error.__cause__ or error), calls=0)
            if connected:
                self._rhythm.lost()

    def _hang_up(self) -> None:
        subscription, self._subscription = self._subscription, None
        self.connected = False
        self._trust.until = -math.inf
        if subscription is not None:
            subscription.close()


class _Beats:
    """Heartbeats under way, by number. Used by the bus's thread only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._number = 0
        self._sent: dict[bytes, float] = {}
        self.due = 0.0
        self.last_echo = clock.monotonic()

    def send(self) -> int:
        """The number of a heartbeat that is sent now."""
        now = self._clock.monotonic()
        self._number += 1
        self._sent[b"%d" % self._number] = now
        self.due = now + HEARTBEAT
        return self._number

    def heard(self, number: bytes) -> float | None:
        """When the heartbeat that came back was sent."""
        sent = self._sent.pop(number, None)
        if sent is not None:
            self.last_echo = self._clock.monotonic()
            self._sent = {key: at for key, at in self._sent.items() if at > sent}
        return sent
