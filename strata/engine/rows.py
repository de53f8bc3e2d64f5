"""From rows of L3 to records, and into the caches: what `search` and warming share.

A bulk fill is a load as `get_many` has it, of the keys that were found: claims and leases first, then the ledger, then
L3. The rows that were found are older than the leases, and that their version is still the same says little: another
program's UPDATE leaves it as it was. So the rows that fill are read after the leases; what a cache has is not read.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from strata import waits
from strata.bound import Bound
from strata.engine.context import Context
from strata.engine.load import HAVE_OWN, Load, fill_l1
from strata.engine.steps import alone
from strata.errors import WITHOUT_L2, WITHOUT_L3, DecodeError, EncodeError, MissingPrimaryKeyError
from strata.l1.claims import Claim, ManyClaim
from strata.l1.entry import L1Entry
from strata.l1.tier import Fill as FillL1
from strata.l2.content import Found, Plain, State


class Item(NamedTuple):
    """A row that L3 holds at this version. `key_text` is empty where another program has given it a key that is none to
    Strata, such as one that is too long: it can be found, and is not cached. `record` is nothing to who fills."""

    id: Any
    key_text: str
    version: int
    record: Any = None


class Filler:
    """Fills both caches with rows that were found in bulk. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def fill(self, bound: Bound, items: Sequence[Item]) -> float:
        """Fill where nothing newer is known, and L1 from L2 where that has what was found, or newer; returns when the
        first life of its own ends that a cache's copy has (monotonic). An outage fills nothing. What another reader is
        loading is left to it."""
        began = self._context.clock.monotonic()
        known = {item.id: entry for item in items if (entry := _known(bound, item, began))}
        lives = [entry.ends - began for entry in known.values() if entry.own]
        with contextlib.suppress(*WITHOUT_L2, *WITHOUT_L3):
            self._fill(bound, [item for item in items if item.id not in known], lives, take_over=False)
        return began + min(lives, default=math.inf)

    def warm(self, bound: Bound, items: Sequence[Item], *, strict: bool) -> list[DecodeError]:
        """As `fill`, whatever L1 has; returns the errors of rows that cannot be read, of those that had to be.

        Where it is `strict`, an outage raises `L2UnavailableError` or `L3UnavailableError`. What another reader is
        loading is filled in its place: two that did so all the time would take each other's leases for ever.
        """
        try:
            return self._fill(bound, items, [], take_over=True)
        except (*WITHOUT_L2, *WITHOUT_L3):
            if strict:
                raise
            return []

    def _fill(self, bound: Bound, items: Sequence[Item], lives: list[float], *, take_over: bool) -> list[DecodeError]:
        """`lives` are those of their own that copies have, to which those of L2 are added."""
        by_text = {item.key_text: item for item in items if item.key_text}
        if not by_text or (bound.l1.store is None and bound.l2 is None):
            return []
        l1, together, claims = bound.l1, ManyClaim([item.id for item in by_text.values()]), dict[str, Claim]()
        try:
            l1.claims.enter_many(together)
            if bound.l2 is None:
                return self._load(bound, by_text, dict.fromkeys(by_text, together), None)
            began = self._context.clock.monotonic()
            plain, others = bound.l2.look(list(by_text), exist=True, take_over=take_over)
            lives += [answer.life for answer in others.values() if answer.life is not None]
            skips = self._context.repairs.skips(bound, by_text)
            self._hit(bound, together, by_text, plain, began, skips=skips)
            own = {text: by_text[text].id for text, answer in others.items() if answer.state in HAVE_OWN}
            claims |= l1.claims.apart(together, own)
            each: dict[str, Claim | ManyClaim] = {**dict.fromkeys(others, together), **claims}
            left = self._from_l2(bound, by_text, each, others, began, skips=skips)
            return self._load(bound, by_text, left, others) if left else []
        finally:
            l1.claims.release_many(together)
            l1.claims.release(*claims.values())

    def _hit(
        self,
        bound: Bound,
        claim: ManyClaim,
        items: Mapping[str, Item],
        plain: Plain,
        began: float,
        *,
        skips: bool,
    ) -> None:
        """Fill L1 with the plain values of L2 that may be what L3 has."""
        fills: list[FillL1] = []
        values = zip(plain.records.items(), plain.versions, strict=True)
        for (text, record), version in waits.in_turns(values if bound.l1.store is not None else ()):
            item = items[text]
            if version >= item.version and not skips:
                fills.append((claim, item.id, bound.plan.freeze(record), version, False))
            else:
                bound.l1.met(claim, item.id, item.version)
        if fills:
            self._context.versions.observe(max([version for *_, version, _ in fills]))
            fill_l1(bound, fills, began)

    def _from_l2(
        self,
        bound: Bound,
        items: Mapping[str, Item],
        claims: Mapping[str, Claim | ManyClaim],
        found: Mapping[str, Found],
        began: float,
        *,
        skips: bool,
    ) -> dict[str, Claim | ManyClaim]:
        """As `_hit`, with what else L2 has; returns the claims of those of which it may have what L3 has."""
        left: dict[str, Claim | ManyClaim] = {}
        fills: list[FillL1] = []
        for text, answer in waits.in_turns(found.items()):
            item, claim = items[text], claims[text]
            if answer.state is State.LEASED or answer.state is State.STALE:
                left[text] = claim
            elif answer.state is State.VALUE and answer.version >= item.version and not skips:
                self._context.versions.observe(answer.version)
                claim.life = answer.life
                fills.append((claim, item.id, bound.plan.freeze(answer.record), answer.version, answer.pending))
            else:
                bound.l1.met(claim, item.id, item.version)
        fill_l1(bound, fills, began)
        return left

    def _load(
        self,
        bound: Bound,
        items: Mapping[str, Item],
        claims: Mapping[str, Claim | ManyClaim],
        found: dict[str, Found] | None,
    ) -> list[DecodeError]:
        began, deferred = self._context.clock.monotonic(), self._context.writebehind
        load = Load(self._context, bound, {text: items[text].id for text in claims}, claims, found)
        try:
            pending = deferred.ledger_read(bound, list(claims)) if bound.deferred and deferred is not None else {}
            loaded, unreadable = alone(load.beneath(pending))
            alone(load.fill(loaded, began))
        except BaseException as error:
            load.broken_off(error)
            raise
        return unreadable


def _known(bound: Bound, item: Item, now: float) -> L1Entry | None:
    """The entry of L1, where that is just what was found."""
    entry = bound.l1.lookup(item.id, now)
    return entry if entry is not None and entry.version == item.version and not entry.pending else None


def items_of(bound: Bound, rows: Sequence[Any]) -> list[Item]:
    """Whole rows as records. Raises `DecodeError`."""
    return [_item(bound, row) for row in waits.in_turns(rows)]


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
