"""What the ledger says of keys to those who read, or write around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from strata.bound import Bound
from strata.errors import DecodeError
from strata.l3.values import Change
from strata.protocol.entry import Ages, EntryOp, decode, oldest
from strata.writebehind.dirty import changes
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard, home_of


class Pending(NamedTuple):
    """A write of some process that L3 does not have yet; `partial`: it carries some of the columns only; `ages`: those
    that are older than its version, with theirs. `steps`: the same as the writes of which it is made, each of one
    version, oldest first; where it `adds`, what they come to depends on what the row holds."""

    version: int
    deleted: bool
    partial: bool
    names: tuple[str, ...]
    values: tuple[Any, ...]
    ages: Ages
    steps: tuple[Change, ...]
    adds: bool

    @property
    def oldest(self) -> int:
        """The version of its oldest column."""
        return oldest(self.version, self.ages)


def read_pending(common: Common, asked: Sequence[tuple[Bound, Sequence[str]]]) -> list[dict[str, Pending]]:
    """The pending writes of any process, by key text, of each schema that is asked about, in one round trip. Raises
    `L2UnavailableError`."""
    by_shard: dict[tuple[int, Shard], list[str]] = {}
    for place, (bound, key_texts) in enumerate(asked):
        for key_text in key_texts:
            by_shard.setdefault((place, home_of(bound.name, key_text)), []).append(key_text)
    found: list[dict[str, Pending]] = [{} for _ in asked]
    answers = common.ledger.read([(shard, group) for (_, shard), group in by_shard.items()])
    for ((place, _), group), raws in zip(by_shard.items(), answers, strict=True):
        for key_text, raw in zip(group, raws, strict=True):
            pending = None if raw is None else _pending(common, asked[place][0], key_text, raw)
            if pending is not None:
                found[place][key_text] = pending
    return found


def _pending(common: Common, bound: Bound, key_text: str, raw: bytes) -> Pending | None:
    """What an entry says; nothing where it cannot be believed, for which whoever persists it makes a dead letter of it,
    or where a newer release has to read it."""
    try:
        entry = decode(raw)
        if not common.versions.believed(entry.version):
            return None
        change = changes.of_entry(bound, bound.plan.parse_key(key_text), key_text, entry)
    except DecodeError:
        return None
    return pending_of(bound, change, partial=entry.op is EntryOp.PARTIAL)


def pending_of(bound: Bound, change: Change, *, partial: bool) -> Pending:
    """A change as one that is pending."""
    names = bound.plan.column_names if change.names is None else change.names
    steps = tuple(changes.in_order(bound, change))
    values, adds = change.values or (), change.adds or bool(change.deleted)
    return Pending(change.version, change.delete, partial, names, values, change.ages, steps, adds)


def together(one: Pending | None, other: Pending) -> Pending:
    """Two pending writes of one key, in no order, since each of their steps has a version of its own."""
    if one is None:
        return other
    partial = (one.partial or one.deleted) and (other.partial or other.deleted)
    return Pending(max(one.version, other.version), False, partial, (), (), (), (*one.steps, *other.steps), True)
