"""The invalidation bus: one thread a store listens to the channel and knows how long it has surely heard everything.

Heartbeat: every 0.5 s the instance publishes to a channel of its own on the same subscription, as a writer tells of a
write (`strata.coherence.pulse`). The echo of one sent at time t proves that everything published before t has arrived
and been handled, so L1 may be trusted until t + 1.5 s. A subscription that breaks means missed messages: L1 is cleared
after the new one is confirmed. It is never renewed behind our back, since nothing here reconnects by itself.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable

from redis.exceptions import RedisError

from strata.clock import Clock
from strata.coherence.certainty import Certainty
from strata.coherence.inbox import Inbox
from strata.errors import StrataError
from strata.interrupts import Nudge
from strata.l2.client import RedisServer
from strata.l2.wire import Wire
from strata.observe.log import SafeLogger
from strata.threads import OwnThread

HEARTBEAT = 0.5  # seconds between heartbeats
TRUST = 1.5  # seconds after a heartbeat's sending for which its echo vouches
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before trying to subscribe again


class Bus:
    """Starts at the first `start`; thread-safe. The callbacks are called in its thread, and must be quick: `beat` sends
    a heartbeat of a number to a channel, `on_return` follows a subscription, `on_loss` the end of one that was alive.

    `resets` is written by the thread only. After fork the child calls `reset`: the parent's thread and subscription are
    not its own. At exit the daemon thread just ends.
    """

    def __init__(
        self,
        server: RedisServer,
        channel: str,
        inbox: Inbox,
        certainty: Certainty,
        clock: Clock,
        log: SafeLogger,
        beat: Callable[[int], None],
        on_return: Callable[[], None],
        on_loss: Callable[[], None],
    ) -> None:
        self._server = server
        self._channel = channel
        self._inbox = inbox
        self._certainty = certainty
        self._clock = clock
        self._log = log
        self._beat = beat
        self._on_return = on_return
        self._on_loss = on_loss
        self.resets = 0
        self.reset()

    def reset(self) -> None:
        """As new: not started, sure of nothing."""
        self._own = OwnThread("strata-bus", self._run)
        self._end = Nudge()
        self.connected = threading.Event()  # set while heartbeats come back; waited for by no call of the user's
        self._certainty.until = -math.inf

    @property
    def begun(self) -> bool:
        """Whether the thread was started."""
        return self._own.started

    def start(self) -> None:
        """Start the thread, once. To be called without any lock held."""
        self._own.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread; L1 is not to be trusted afterwards."""
        self._own.stop()
        self._end.give()
        self._own.join(timeout)
        self._certainty.until = -math.inf

    def _run(self) -> None:
        failures = 0
        while self._own.goes_on:
            try:
                self._session()
            except (RedisError, OSError, StrataError, ValueError) as error:
                # ValueError: redis-py reading from a socket that was closed under it
                self._log.debug("bus lost its subscription", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 the thread must outlive a mistake in one message
                self._log.error("the bus failed", error=type(error).__name__)
            if self.connected.is_set():
                failures = 0
                self._on_loss()
            self.connected.clear()
            self._certainty.until = -math.inf
            pause = PAUSES[min(failures, len(PAUSES) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 jitter
            failures += 1
            self._end.wait(pause)

    def _session(self) -> None:
        own = f"{self._channel}:{self._inbox.source}"
        subscription = self._server.subscribe(self._channel, own)
        try:
            self._inbox.database = self._server.database
            self._listen(subscription, own)
        finally:
            subscription.close()

    def _listen(self, subscription: Wire, own: str) -> None:
        beats = _Beats(self._clock)
        confirmed = 0
        own_channel = own.encode()
        while self._own.goes_on:
            now = self._clock.monotonic()
            if now - beats.last_echo > 2 * TRUST:
                raise OSError("the subscription went silent")
            if confirmed >= 2 and now >= beats.due:
                self._beat(beats.send())
            pause = beats.due - self._clock.monotonic() if confirmed >= 2 else HEARTBEAT
            for answer in subscription.wait(pause):
                if isinstance(answer, Exception):
                    raise self._server.unavailable(answer) from answer
                kind, channel, data = answer
                if kind == b"message" and channel == own_channel:
                    sent = beats.heard(data)
                    if sent is not None:
                        self._certainty.until = sent + TRUST
                        self.connected.set()
                elif kind == b"message":
                    self._inbox.handle(data)
                elif kind == b"subscribe":
                    confirmed += 1
                    if confirmed == 2:
                        self._returned()

    def _returned(self) -> None:
        self._certainty.until = -math.inf
        self._inbox.clear()
        self.resets += 1
        self._on_return()


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
