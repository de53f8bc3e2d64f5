"""The thread that removes what expired and nobody asks for any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from strata.l1.evicted import Evicted
from strata.l1.store import MemStore
from strata.observe.log import SafeLogger
from strata.runtime.daemon import Daemon
from strata.waits.locks import memory_lock

Report = Callable[[Sequence[Evicted]], None]

STOP_TIMEOUT = 1.0  # seconds; a callback of the user's may be running


class Sweeper:
    """Sweeps any number of stores every `interval` seconds, in one daemon thread.

    The thread starts when a registered store first has something to expire, so that a process that forks before it has
    used its stores forks without it. `_lock` guards `_stores`; nothing here calls a store with it held. After fork the
    child calls `after_fork`.
    """

    def __init__(self, interval: float = 30.0, log: SafeLogger | None = None) -> None:
        self._log = log or SafeLogger(None)
        self._stores: list[tuple[MemStore, Report]] = []
        self._lock = memory_lock()
        self._interval = interval
        self.daemon = Daemon("strata-sweeper", self._step, self._log, delay=interval)

    def register(self, store: MemStore, report: Report) -> None:
        """Sweep this store too, and pass on what was removed, if anything; `report` holds no lock when called."""
        with self._lock:
            self._stores.append((store, report))
        store.watch(self.daemon.start)

    def sweep(self) -> None:
        """Sweep every store once, in the calling thread."""
        with self._lock:
            stores = list(self._stores)
        for store, report in stores:
            self._sweep(store, report)

    def stop(self) -> None:
        """End the thread; it does not come back. Idempotent."""
        self.daemon.stop()
        self.daemon.join(STOP_TIMEOUT)

    def after_fork(self) -> None:
        """In the child: no thread, until a store that was cleared has something to expire again."""
        self._lock = memory_lock()
        self.daemon.reset()

    def _step(self) -> float:
        self.sweep()
        return self._interval

    def _sweep(self, store: MemStore, report: Report) -> None:
        try:
            gone = store.sweep(store.clock.monotonic())
            if gone:
                report(gone)
        except Exception as error:  # noqa: BLE001 one store's callback must not keep the others from being swept
            self._log.error("sweeping failed", error=type(error).__name__)
