"""Holding claims while their work lasts, so that a lease can be short: what a killed worker held is free soon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from strata.errors import WITHOUT_L2
from strata.observe.log import SafeLogger
from strata.runtime.daemon import Daemon
from strata.writebehind.ledger.ledger import Ledger
from strata.writebehind.ledger.shard import Shard

RENEWALS = 4  # looks at what is held in the time of one lease


class LeaseRenewer:
    """A thread, started by the first claim, that renews what is held for longer than a part of the lease.

    `_held` is a dict of which each use is one call; `_seen` is the thread's alone. A process that is frozen or gone
    renews nothing: the next one claims what it held, and that counts as a crash. Where only the thread hangs that does
    the work, in a logger for instance, its claims are renewed for as long as work may take, and no longer: it may be
    one that nobody ends. After fork the child makes another one.
    """

    def __init__(self, ledger: Ledger, log: SafeLogger) -> None:
        self._ledger = ledger
        self._clock = ledger.server.clock
        self._held: dict[str, tuple[Shard, Sequence[str], float]] = {}  # by token; with the end of the renewing
        self._seen: set[str] = set()  # what was held at the last look already
        self.daemon = Daemon("strata-holder", self._step, log, delay=self._interval)

    @contextmanager
    def holding(self, shard: Shard, token: str, keys: Sequence[str]) -> Iterator[None]:
        """For the length of a `with` block the claims of this token do not end."""
        try:
            self._held[token] = shard, keys, self._clock.monotonic() + self._ledger.timing.held
            self.daemon.start()  # where no thread can be had, the lease must do
            yield
        finally:
            self._held.pop(token, None)

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self.daemon.stop()
        self.daemon.join(timeout)

    @property
    def _interval(self) -> float:
        return self._ledger.timing.lease / RENEWALS

    def _step(self) -> float:
        now = self._clock.monotonic()
        held = {token: (shard, keys) for token, (shard, keys, end) in self._held.copy().items() if now < end}
        seen, self._seen = self._seen, set(held)
        for token in seen & held.keys():
            shard, keys = held[token]
            with contextlib.suppress(*WITHOUT_L2):  # nobody else can claim them now either
                self._ledger.renew(shard, token, keys)
        return self._interval
