"""The thread that removes expired entries nobody asks for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence

from strata.clock import Clock
from strata.l1.store import Evicted, MemStore

INTERVAL = 30.0  # seconds between sweeps


class Sweeper:
    """Sweeps many stores; starts with `start`, ends with `stop` or the process.

    `_lock` guards `_thread` and `_stores`. After fork the child has no thread until the next `start`.
    """

    def __init__(self, clock: Clock, interval: float = INTERVAL) -> None:
        self._clock = clock
        self._interval = interval
        self._stores: list[tuple[MemStore, Callable[[Sequence[Evicted]], None]]] = []
        self.after_fork()

    def after_fork(self) -> None:
        """In the child: no thread yet."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.started = False

    def register(self, store: MemStore, evicted: Callable[[Sequence[Evicted]], None]) -> None:
        """Sweep this store too, and tell `evicted` what left it."""
        with self._lock:
            self._stores.append((store, evicted))

    def start(self) -> None:
        """Start the thread, once."""
        if self.started:
            return
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(
                    target=_run,
                    args=(weakref.ref(self), self._stop, self._interval),
                    name="strata-sweeper",
                    daemon=True,
                )
                self._thread.start()
                self.started = True

    def stop(self) -> None:
        """End the thread."""
        with self._lock:
            self._stop.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2.0)

    def sweep(self) -> None:
        """Sweep every store now."""
        for store, evicted in list(self._stores):
            gone = store.sweep(self._clock.monotonic())
            if gone:
                evicted(gone)


def _run(sweeper: weakref.ref[Sweeper], stop: threading.Event, interval: float) -> None:
    # A weak reference, so that a store that nobody holds any more is not kept alive by its own thread.
    while not stop.wait(interval):
        alive = sweeper()
        if alive is None:
            return
        alive.sweep()
        del alive
