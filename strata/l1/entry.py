"""One entry of L1."""

from __future__ import annotations

from typing import Any

import msgspec


class Entry(msgspec.Struct, gc=False, eq=False):
    """A frozen record with what is known of it.

    `expires` and `loaded` are monotonic seconds; `loaded` is when it was read from below. `used` and `hits` are
    written by every hit, without a lock: a lost stamp or count changes only the order of eviction. `gc=False`: the
    cyclic collector does not visit entries, whose values are frozen forms without cycles.
    """

    value: Any
    version: int
    pending: bool
    expires: float
    loaded: float
    used: float
    hits: int = 0
