"""The thread that removes what expired and nobody asks for any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from strata.contracts import Logger
from strata.l1.store import Evicted, MemStore
from strata.observe.log import SafeLogger
from strata.ticker import Ticker

Report = Callable[[Sequence[Evicted]], None]

STOP_TIMEOUT = 1.0  # seconds; a callback of the user's may be running


class Sweeper:
    """Sweeps any number of stores every `interval` seconds, in one daemon thread.

    The thread starts when a registered store first has something to expire, so that a process that forks before it has
    used its stores forks without it. `_lock` guards `_stores`; nothing here calls a store with it held. After fork the
    child calls `after_fork`.
    """

    def __init__(self, interval: float = 30.0, logger: Logger | None = None) -> None:
        self._log = SafeLogger(logger)
        self._stores: list[tuple[MemStore, Report]] = []
        self._lock = threading.Lock()
        self._ticker = Ticker("strata-sweeper", interval, self.sweep)

    def register(self, store: MemStore, report: Report) -> None:
        """Sweep this store too, and pass on what was removed, if anything; `report` holds no lock when called."""
        with self._lock:
            self._stores.append((store, report))
        store.watch(self.start)

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._ticker.started

    def start(self) -> None:
        """Start the thread, unless it runs or was stopped for good. To be called without any lock held."""
        self._ticker.start()

    def sweep(self) -> None:
        """Sweep every store once, in the calling thread."""
        with self._lock:
            stores = list(self._stores)
        for store, report in stores:
            self._sweep(store, report)

    def stop(self) -> None:
        """End the thread; it does not come back. Idempotent."""
        self._ticker.stop(STOP_TIMEOUT)

    def after_fork(self) -> None:
        """In the child: no thread, until a store that was cleared has something to expire again."""
        self._lock = threading.Lock()
        self._ticker.after_fork()

    def _sweep(self, store: MemStore, report: Report) -> None:
        try:
            gone = store.sweep(store.clock.monotonic())
            if gone:
                report(gone)
        except Exception as error:  # noqa: BLE001 one store's callback must not keep the others from being swept
            self._log.error("sweeping failed", error=type(error).__name__)
