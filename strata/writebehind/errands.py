"""A thread that runs errands to shards, each at most once at a time, so that whoever sends it never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

from strata.errors import StrataError
from strata.observe.log import SafeLogger
from strata.writebehind.shard import Shard


class Errands:
    """Started by the first errand; thread-safe. `_lock` (a condition) guards every field.

    After fork the child makes another one. At exit the daemon thread just ends: nothing depends on its errands.
    """

    def __init__(self, name: str, run: Callable[[Shard], object], log: SafeLogger) -> None:
        self._name = name
        self._run = run
        self._log = log
        self._lock = threading.Condition()
        self._waiting: dict[Shard, None] = {}
        self._thread: threading.Thread | None = None
        self._stopped = False

    def add(self, shard: Shard) -> None:
        """Send it to a shard; one that waits already is not sent twice."""
        with self._lock:
            if self._stopped:
                return
            self._waiting[shard] = None
            if self._thread is None:
                thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # the interpreter is ending and starts no thread
                self._thread = thread
            self._lock.notify()

    def stop(self, timeout: float) -> None:
        """No more errands; wait for the one under way."""
        with self._lock:
            self._stopped = True
            self._waiting.clear()
            self._lock.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _loop(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._stopped:
                    self._lock.wait()
                if self._stopped:
                    return
                shard = next(iter(self._waiting))
                del self._waiting[shard]
            try:
                self._run(shard)
            except StrataError as error:
                self._log.debug("an errand failed", errand=self._name, error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 the thread must outlive a mistake in one errand
                self._log.error("an errand failed", errand=self._name, error=type(error).__name__)
