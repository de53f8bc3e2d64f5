"""What the ledger says of keys to those who read, or write around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from strata.bound import Bound
from strata.errors import DecodeError
from strata.protocol.entry import Ages, EntryOp, decode, oldest
from strata.writebehind.dirty import changes
from strata.writebehind.ledger.common import Common
from strata.writebehind.ledger.shard import Shard, home_of


class Pending(NamedTuple):
    """A write of some process that L3 does not have yet; `partial`: it carries some of the columns only; `ages`: those
    that are older than its version, with theirs."""

    version: int
    deleted: bool
    partial: bool
    names: tuple[str, ...]
    values: tuple[Any, ...]
    ages: Ages = ()

    @property
    def oldest(self) -> int:
        """The version of its oldest column."""
        return oldest(self.version, self.ages)


def read_pending(common: Common, bound: Bound, key_texts: Sequence[str]) -> dict[str, Pending]:
    """The pending writes of any process, by key text, in one round trip. Raises `L2UnavailableError`."""
    by_shard: dict[Shard, list[str]] = {}
    for key_text in key_texts:
        by_shard.setdefault(home_of(bound.name, key_text), []).append(key_text)
    found: dict[str, Pending] = {}
    for group, raws in zip(by_shard.values(), common.ledger.read(list(by_shard.items())), strict=True):
        for key_text, raw in zip(group, raws, strict=True):
            pending = None if raw is None else _pending(common, bound, key_text, raw)
            if pending is not None:
                found[key_text] = pending
    return found


def _pending(common: Common, bound: Bound, key_text: str, raw: bytes) -> Pending | None:
    """What an entry says; nothing where it cannot be believed, for which whoever persists it makes a dead letter of it,
    or where a newer release has to read it."""
    try:
        entry = decode(raw)
        if not common.versions.believed(entry.version):
            return None
        if entry.op is EntryOp.DELETE:
            return Pending(entry.version, True, False, (), ())
        names, values = changes.row_of(bound, bound.plan.parse_key(key_text), entry)
    except DecodeError:
        return None
    return Pending(entry.version, False, entry.op is EntryOp.PARTIAL, names, values, entry.ages)
