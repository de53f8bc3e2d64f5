"""Single-flight across processes: while another one's lease says that it loads a record, wait briefly for the result.

The lease is the one that every read leaves where it misses L2, so a writer or an invalidation ends the wait as well.
"""

from __future__ import annotations

from collections.abc import Callable

from strata import waits
from strata.l2.content import Found, State

FIRST, LONGEST = 0.002, 0.05  # seconds between two looks


def await_loader(found: Found | None, patience: float, ask: Callable[[], Found | None]) -> Found | None:
    """What L2 holds once nobody loads any more, or after `patience` seconds what it held at the last look.

    A loader that died leaves its lease for some seconds: those who wait go on without it when their patience ends.
    """
    # By the clock that waits go by, not the store's.
    deadline, pause = waits.monotonic() + patience, FIRST
    while found is not None and found.state is State.LOADING and (left := deadline - waits.monotonic()) > 0:
        waits.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST)
        found = ask()
    return found
