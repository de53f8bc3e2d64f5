"""The dirty buffer, of which the key has one slot. Mirrors `strata/writebehind/dirty/buffer.py`."""

from __future__ import annotations

from tests.property.model.rules import Rule, Setup
from tests.property.model.state import Proc, Slot


def put(proc: Proc, version: int, deleted: bool) -> tuple[Proc, bool]:
    """Take a write; whether it is now what reads of the key get."""
    slot = proc.slot
    if slot is None:
        return proc._replace(slot=Slot(version, deleted, True, 0)), True
    if version <= slot.version:
        return proc, False
    return proc._replace(slot=Slot(version, deleted, True, slot.superseded)), version > slot.superseded


def peek(proc: Proc, setup: Setup) -> Slot | None:
    """The write that reads of the key get, unless something newer was met."""
    slot = proc.slot
    if slot is None or not setup.keeps(Rule.READ_ASKS_BUFFER):
        return None
    if slot.superseded > slot.version and setup.keeps(Rule.SUPERSEDED_IS_NOT_READ):
        return None
    return slot


def sent(proc: Proc, setup: Setup, version: int) -> Proc:
    """The ledger has this version."""
    slot = proc.slot
    if slot is None or slot.version > version:
        return proc
    return proc._replace(slot=slot._replace(unsent=False) if setup.keeps(Rule.KEPT_UNTIL_IN_L3) else None)


def confirm(proc: Proc, version: int) -> tuple[Proc, int]:
    """L3 has this version or a newer one; the version of the write that is no longer needed, 0 for none."""
    slot = proc.slot
    if slot is None or slot.version > version:
        return proc, 0
    return proc._replace(slot=None), slot.version


def drop(proc: Proc, version: int) -> Proc:
    """The write, up to this version, was given up."""
    if proc.slot is not None and proc.slot.version <= version:
        return proc._replace(slot=None)
    return proc


def supersede(proc: Proc, version: int) -> Proc:
    """A newer version was met: reads do not get this one any more."""
    if proc.slot is None or proc.slot.superseded >= version:
        return proc
    return proc._replace(slot=proc.slot._replace(superseded=version))


def again(proc: Proc, version: int) -> Proc:
    """The ledger does not have this version after all; 0: whatever it is, since the ledger was lost."""
    slot = proc.slot
    if slot is None or slot.unsent or (version and slot.version != version):
        return proc
    return proc._replace(slot=slot._replace(unsent=True))
