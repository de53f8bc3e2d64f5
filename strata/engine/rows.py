"""From rows of L3 to records, and into the caches: what `search`, `get_many` and warming share.

Bulk fills: claims and leases first, then, for schemas that are written behind, what the ledger holds, then the rows'
versions once more, then the fills of those that are unchanged, and of which nothing newer is pending. So whatever was
written after the lease was left refuses the fill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from strata.bound import Bound
from strata.engine.context import Context
from strata.errors import WITHOUT_L2, WITHOUT_L3, DecodeError, EncodeError, MissingPrimaryKeyError
from strata.l1.claims import Claim
from strata.l2.content import Found, State
from strata.l2.values import Put


class Item(NamedTuple):
    """A whole record that L3 holds at this version. `key_text` is empty where another program has given it a key that
    is none to Strata, such as one that is too long: it can be found, and is not cached."""

    id: Any
    key_text: str
    version: int
    record: Any


class Filler:
    """Fills both caches with rows that were read in bulk. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def fill(self, bound: Bound, items: Sequence[Item], *, strict: bool = False, take_over: bool = False) -> int:
        """Fill where nothing newer is known; returns how many entered a cache.

        An outage fills nothing, or, where it is `strict`, raises `L2UnavailableError` or `L3UnavailableError`. What
        another reader is loading is left to it, or, to `take_over`, filled in its place: two that did so all the time
        would take each other's leases for ever.
        """
        items = [item for item in items if item.key_text]
        if not items or (bound.l1.store is None and bound.l2 is None):
            return 0
        began = self._context.clock.monotonic()
        claims = {item.key_text: Claim(item.id) for item in items}
        try:
            bound.l1.claims.enter(*claims.values())
            seen = None
            if bound.l2 is not None:
                seen = bound.l2.read_many([item.key_text for item in items], exist=True, take_over=take_over)
            sure = self._unchanged(bound, items)
            filled = self._fill_l2(bound, seen, items, {item.key_text for item in sure})
            for item in sure:
                claim = claims[item.key_text]
                if item.key_text in filled:
                    bound.l1.fill(claim, bound.plan.freeze(item.record), item.version, loaded=began)
                else:
                    bound.l1.met(claim, item.version)
            return len(filled)
        except (*WITHOUT_L2, *WITHOUT_L3):
            if strict:
                raise
            return 0
        finally:
            bound.l1.claims.release(*claims.values())

    def _unchanged(self, bound: Bound, items: Sequence[Item]) -> list[Item]:
        deferred, pending = self._context.writebehind, {}
        if bound.deferred and deferred is not None:
            pending = deferred.ledger_read(bound, [item.key_text for item in items])  # before L3, as any read
        with bound.rows.primary.connection() as conn:
            versions = bound.rows.table.read_versions(conn, [item.id for item in items])
        return [
            item
            for item in items
            if versions.get(item.id) == item.version
            and (item.key_text not in pending or pending[item.key_text].version <= item.version)
        ]

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
    """Whole rows as records. Raises `DecodeError`."""
    return [_item(bound, row) for row in rows]


def readable(bound: Bound, rows: Sequence[Any]) -> list[Item]:
    """Those whole rows that can be read, as records; the others are counted and told of."""
    items = []
    for row in rows:
        try:
            items.append(_item(bound, row))
        except DecodeError as error:
            bound.leave_out(error)
    return items


def _item(bound: Bound, row: Any) -> Item:
    record = bound.record(row.values)
    key = bound.plan.key_of(record)
    return Item(key, _key_text(bound, key), row.version, record)


def _key_text(bound: Bound, key: Any) -> str:
    try:
        return bound.plan.key_text(key)
    except (EncodeError, MissingPrimaryKeyError):
        return ""
