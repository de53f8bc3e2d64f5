"""What an L1 hit reads, and the hit path: `Hot.hit`. It is written out once more in `DataStore.get` and
`Collection.get`: speed outranks layering there, and a call costs as much as a third of the rest of it. For the same
reason these have their clock by a name of their modules, `monotonic`, which a simulator may replace. Where the compiled
part runs, it has twins of the three, and of the fields that they read."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from strata import _compiled
from strata.bound import Bound
from strata.l1.entry import L1Entry
from strata.l1.trust import Trust
from strata.model.keys import KEYS

RAISE: Any = type("Raise", (), {"__repr__": lambda self: "<raise NotFoundError>", "__slots__": ()})()
"""The default of `default`: a missing record raises."""

MISS: Any = type("Miss", (), {"__repr__": lambda self: "MISS", "__slots__": ()})()
"""What is no hit."""


class HotFields:
    """What the hit path reads of `Hot`."""

    __slots__ = ("entries", "exact", "kinds", "thaw", "trust")

    entries: dict[Any, L1Entry]
    exact: type | None
    kinds: tuple[type, ...] | None
    lookup: Callable[[Any], L1Entry | None]
    thaw: Callable[[Any], Any] | None
    trust: Trust

    def hit(self, id: Any) -> Any:
        """The record, private to the caller, where L1 has it and may hand it out; else `MISS`."""
        try:
            entry = self.lookup(id)
        except Exception:
            if type(id) in KEYS:
                raise  # from outside, and the caller's: a key of these has a hash
            return MISS
        if entry is not None and (self.exact is None or type(id) is self.exact):
            now = monotonic()
            if now < entry.expires and now < self.trust.until:
                entry.used = now
                entry.hits += 1
                thaw = self.thaw
                return entry.value if thaw is None else thaw(entry.value)
        return MISS


class StoreFields:
    """What a hit reads of a `DataStore`: its schemas, by name and by class."""

    __slots__ = ("_hot",)

    _hot: dict[Any, Hot]


class HandleFields:
    """What a hit reads of a `Collection`."""

    __slots__ = ("_hot",)

    _hot: Hot


_compiled.replace(globals(), "hits", "RAISE", "MISS", "HotFields", "StoreFields", "HandleFields")


class Hot(HotFields):
    """The hit path's view of one schema; changed by `close` only, whose stores need no lock.

    `entries` is L1's own dict, or an empty one where a hook wants to see every read, and `lookup` its `get`. `thaw` is
    None where a record may be handed out as it is. `exact` is the class an id must have where others compare equal to
    it, `kinds` are those of its fields; `lookup` sees to these itself.
    """

    __slots__ = ("bound", "lookup")

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.entries = {} if bound.hooks.get_given else bound.l1.entries
        kinds = bound.plan.key.kinds
        self.exact = int if kinds == (int,) else None
        self.kinds = kinds if len(kinds) > 1 and int in kinds else None
        self.lookup = self.entries.get if self.kinds is None else _of_kinds(self.kinds, self.entries.get)
        self.trust = bound.l1.trust
        self.thaw = None if bound.plan.immutable else bound.plan.thaw

    def close(self) -> None:
        """No more hits: every call takes the way on which a closed store refuses it."""
        self.entries = {}
        self.lookup = self.entries.get


def _of_kinds(kinds: tuple[type, ...], lookup: Callable[[Any], L1Entry | None]) -> Callable[[Any], L1Entry | None]:
    """As `lookup`, for tuples of just these classes: others may compare equal to them, as `True` does to 1."""
    return lambda id: lookup(id) if type(id) is tuple and tuple(map(type, id)) == kinds else None
