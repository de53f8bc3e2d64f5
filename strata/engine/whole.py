"""Whole records: what a cache does not keep of them is read from where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.load import Load
from strata.engine.own import own_write, shown
from strata.engine.steps import Handed, Steps


def in_l2(bound: Bound) -> bool:
    """Whether L2 has whole records, and L1 has not: then L1 is passed by."""
    fields = bound.plan.columns
    return any(field.omit_l1 for field in fields) and not any(field.omit_cache for field in fields)


def completed(
    context: Context, bound: Bound, found: Mapping[Any, Any], key_texts: Mapping[Any, str]
) -> Steps[Mapping[Any, Any]]:
    """The same records, by id; of those that lack a field, what ledger and L3 hold, and own writes over it, or ABSENT.

    The whole row is read, in one round trip: of the missing columns alone, the rest of the record might be of an older
    version. Nothing is filled: the caches had what they keep. Raises as a load does.
    """
    unloaded = bound.plan.unloaded
    lacking = {id: key_texts[id] for id, record in found.items() if record is not ABSENT and unloaded(record)}
    if not lacking:
        return found
    now = context.clock.monotonic()
    own = {id: own_write(context, bound, id, now) for id in lacking}
    pending = ((yield Handed(context, bound, list(lacking.values()))) if bound.deferred else None) or {}
    keys = {key_text: id for id, key_text in lacking.items()}
    loaded, unreadable = yield from Load(context, bound, keys, {}, {}).beneath(pending)
    if unreadable:
        raise unreadable[0]
    records = dict(found)
    for id, key_text in lacking.items():
        context.met(bound, id, loaded[key_text].version)
        mine = own[id]
        below = loaded[key_text]
        records[id] = below.record if mine is None else shown(context, bound, id, key_text, mine, below)
    return records
