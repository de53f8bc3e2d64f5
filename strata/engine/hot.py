"""What an L1 hit reads. The hit path itself is written out in `DataStore.get` and `Collection.get`: speed outranks
layering there, and a call costs as much as the rest of it. For the same reason these two have their clock by a name of
their modules, `monotonic`, which a simulator may replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strata.bound import Bound
from strata.l1.entry import L1Entry
from strata.l1.trust import Trust


class Hot:
    """The hit path's view of one schema; changed by `close` only, whose single store needs no lock.

    `lookup` is the `get` of L1's own dict, or of an empty one where a hook wants to see every read. `thaw` is None
    where a record may be handed out as it is. `exact` is the class an id must have where others compare equal to it.
    """

    __slots__ = ("bound", "exact", "lookup", "thaw", "trust")

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        entries: dict[Any, L1Entry] = {} if bound.hooks.get_given else bound.l1.entries
        kinds = bound.plan.key.kinds
        self.lookup: Callable[[Any], L1Entry | None] = entries.get
        if len(kinds) > 1 and int in kinds:
            self.lookup = _of_kinds(kinds, entries.get)
        self.trust: Trust = bound.l1.trust
        self.thaw: Callable[[Any], Any] | None = None if bound.plan.immutable else bound.plan.thaw
        self.exact = int if kinds == (int,) else None

    def close(self) -> None:
        """No more hits: every call takes the way on which a closed store refuses it."""
        empty: dict[Any, L1Entry] = {}
        self.lookup = empty.get


def _of_kinds(kinds: tuple[type, ...], lookup: Callable[[Any], L1Entry | None]) -> Callable[[Any], L1Entry | None]:
    """As `lookup`, for tuples of just these classes: others may compare equal to them, as `True` does to 1."""
    return lambda id: lookup(id) if type(id) is tuple and tuple(map(type, id)) == kinds else None
