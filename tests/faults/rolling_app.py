"""The application at one of its releases, named by ROLLING_RELEASE: workers of one beside writers of another."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import strata
from strata import Config, DataStore
from strata.testing import inspect
from tests.behind import deferred, paced
from tests.models import Note


@dataclass
class Old:
    """A thing, as the first release knows it."""

    id: Annotated[int, strata.PrimaryKey]
    text: str = ""


@dataclass
class New:
    """A thing with a column more."""

    id: Annotated[int, strata.PrimaryKey]
    text: str = ""
    size: Annotated[int, strata.Default(7)] = 7
    label: str | None = None


def release(number: int, **options: Any) -> DataStore:
    """The store of a release: 1 knows `things` without, 2 with the new columns, 3 the schema `note` besides."""
    store = DataStore(Config.from_env(write_behind_flush_interval=0.05, write_behind_max_retry=2, **options))
    paced(store, lease=3.0, fleet=5.0, dead=2.0, outage_longest=0.5)
    store.register(deferred(Old if number == 1 else New, name="things"))
    if number == 3:
        store.register(deferred(Note, name="note"))
    return store


def write_and_die(number: int, text: str, first: int, last: int) -> None:
    """Write things, or notes, hand them off, and be gone: only the fleet is left to persist them."""
    writer = release(number)
    parts = inspect(writer)
    parts.drainer.stop(1.0)
    for id in range(first, last):
        if number == 1:
            writer.set("things", id, Old(id, text))
        elif number == 2:
            writer.set("things", id, New(id, text, 9, "new"))
        else:
            writer.set("note", id, Note(id, text))
    parts.handoff.run()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    write_and_die(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
elif "ROLLING_RELEASE" in os.environ:
    store = release(int(os.environ["ROLLING_RELEASE"]))
