"""`Daemon`: the one life that every background thread of the library has, from its first use to its owner's end."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable
from inspect import ismethod
from typing import Any, NamedTuple, TypeVar

from strata import waits
from strata.contracts import Logger
from strata.errors import StrataError, where_of
from strata.waits.hub import Thread
from strata.waits.locks import memory_lock
from strata.waits.nudge import Nudge

PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds after the first failure in a row, the second, ...; give or take a fifth
OUTAGES: tuple[type[BaseException], ...] = (StrataError, OSError)


class Pause(NamedTuple):
    """What follows a step: a wait of `seconds`, None being until it is woken.

    `wait` waits in the place of the waking, for something to come on a socket: it must hold nothing of the owner, not
    raise, and end by itself. Where not all is `well`, the failures before this step are not forgotten yet.
    """

    seconds: float | None = None
    wait: Callable[[float], object] | None = None
    well: bool = True


Step = Callable[[], Pause | float | None]
F = TypeVar("F", bound=Callable[..., Any])


class Daemon:
    """Calls `step` again and again in a daemon thread; what it returns is how long to wait until the next time.

    - The thread starts at the first `start` or `wake`, first waiting for `delay` seconds. Where the system has no
      thread to give, or the interpreter is ending, that is said and counted (`refusals`), and the next call tries
      again. So does the next call after a thread that was ended from outside.
    - Whatever `step` raises, the thread goes on, after growing pauses. Outages (`expected`) are for `step` to tell of;
      anything else is a mistake, which is logged and counted (`failures`); `log` holds back what is said all the time.
    - `stop` ends it for good, after the step under way. `at_end` is then called in the thread.
    - It keeps alive neither the owner of the methods `step` and `at_end`, but for the length of a step, nor `log`,
      which may know the whole store; and it ends with the owner. With `linger` it also ends after that many seconds
      without a waking, and starts again at the next.
    - In the child of a fork, the owner calls `reset`.

    Thread-safe. `_lock` guards against a second thread; it is never held while one starts, nor may a caller hold one
    then: under gevent and eventlet a start gives way to others, who would wait for that lock for ever. `_thread` is
    written by who starts it, and by the thread itself at its end; `_stopped` by anybody, once; the counts by the
    thread, and those who could not start it. At exit the thread just ends.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        log: Logger,
        *,
        delay: float = 0.0,
        linger: float | None = None,
        expected: tuple[type[BaseException], ...] = (),
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.failures = 0
        self.refusals = 0
        self._log = weakref.ref(log)
        self._delay = delay
        self._linger = linger
        self._expected = OUTAGES + expected
        self._stopped = False
        self._step = _weak(step, self._owner_gone)
        self._at_end = None if at_end is None else _weak(at_end, self._owner_gone)
        self.reset()

    def reset(self) -> None:
        """In the child of a fork: not started. What was stopped stays so."""
        self._lock = memory_lock()
        self._nudge = Nudge()
        self._thread: Thread | None = None
        self._row = 0  # failures in a row; written as the counts are

    @property
    def started(self) -> bool:
        """Whether the thread runs, or is about to."""
        return self._thread is not None

    @property
    def stopped(self) -> bool:
        """Whether it is to run no more."""
        return self._stopped

    @property
    def is_current(self) -> bool:
        """Whether it is this thread that asks."""
        return self._thread is waits.current_thread()

    def start(self) -> bool:
        """Start the thread, unless it runs or was stopped; whether there is one now."""
        if self._thread is not None or self._stopped:
            return not self._stopped
        if sys.is_finalizing():  # where Python 3.11 would wait for ever for the thread to begin
            self.refusals += 1
            return False
        thread = waits.thread(self._main, self.name)
        begun = False
        try:
            with self._lock:
                if self._thread is not None or self._stopped:
                    begun = True
                    return not self._stopped
                self._thread = thread
            thread.start()
            begun = True
            return True
        except (RuntimeError, MemoryError) as error:
            self._refused(error)
            return False
        finally:
            if not begun and self._thread is thread:
                self._thread = None

    def wake(self) -> bool:
        """The next step is due now; starts the thread where it does not run. Whether there is one."""
        self._nudge.give()
        return self.start()

    def stop(self) -> None:
        """Not to run any more. Whoever calls this may `join`, and breaks off a wait that is not for a waking."""
        self._stopped = True
        self._nudge.give()

    def join(self, timeout: float | None) -> bool:
        """Wait for its end, for `timeout` seconds at most, or for as long as it takes; whether it has ended."""
        thread = self._thread
        if thread is None or thread is waits.current_thread():
            return thread is None
        try:
            thread.join(timeout)
        except RuntimeError:
            return True  # it was to start just now, and finds that it was stopped
        return not thread.is_alive()

    def _owner_gone(self) -> None:
        self._nudge.give()

    def _main(self) -> None:
        me = waits.current_thread()
        lingered = False
        try:
            lingered = self._live(me)
            if self._stopped and self._thread is me and self._at_end is not None and (end := self._at_end()):
                end()
        finally:
            if self._thread is me:
                self._thread = None
        if lingered and self._nudge.wait(0):
            self.start()  # woken between its last look and its end

    def _live(self, me: Thread) -> bool:
        """Step after step; returns at the end, whether that is for want of anything to do."""
        pause: Pause = Pause(self._delay)
        while self._thread is me and not self._stopped:
            step = None
            try:
                woken = self._wait(pause)
                if pause.seconds is None and self._linger is not None and not woken:
                    return True
                if self._thread is not me or self._stopped:
                    return False
                step = self._step()
                if step is None:
                    return False
                after = step()
                pause = after if isinstance(after, Pause) else Pause(after)
                if pause.well:
                    self._row = 0
            except BaseException as error:
                if _is_greenlets_end(error):
                    raise
                pause = Pause(PAUSES[-1], self._rest)
                with contextlib.suppress(BaseException):  # to say it takes memory too
                    pause = Pause(self._failed(error), self._rest)
        return False

    def _wait(self, pause: Pause) -> object:
        if pause.wait is not None:
            return pause.wait(pause.seconds or 0.0)
        return self._nudge.wait(self._linger if pause.seconds is None else pause.seconds)

    def _rest(self, seconds: float) -> None:
        """Wait whether it is woken or not: what is to be done will be looked for afterwards."""
        until = waits.monotonic() + seconds
        while not self._stopped and (left := until - waits.monotonic()) > 0:
            self._nudge.wait(left)

    def _failed(self, error: BaseException) -> float:
        """Say and count it; returns how long to wait."""
        pause = PAUSES[min(self._row, len(PAUSES) - 1)]
        self._row += 1
        if not isinstance(error, self._expected):
            self.failures += 1
            if (log := self._log()) is not None:
                name, where = type(error).__name__, where_of(error)
                log.error("a background thread failed, and goes on", thread=self.name, error=name, where=where)
        return pause * waits.uniform(0.8, 1.2)

    def _refused(self, error: BaseException) -> None:
        self.refusals += 1
        at_exit = "shutdown" in str(error)  # when nobody needs it any more, and what is left is seen to
        if not at_exit and (log := self._log()) is not None:
            reason = str(error)
            log.error("a background thread could not be started; its work waits", thread=self.name, reason=reason)


def _weak(call: F, gone: Callable[[], None]) -> Callable[[], F | None]:
    if not ismethod(call):
        return lambda: call
    method: Any = weakref.WeakMethod(call, lambda _: gone())
    weak: Callable[[], F | None] = method
    return weak


def _is_greenlets_end(error: BaseException) -> bool:
    # What gevent and eventlet throw into a greenlet that is to end. It is theirs to catch.
    return any(kind.__name__ == "GreenletExit" for kind in type(error).__mro__)
