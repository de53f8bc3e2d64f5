"""Holding claims while their work lasts, so that a lease can be short: what a killed worker held is free soon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from strata.errors import L2UnavailableError
from strata.interrupts import Nudge
from strata.observe.log import SafeLogger
from strata.threads import OwnThread
from strata.writebehind.ledger import Ledger
from strata.writebehind.shard import Shard

RENEWALS = 4  # looks at what is held in the time of one lease


class Holder:
    """A thread, started by the first claim, that renews what is held for longer than a part of the lease.

    `_held` is a dict of which each use is one call; its entries are marked by the thread alone. A holder that hangs, is
    frozen or gone renews nothing: the next one claims what it held, and that counts as a crash. After fork the child
    makes another one.
    """

    def __init__(self, ledger: Ledger, log: SafeLogger) -> None:
        self._ledger = ledger
        self._log = log
        self._held: dict[str, tuple[Shard, Sequence[str]]] = {}
        self._end = Nudge()
        self._own = OwnThread("strata-holder", self._run)

    @contextmanager
    def holding(self, shard: Shard, token: str, keys: Sequence[str]) -> Iterator[None]:
        """For the length of a `with` block the claims of this token do not end."""
        try:
            self._held[token] = shard, keys
            self._own.start()  # at exit no thread starts any more: the lease must do
            yield
        finally:
            self._held.pop(token, None)

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._own.started

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self._own.stop()
        self._end.give()
        self._own.join(timeout)

    def _run(self) -> None:
        seen: set[str] = set()
        while not self._end.wait(self._ledger.pace.lease / RENEWALS) and self._own.goes_on:
            held = dict(self._held)
            for token in seen & held.keys():  # what was held at the last look already
                shard, keys = held[token]
                try:
                    self._ledger.renew(shard, token, keys)
                except L2UnavailableError:
                    break  # nobody else can claim them now either
                except Exception as error:  # noqa: BLE001 the thread must outlive a mistake in one round
                    self._log.error("claims could not be renewed", error=type(error).__name__)
            seen = set(held)
