"""One record in memory, with what the hit path reads and stamps."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from strata import _compiled

FOREVER = math.inf
GONE = -math.inf


class L1Entry(msgspec.Struct, gc=False, eq=False):
    """A frozen record and its stamps; times are monotonic seconds.

    Written by the store under its lock, but for `used` and `hits`, which a hit stamps without any lock. Under the
    GIL no count is lost, since nothing between the clock and the count lets another thread in; on a free-threaded
    build a count may be, and nothing but statistics and the order of eviction depends on it. A writer stores `value`
    before `expires`, and a reader checks `expires` before it takes `value`: so an old value is never served under a
    new date. An entry that was dropped or swept says `expires = GONE`, for the policy's queue, and for threads that
    already hold it. `expires` may be before `ends`, where the entry is due for a refresh: then the hit path lets it be,
    and the read behind it decides.

    `gc=False`: 100 000 entries of a class with `__slots__` add 11 ms to a full collection, these nothing. Nothing that
    an entry holds may refer back to it.
    """

    value: Any
    version: int
    pending: bool
    expires: float  # until when the hit path serves it; FOREVER: never; GONE: removed
    loaded: float  # when it was read from below
    used: float  # the last hit or write
    hits: int = 0
    key: Any = None
    queued: float = 0.0  # LRU: the stamp under which it stands in the queue
    ends: float = FOREVER  # until when it is fresh; after that it is stale, if it is still there
    own: bool = False  # whether that is a life of its own, beyond which it is nothing
    seen: int = 0  # LFU: the hits already counted
    count: int = 0  # LFU: the counted hits, aged


# A Struct's own setter sees to the collector's tracking, which these do without, and keeps the interpreter from
# specializing the stores: two of them cost a hit 36 of its 190 ns.
L1Entry.__setattr__ = object.__setattr__  # type: ignore[method-assign]
L1Entry.__delattr__ = object.__delattr__  # type: ignore[method-assign]

_compiled.replace(globals(), "hits", "L1Entry")
