"""How a process ends, and that what it wrote behind, or had still to tell, is flushed then, in some seconds at most.

- An interpreter that ends by itself (the last line, `sys.exit`, an exception nobody caught) runs atexit, by which
  multiprocessing's finalizers run; its own children run those only (`multiprocessing.util.Finalize`).
- A child of Celery's prefork pool ends by `os._exit`, after the signal `worker_process_shutdown`: at a warm and a cold
  shutdown, at SIGTERM, and at `--max-tasks-per-child`.
- SIGTERM ends a process on the spot, unless `Config.flush_on_sigterm` asks for the handler below.
- `os._exit` of one's own, SIGKILL and a crash flush nothing: what is to survive them is in the journal.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Callable
from multiprocessing.util import Finalize
from types import BuiltinFunctionType, FrameType
from typing import Any, Protocol

from celery.signals import worker_process_shutdown

from strata.errors import InvalidConfigError


class Behind(Protocol):
    """What one store has not done yet. `flush_at_exit` raises nothing, and takes some seconds at most."""

    @property
    def flushes_on_sigterm(self) -> bool: ...

    def flush_at_exit(self, *, last: bool) -> None: ...


# Written by `watch`; a process that forks has its child go on with the same objects, which it empties.
_watched: weakref.WeakSet[Behind] = weakref.WeakSet()


def watch(behind: Behind) -> Finalize:
    """From the first thing left to do in a process on: flush at its end. `cancel` of what is returned ends that."""
    reference = weakref.ref(behind)
    _watched.add(behind)

    def flush() -> None:
        known = reference()
        if known is not None:
            known.flush_at_exit(last=True)

    return Finalize(None, flush, exitpriority=10)


def _flush_all(wanted: Callable[[Behind], bool], *, last: bool) -> None:
    for behind in list(_watched):
        if wanted(behind):
            behind.flush_at_exit(last=last)


@worker_process_shutdown.connect(dispatch_uid="strata.writebehind.endings", weak=False)  # type: ignore[untyped-decorator]
def _celerys_child_ends(**_: Any) -> None:
    _flush_all(lambda behind: True, last=True)


class _Sigterm:
    """The handler of SIGTERM: flushes, then does what would have been done without it.

    It never waits, so that it cannot wait for a lock that the code it interrupted holds: it has another thread flush,
    and returns; that thread then sends the signal once more. `_flushing` and `_flushed` are written by the main thread
    and that one, in turns; `_previous` once. After fork: `reset`, since the child has not that thread.
    """

    def __init__(self) -> None:
        self._previous: Callable[[int, FrameType | None], Any] | int | None = None
        self._installed = False
        self._main = 0
        self.reset()

    def reset(self) -> None:
        """Nothing is being flushed."""
        self._flushing = self._flushed = False

    def install(self) -> None:
        """Once a process; SIGTERM that is ignored, or handled by other than Python, stays so.

        Raises `InvalidConfigError` in another thread than the main one.
        """
        if self._installed:
            return
        if threading.current_thread() is not threading.main_thread():
            raise InvalidConfigError(
                "flush_on_sigterm installs a signal handler, which only the main thread can; make the store there"
            )
        self._previous = signal.getsignal(signal.SIGTERM)
        if self._previous not in (signal.SIG_IGN, None):
            self._installed = True
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._flushed:
            self._go_on(number, frame)
        elif not self._flushing:
            self._flushing = True
            self._main = _thread.get_ident()
            try:
                # Not `Thread.start`, which takes locks that the interrupted code may hold.
                _thread.start_new_thread(self._flush, (number,))
            except RuntimeError:
                self._go_on(number, frame)

    def _flush(self, number: int) -> None:
        try:
            _flush_all(lambda behind: behind.flushes_on_sigterm, last=False)
        finally:
            self._flushed = True
            if isinstance(_thread.get_ident, BuiltinFunctionType):
                signal.pthread_kill(self._main, number)  # to this very thread, whose sleep it shall end
            else:
                os.kill(os.getpid(), number)  # under gevent and eventlet there is one thread, and its names are others

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        self.reset()
        if callable(self._previous):
            self._previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_sigterm = _Sigterm()
install_sigterm = _sigterm.install
os.register_at_fork(after_in_child=_sigterm.reset)


def quietly(flush: Callable[[], object]) -> None:
    """What cannot be flushed at the end of a process was logged, or nobody is there to be told."""
    with contextlib.suppress(Exception):
        flush()
