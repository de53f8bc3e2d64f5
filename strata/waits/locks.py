"""What holds where an exception comes from outside, at any moment: raised by a signal's handler (Celery's soft time
limit, an alarm, Ctrl-C), by gevent.Timeout, or by another thread (PyThreadState_SetAsyncExc).

CPython 3.11 to 3.14 lets one in where a function written in Python begins, where a loop turns back, and when a call of
a function written in C has returned; a wait in C, as for a lock, is broken off before it has its effect. It comes
nowhere else: not between two stores of attributes, nor between a `return` and its caller's next instruction. Hence:

- `with lock:` on a lock of `threading`, which is C, leaves no lock held. `lock.acquire()` and then `try` may; so may
  Condition, Event and Semaphore, whose `__enter__` is Python: the exception comes between their lock's and their
  caller's block. None of these is used, but `Nudge`.
- Whoever takes something announces it inside the `try` whose `finally` takes it back, by a name that it has before.
- A cleaning up that is written in Python may not even begin. What has to be is the first thing in a `finally`: one
  store, or one call in C. Or it comes with the end of an object that only the interrupted call holds (`Seats`).
- What was in the midst of an exchange is thrown away, never used again; a half change of the dirty buffer is mended.

A handler may also call the store, from inside whatever it has interrupted, which goes on afterwards. Hence:

- A lock that calls of the user's take is reentrant, or it is never waited for; else the handler would wait for ever.
- Where a change has no call between what it reads and what it stores, a handler's comes before it or after it.
- A change of many steps (the dirty buffer, the journal, L1) is finished first: the handler's call is refused, before it
  has done anything (`is_inside`, `Context.check_open`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from operator import methodcaller
from typing import Any

from strata.waits import hub
from strata.waits.hub import MemoryLock


def memory_lock() -> MemoryLock:
    """A lock that is held for a few steps in memory, never while its holder waits for something; reentrant. What has to
    be held longer is a `Turns` (`strata.waits.seats`)."""
    return hub.current().lock()


def once_lock() -> threading.Lock:
    """As `memory_lock`, not reentrant: for what is never waited for, or never taken twice."""
    return threading.Lock()


is_inside: Callable[[Any], bool] = methodcaller("_is_owned")
"""Whether this very thread holds a memory lock: where no caller does, it was interrupted while it did."""
