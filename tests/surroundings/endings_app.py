"""An application that writes behind, and ends in one way or another: `python -m tests.surroundings.endings_app HOW`."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from celery import Celery

from strata import Config, DataStore, WriteMode
from tests.models import Note
from tests.stores import schema

# Far longer than any of these processes lives: what is in L3 afterwards was flushed at the end.
store = DataStore(Config.from_env(write_behind_flush_interval=600))
notes = store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
PAUSE = float(os.environ.get("PAUSE", "0"))
app = Celery("application", broker=os.environ.get("APPLICATIONS_BROKER", "memory://"))


@app.task(name="write")  # type: ignore[untyped-decorator]
def write(key: int) -> None:
    notes.set(key, Note(key, "written"))


def _before(*_: Any) -> None:
    sys.exit(7)


def _wait() -> None:
    print("written", flush=True)
    while True:
        time.sleep(0.1)  # Python ends no sleep for a signal that comes right before it begins


def _in_child(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=write, args=(1,))
    child.start()
    child.join()


def _in_pool(method: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        pool.submit(write, 1).result()


def main(how: str) -> None:
    if how.startswith("process "):
        _in_child(how.split()[1])
        os._exit(0)  # so that it is the child who flushed
    if how.startswith("pool "):
        _in_pool(how.split()[1])
        os._exit(0)
    if how == "forked":
        if os.fork() == 0:
            write(1)
            sys.exit(0)
        os.wait()
        os._exit(0)
    write(1)
    if how == "sys.exit":
        sys.exit(3)
    if how == "exception":
        raise ValueError("nobody catches it")
    if how == "thread":  # a daemon thread that is still running
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    if how == "os._exit":
        os._exit(0)
    if how == "sigterm":
        _wait()
    if how == "counting":  # each number that it says was acknowledged
        for key in itertools.count(2):
            write(key)
            print(key, flush=True)
            time.sleep(PAUSE)
    if how == "busy":
        print("written", flush=True)
        while True:
            write(2)


def _flagged() -> None:
    """An application whose own handler lets it go on to an end of its own."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    late = DataStore(Config.from_env(write_behind_flush_interval=600, flush_on_sigterm=True))
    counted = late.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    more = iter(range(5))
    for key in itertools.count(1):
        counted.set(key, Note(key, "written"))
        print(key, flush=True)
        if asked.is_set() and next(more, None) is None:
            return


if __name__ == "__main__":
    if sys.argv[1] == "flagged":
        _flagged()
        sys.exit(0)
    if sys.argv[1] == "handler":
        signal.signal(signal.SIGTERM, _before)
        late = DataStore(Config.from_env(write_behind_flush_interval=600, flush_on_sigterm=True))
        notes = late.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
        write(1)
        _wait()
    main(sys.argv[1])
