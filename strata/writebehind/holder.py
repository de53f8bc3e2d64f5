"""Holding claims while their work lasts, so that a lease can be short: what a killed worker held is free soon."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from strata.errors import L2UnavailableError
from strata.observe.log import SafeLogger
from strata.writebehind.ledger import Ledger
from strata.writebehind.shard import Shard

RENEWALS = 4  # looks at what is held in the time of one lease


class Holder:
    """A thread, started by the first claim, that renews what is held for longer than a part of the lease.

    `_lock` guards `_held` and `_thread`; entries of `_held` are marked by the thread alone. A holder that hangs, is
    frozen or gone renews nothing: the next one claims what it held, and that counts as a crash. After fork the child
    makes another one.
    """

    def __init__(self, ledger: Ledger, log: SafeLogger) -> None:
        self._ledger = ledger
        self._log = log
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Shard, Sequence[str]]] = {}
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    @contextmanager
    def holding(self, shard: Shard, token: str, keys: Sequence[str]) -> Iterator[None]:
        """For the length of a `with` block the claims of this token do not end."""
        with self._lock:
            self._held[token] = shard, keys
            if self._thread is None and not self._stopped.is_set():
                thread = threading.Thread(target=self._run, name="strata-holder", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError:
                    pass  # the interpreter is ending and starts no thread: the lease must do
        try:
            yield
        finally:
            with self._lock:
                del self._held[token]

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self._stopped.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        seen: set[str] = set()
        while not self._stopped.wait(self._ledger.pace.lease / RENEWALS):
            with self._lock:
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
