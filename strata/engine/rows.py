"""From rows of L3 to records, and into the caches: what `search`, `get_many` and warming share.

Bulk fills: claims and leases first, then the rows' versions once more, then the fills of those that are unchanged.
So whatever was written after the lease was left refuses the fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from strata.bound import Bound
from strata.coherence.guard import Claim
from strata.engine.context import Context
from strata.errors import L2UnavailableError, L3UnavailableError
from strata.l2.tier import Found, Put, State


class Item(NamedTuple):
    """A whole record that L3 holds at this version."""

    id: Any
    key_text: str
    version: int
    record: Any


class Filler:
    """Fills both caches with rows that were read in bulk. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def fill(self, bound: Bound, items: Sequence[Item], *, strict: bool = False) -> int:
        """Fill where nothing newer is known; returns how many entered a cache.

        An outage fills nothing, or, where it is `strict`, raises `L2UnavailableError` or `L3UnavailableError`.
        """
        if not items or (bound.l1.store is None and bound.l2 is None):
            return 0
        began = self._context.clock.monotonic()
        claims = {item.key_text: Claim(item.id) for item in items}
        try:
            bound.l1.guard.enter(*claims.values())
            seen = None if bound.l2 is None else bound.l2.read_many([item.key_text for item in items], exist=True)
            sure = self._unchanged(bound, items)
            filled = self._fill_l2(bound, seen, items, {item.key_text for item in sure})
            for item in sure:
                claim = claims[item.key_text]
                if item.key_text in filled:
                    bound.l1.fill(claim, bound.plan.freeze(item.record), item.version, loaded=began)
                else:
                    bound.l1.met(claim, item.version)
            return len(filled)
        except (L2UnavailableError, L3UnavailableError):
            if strict:
                raise
            return 0
        finally:
            bound.l1.guard.release(*claims.values())

    def _unchanged(self, bound: Bound, items: Sequence[Item]) -> list[Item]:
        assert bound.table is not None and bound.database is not None
        with bound.database.connection() as conn:
            versions = bound.table.read_versions(conn, [item.id for item in items])
        return [item for item in items if versions.get(item.id) == item.version]

    def _fill_l2(self, bound: Bound, seen: dict[str, Found] | None, items: Sequence[Item], sure: set[str]) -> set[str]:
        """Fill what was leased, and end the leases of rows that changed; returns what L1 may hold as well."""
        if bound.l2 is None or seen is None:
            return sure
        leased = {text: found.token for text, found in seen.items() if found.state is State.LEASED}
        puts = [
            Put(item.key_text, item.version, bound.plan.cached(item.record) if item.key_text in sure else None)
            for item in items
            if item.key_text in leased
        ]
        held = {
            item.key_text
            for item in items
            if seen[item.key_text].state is State.VALUE and seen[item.key_text].version == item.version
        }
        for token in set(leased.values()):
            held |= bound.l2.fill(token, [put for put in puts if leased[put.key_text] == token])
        held |= bound.l2.refresh(seen, self._instead(bound, seen, items, sure))
        return held & sure

    def _instead(self, bound: Bound, seen: dict[str, Found], items: Sequence[Item], sure: set[str]) -> list[Put]:
        """What takes the place of stale values."""
        return [
            Put(item.key_text, item.version, bound.plan.cached(item.record))
            for item in items
            if item.key_text in sure and seen[item.key_text].state is State.STALE
        ]


def items_of(bound: Bound, rows: Sequence[Any]) -> list[Item]:
    """Whole rows as records."""
    items = []
    for row in rows:
        record = bound.record(row.values)
        key = bound.plan.key_of(record)
        items.append(Item(key, bound.plan.key_text(key), row.version, record))
    return items
