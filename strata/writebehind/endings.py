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
import sys
import threading
import weakref
from collections.abc import Callable
from multiprocessing.util import Finalize
from types import BuiltinFunctionType, FrameType
from typing import Any, Protocol

from strata import waits
from strata.errors import InvalidConfigError
from strata.forks.living import Living

AGAIN = 0.1  # seconds after which a signal that nobody has handled is sent once more


class Behind(Protocol):
    """What one store has not done yet. `flush_at_exit` raises nothing, and takes some seconds at most; unless it is the
    `last` that happens, what is acknowledged from its begin on waits for `go_on`."""

    @property
    def flushes_on_sigterm(self) -> bool: ...

    def flush_at_exit(self, *, last: bool) -> None: ...

    def go_on(self) -> None: ...


# Written by `watch`, and by `hold` and `let_go`, in one call each; who ends the process reads `_watched` while others
# still write. The child of a fork begins without any: what is pending is its parent's.
_watched: Living[Behind] = Living()
_held: set[Behind] = set()

hold = _held.add
let_go = _held.discard


def watch(behind: Behind) -> Finalize:
    """From the first thing left to do in a process on: flush at its end. `cancel` of what is returned ends that.

    It does not keep `behind` alive; `hold` does, until `let_go`.
    """

    def flush() -> None:
        known = reference()
        if known is not None:
            known.flush_at_exit(last=True)

    finalizer = Finalize(None, flush, exitpriority=10)
    reference = weakref.ref(behind, lambda _: finalizer.cancel())
    _watched.add(behind)
    _celery.hear()
    return finalizer


def _in_child() -> None:
    _watched.clear()
    _held.clear()


def _flush_all(wanted: Callable[[Behind], bool], *, last: bool) -> None:
    """Those too which others begin to watch meanwhile."""
    flushed: set[Behind] = set()
    while more := [behind for behind in _watched.all() if wanted(behind) and behind not in flushed]:
        for behind in more:
            behind.flush_at_exit(last=last)
        flushed.update(more)


def _celerys_child_ends(**_: Any) -> None:
    _flush_all(lambda behind: True, last=True)


class _CelerysChildren:
    """Has `_celerys_child_ends` called by Celery, which is not imported for this: a child of its pool has imported it
    before it can have anything to flush. `_heard` is set once, by any thread, twice being harmless; the child of a fork
    inherits both it and what it stands for."""

    def __init__(self) -> None:
        self._heard = False

    def hear(self) -> None:
        """From now on, where this may be such a child."""
        ends = None if self._heard else getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
        if ends is not None:
            ends.connect(_celerys_child_ends, dispatch_uid="strata.writebehind.endings", weak=False)
            self._heard = True


_celery = _CelerysChildren()


class _Sigterm:
    """The handler of SIGTERM: flushes, then does what would have been done without it.

    It never waits, so that it cannot wait for a lock that the code it interrupted holds: it has another thread flush,
    and returns; that thread then sends the signal once more, until it is handled. Writes that come meanwhile, of the
    interrupted code too, wait for that, so that none is acknowledged that is not flushed. `_flushing` and `_flushed`
    are written by the main thread and that one, in turns; `_previous` once. After fork: `reset`, since the child has
    not that thread.
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
            while self._flushed:  # a signal that comes right before a sleep begins does not end it: the next one does
                self._send(number)
                waits.sleep(AGAIN)

    def _send(self, number: int) -> None:
        if isinstance(_thread.get_ident, BuiltinFunctionType):
            signal.pthread_kill(self._main, number)  # to this very thread, whose sleep it shall end
        else:
            os.kill(os.getpid(), number)  # under gevent and eventlet there is one thread, and its names are others

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        self.reset()
        if callable(self._previous):
            for behind in _watched.all():
                behind.go_on()
            self._previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_sigterm = _Sigterm()
install_sigterm = _sigterm.install
os.register_at_fork(after_in_child=_sigterm.reset)
os.register_at_fork(after_in_child=_in_child)


def quietly(flush: Callable[[], object]) -> None:
    """What cannot be flushed at the end of a process was logged, or nobody is there to be told."""
    with contextlib.suppress(Exception):
        flush()
