"""Whether anything came on an idle connection: known at once, by a call that never waits and gives way to nobody."""

from __future__ import annotations

import importlib.util
import select
from types import ModuleType
from typing import Any


def _own_copy() -> ModuleType:
    # gevent puts a poll of its own into the module, which gives way to others, and eventlet takes it out. A fresh
    # copy of the module has the system's.
    spec = importlib.util.find_spec("select")
    if spec is None or spec.loader is None:
        return select
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


_select = _own_copy()


class Ear:
    """Listens at one socket; used by one thread at a time. A server that went away leaves its farewell, or the end of
    the stream, to be read."""

    __slots__ = ("_poller", "_socket")

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._poller: Any = None
        if hasattr(_select, "poll"):  # which not every system has
            self._poller = _select.poll()
            self._poller.register(socket, _select.POLLIN)

    def silent(self) -> bool:
        """Whether nothing is there to be read."""
        if self._poller is None:
            return not _select.select([self._socket], [], [], 0)[0]
        return not self._poller.poll(0)
