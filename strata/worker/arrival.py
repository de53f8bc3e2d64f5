"""How a worker waits for its application: one line for each failed try, and then another one.

An application may not be there yet (a volume that is mounted late, a release that is half copied), or ask a server at
import that is away. A worker that ended would be started again by whoever supervises it, with a traceback each time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from strata import waits
from strata.application import is_named
from strata.errors import StrataError

T = TypeVar("T")

APP, TRIES, WAIT = "STRATA_APP", "STRATA_WORKER_TRIES", "STRATA_WORKER_WAIT"
FIRST, LONGEST = 1.0, 60.0  # seconds before the second try, and between tries at most


def arrived(make: Callable[[], T]) -> T:
    """What `make` returns. Where it fails, and Celery's command line runs this process, the process starts anew after a
    pause; at the signals that end it meanwhile, it ends. Elsewhere the error is raised.

    With STRATA_WORKER_WAIT=0 it ends at once. Nor does it wait where STRATA_APP is not set, or has another form: the
    environment of a process stays as it is.
    """
    tries = int(os.environ.pop(TRIES, "0"))
    try:
        return make()
    except Exception as error:
        if not _is_command():
            raise
        said = f"{type(error).__name__}: {_cause(error)}"
    if is_named(os.environ.get(APP, "")) and os.environ.get(WAIT) != "0":
        _start_anew(said, tries)
    raise SystemExit(said)


def _start_anew(said: str, tries: int) -> NoReturn:
    # The same program again, in the same process: what was imported half is not found again, and what was mended is.
    pause = min(FIRST * 2 ** min(tries, 16), LONGEST) * waits.uniform(0.8, 1.0)
    print(f"{said}; the next try is in {pause:.0f} s", file=sys.stderr, flush=True)
    try:
        waits.sleep(pause)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    os.environ[TRIES] = str(tries + 1)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _cause(error: Exception) -> str:
    """Our own words; what the application raises may quote what it was given, as a password."""
    if isinstance(error, StrataError):
        return str(error)
    app = os.environ.get(APP, "")
    return f"raised by the app {app!r} when it was imported; `strata doctor --app {app}` shows its words"


def _is_command() -> bool:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return Path(sys.argv[0]).name == "celery" or getattr(spec, "name", "") == "celery.__main__"
