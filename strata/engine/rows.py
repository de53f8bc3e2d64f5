"""From rows of L3 to records, and into the caches: what `search` and warming share.

A bulk fill is a load as `get_many` has it, of the keys that were found: claims and leases first, then the ledger, then
L3. The rows that were found are older than the leases, and that their version is still the same says little: another
program's UPDATE leaves it as it was. So the rows that fill are read after the leases; what a cache has is not read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from strata import waits
from strata.bound import Bound
from strata.engine.context import Context
from strata.engine.load import Load, fill_l1
from strata.engine.steps import alone
from strata.errors import WITHOUT_L2, WITHOUT_L3, DecodeError, EncodeError, MissingPrimaryKeyError
from strata.l1.claims import Claim
from strata.l1.entry import L1Entry
from strata.l2.content import Found, State


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

    def fill(self, bound: Bound, items: Sequence[Item], *, strict: bool = False, take_over: bool = False) -> float:
        """Fill where nothing newer is known, and L1 from L2 where that has what was found, or newer; returns when the
        first life of its own ends that a cache's copy has (monotonic).

        An outage fills nothing, or, where it is `strict`, raises `L2UnavailableError` or `L3UnavailableError`. What
        another reader is loading is left to it, or, to `take_over`, filled in its place: two that did so all the time
        would take each other's leases for ever.
        """
        began = self._context.clock.monotonic()
        known = {} if take_over else {item.id: entry for item in items if (entry := _known(bound, item, began))}
        ends = min((entry.ends for entry in known.values() if entry.own), default=math.inf)
        items = [item for item in items if item.key_text and item.id not in known]
        if not items or (bound.l1.store is None and bound.l2 is None):
            return ends
        claims = {item.key_text: Claim(item.id) for item in items}
        try:
            bound.l1.claims.enter(*claims.values())
            found, left = None, claims
            if bound.l2 is not None:
                found = bound.l2.read_many(list(claims), exist=True, take_over=take_over)
                lives = [answer.life for answer in found.values() if answer.life is not None]
                ends = min(ends, began + min(lives, default=math.inf))
                left = self._from_l2(bound, items, claims, found, began)
            if left:
                self._load(bound, left, found)
        except (*WITHOUT_L2, *WITHOUT_L3):
            if strict:
                raise
        finally:
            bound.l1.claims.release(*claims.values())
        return ends

    def _from_l2(
        self, bound: Bound, items: Sequence[Item], claims: dict[str, Claim], found: dict[str, Found], began: float
    ) -> dict[str, Claim]:
        """Fill L1 with what L2 has of the rows; returns the claims of those of which it may have what L3 has."""
        skips = self._context.repairs.skips(bound, claims)
        left, fills = {}, []
        for item in waits.in_turns(items):
            claim, answer = claims[item.key_text], found[item.key_text]
            if answer.state is State.LEASED or answer.state is State.STALE:
                left[item.key_text] = claim
            elif answer.state is State.VALUE and answer.version >= item.version and not skips:
                self._context.versions.observe(answer.version)
                claim.life = answer.life
                fills.append((claim, claim.key, bound.plan.freeze(answer.record), answer.version, answer.pending))
            else:
                bound.l1.met(claim, item.version)
        fill_l1(bound, fills, began)
        return left

    def _load(self, bound: Bound, claims: dict[str, Claim], found: dict[str, Found] | None) -> None:
        began, deferred = self._context.clock.monotonic(), self._context.writebehind
        load = Load(self._context, bound, claims, found)
        try:
            pending = deferred.ledger_read(bound, list(claims)) if bound.deferred and deferred is not None else {}
            loaded, _ = alone(load.beneath(pending))
            alone(load.fill(loaded, began))
        except BaseException as error:
            load.broken_off(error)
            raise


def _known(bound: Bound, item: Item, now: float) -> L1Entry | None:
    """The entry of L1, where that is just what was found."""
    entry = bound.l1.lookup(item.id, now)
    return entry if entry is not None and entry.version == item.version and not entry.pending else None


def items_of(bound: Bound, rows: Sequence[Any]) -> list[Item]:
    """Whole rows as records. Raises `DecodeError`."""
    return [_item(bound, row) for row in waits.in_turns(rows)]


def readable(bound: Bound, rows: Sequence[Any]) -> list[Item]:
    """Those whole rows that can be read, as records; the others are counted and told of."""
    items = []
    for row in waits.in_turns(rows):
        try:
            items.append(_item(bound, row))
        except DecodeError as error:
            bound.leave_out(error)
    return items


def _item(bound: Bound, row: Any) -> Item:
    record = bound.record(row.values)
    key = bound.plan.key_of(record)
    return Item(key, text_of(bound, key), row.version, record)


def text_of(bound: Bound, key: Any) -> str:
    """The text of a row's key; empty where that is none to Strata."""
    try:
        return bound.plan.key_text(key)
    except (EncodeError, MissingPrimaryKeyError):
        return ""
