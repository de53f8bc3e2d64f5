"""`get`, and the bulk fill of `search`: the programs of `strata/engine/flights.py`, `load.py` and `rows.py`."""

from __future__ import annotations

import enum
from typing import NamedTuple

from tests.property.model import buffer, ledger, memory, postgres, redis
from tests.property.model.memory import Seen
from tests.property.model.promises import returned
from tests.property.model.rules import Rule, Setup
from tests.property.model.state import Entry, Lease, Proc, Value, World
from tests.property.model.step import DownError, Me, Outcomes, Program, ask, step


class Way(enum.IntEnum):
    """How a read goes on: it is over, it waits for another's flight, or flies itself, with L2 or around it."""

    OVER = 0
    WAIT = 1
    FLY = 2
    AROUND = 3
    BOARD = 4


class Begun(NamedTuple):
    """The way, the rank below which nothing may be returned, and the own write that was superseded."""

    way: Way
    floor: int
    own: Seen | None = None


@step()
def begin_read(world: World, me: Me, force_l2: bool) -> Outcomes:
    """Look into L1 and the own buffer, else board a flight, at once unless the steps are to be fine."""
    setup, proc = me.setup, world.procs[me.proc]
    floor, entry, slot = proc.seen, proc.l1, buffer.peek(proc, setup)
    proc = proc._replace(gets=proc.gets - 1, seen=floor if proc.gets > 1 else 0)
    world = world.with_proc(me.proc, proc)
    outcomes = []
    if entry is not None and not force_l2:
        hit = returned(world, setup, me.proc, floor, Seen(entry.version, False))
        outcomes.append((hit, Begun(Way.OVER, floor)))
        if memory.serves(proc, setup):
            return outcomes  # while unsure, an entry may be served or not, since it may just have been loaded
    if slot is not None:
        shown = returned(world, setup, me.proc, floor, Seen(slot.version, slot.deleted))
        outcomes.append((shown, Begun(Way.OVER, floor)))
        return outcomes
    own = None
    if proc.slot is not None and setup.keeps(Rule.READ_ASKS_BUFFER) and setup.keeps(Rule.OWN_WRITE_IS_A_FLOOR):
        own = Seen(proc.slot.version, proc.slot.deleted)
    outcomes.append((world, Begun(Way.BOARD, floor, own)) if setup.fine else _board(world, me, floor, own))
    return outcomes


@step()
def board(world: World, me: Me, floor: int, own: Seen | None) -> Outcomes:
    """Share another thread's flight, or take a claim and fly."""
    return [_board(world, me, floor, own)]


def _board(world: World, me: Me, floor: int, own: Seen | None) -> tuple[World, Begun]:
    proc, setup = world.procs[me.proc], me.setup
    if proc.flight >= 0:
        proc = proc._replace(boarded=proc.boarded | {(proc.flight, me.thread)})
        return world.with_proc(me.proc, proc), Begun(Way.WAIT, floor, own)
    way = Way.AROUND if not setup.l2 or skips(proc, setup) else Way.FLY
    proc = proc._replace(claims=proc.claims | {me.thread}, flight=me.thread)
    return world.with_proc(me.proc, proc), Begun(way, floor, own)


@step()
def wait_for_flight(world: World, me: Me, floor: int, own: Seen | None) -> Outcomes:
    """Another thread's read of the key has landed."""
    proc = world.procs[me.proc]
    for who, result in proc.landed:
        if who == me.thread:
            proc = proc._replace(landed=proc.landed - {(who, result)})
            if result is None:
                return [(world.with_proc(me.proc, proc), None)]
            return [(returned(world.with_proc(me.proc, proc), me.setup, me.proc, floor, _newest(result, own)), None)]
    return []


def _newest(seen: Seen, own: Seen | None) -> Seen:
    return seen if own is None or own.version <= seen.version else own


@step()
def end_read(
    world: World, me: Me, floor: int, own: Seen | None, seen: Seen, may_fill: bool, brief: bool = False
) -> Outcomes:
    """Fill L1 where that is allowed, release the claim, return the record."""
    proc = world.procs[me.proc]
    if not seen.deleted or me.setup.deferred:
        proc = memory.observe(proc, seen.version)
    filled = False
    if may_fill and not seen.deleted:
        proc, filled = memory.fill(proc, me.setup, me.thread, Entry(seen.version, seen.pending, seen.raw, brief))
    if not filled:
        proc = memory.met(proc, me.setup, me.thread, 0 if seen.deleted else seen.version)
    proc = memory.release(proc, me.thread, seen)
    return [(returned(world.with_proc(me.proc, proc), me.setup, me.proc, floor, _newest(seen, own)), None)]


def skips(proc: Proc, setup: Setup) -> bool:
    """Whether L2 is not to be asked."""
    return (proc.skipped != 0 and setup.keeps(Rule.SKIP_UNREPAIRED)) or proc.doubts > 0


@step()
def distrust(world: World, me: Me) -> Outcomes:
    """L2 did not answer a read, which goes on to L3."""
    proc = world.procs[me.proc]
    if me.setup.repairs and me.setup.keeps(Rule.DISTRUST_UNTIL_REPAIRED):
        proc = proc._replace(doubts=proc.doubts + 1, woken=True)
    return [(world.with_proc(me.proc, proc), None)]


@step()
def fail_read(world: World, me: Me) -> Outcomes:
    """The read raises, and so does whoever waits for it."""
    proc = memory.release(world.procs[me.proc], me.thread)
    return [(world.with_proc(me.proc, proc), None)]


def get(me: Me, force_l2: bool = False) -> Program:
    """One `get`."""
    begun = yield begin_read(me, force_l2)
    if begun.way == Way.BOARD:
        begun = yield board(me, begun.floor, begun.own)
    if begun.way == Way.WAIT:
        yield wait_for_flight(me, begun.floor, begun.own)
    elif begun.way != Way.OVER:
        yield from _fly(me, begun)


def _fly(me: Me, begun: Begun) -> Program:
    setup, floor, own = me.setup, begun.floor, begun.own
    asked, held = begun.way != Way.AROUND, None
    if asked:
        try:
            held = yield from ask(redis.read(me, setup.l3))
        except DownError:
            if not setup.l3:
                yield fail_read(me)
                return
            asked = False
            yield distrust(me)
    if isinstance(held, Value):
        seen = Seen(held.version, held.deleted, held.pending, held.raw)
        yield end_read(me, floor, own, seen, True)
        return
    if not setup.l3:
        seen = yield nothing(me)
        yield end_read(me, floor, own, seen, False)
        return
    seen = yield from below(me)
    if setup.l2 and not asked and begun.way != Way.AROUND and setup.keeps(Rule.DOUBT_OUTLASTS_READ):
        yield distrust(me)
    may_fill = not asked
    brief = may_fill and setup.l2 and setup.keeps(Rule.BRIEF_WITHOUT_L2)
    if isinstance(held, Lease) and held.token == me.token:
        may_fill = yield from _fill_l2(me, seen)
    yield end_read(me, floor, own, seen, may_fill or not setup.keeps(Rule.REFUSED_BY_L2_STAYS_OUT_OF_L1), brief)


def _fill_l2(me: Me, seen: Seen) -> Program:
    content = None if seen.deleted else Value(seen.version, False, seen.pending, seen.raw)
    try:
        stored = yield from ask(redis.fill(me, content))
    except DownError:
        return False
    return stored


def below(me: Me) -> Program:
    """What ledger and L3 hold, asked in this order."""
    pending = None
    first = me.setup.keeps(Rule.LEDGER_BEFORE_L3_ON_MISS)
    if me.setup.deferred and first:
        pending = yield from _ledger(me)
    row = yield postgres.read(me)
    if me.setup.deferred and not first:
        pending = yield from _ledger(me)
    unasked = row.deleted and not me.setup.keeps(Rule.DELETION_IN_L3_IS_ASKED)
    if pending is not None and (unasked or pending.version > row.version):
        return Seen(pending.version, pending.deleted, True, me.setup.kept and not pending.deleted)
    return row


def _ledger(me: Me) -> Program:
    try:
        entry = yield from ask(ledger.read(me))
    except DownError:
        return None
    return entry if me.setup.keeps(Rule.READ_ASKS_LEDGER) else None


@step()
def nothing(world: World, me: Me) -> Outcomes:
    """L2 is the lowest tier and has no such key: it is, or was and has been forgotten to have been, deleted."""
    deleted = [version for version, gone in world.history if gone]
    return [(world, Seen(deleted[-1] if deleted else 0, True))]


@step()
def claim(world: World, me: Me) -> Outcomes:
    """A claim of one's own."""
    proc = world.procs[me.proc]
    return [(world.with_proc(me.proc, proc._replace(claims=proc.claims | {me.thread})), None)]


@step()
def end_fill(world: World, me: Me, row: Seen, may_fill: bool) -> Outcomes:
    """Fill L1 where that is allowed, and release the claim."""
    proc = world.procs[me.proc]
    if may_fill:
        proc, _ = memory.fill(proc, me.setup, me.thread, Entry(row.version, False, row.raw))
    return [(world.with_proc(me.proc, memory.release(proc, me.thread)), None)]


def search(me: Me) -> Program:
    """A query that finds the key's row, and fills the caches with it; it shows L3 as it is."""
    row = yield postgres.read(me)
    if row.deleted:
        return
    yield claim(me)
    try:
        held = (yield from ask(redis.read(me, True))) if me.setup.l2 else None
        may_fill = yield from _fill_found(me, row, held)
    except DownError:
        may_fill = False
    yield end_fill(me, row, may_fill)


def _fill_found(me: Me, row: Seen, held: object) -> Program:
    again, pending = row, None
    if me.setup.deferred and me.setup.keeps(Rule.BULK_ASKS_LEDGER):
        pending = yield from ask(ledger.read(me))
    if me.setup.keeps(Rule.BULK_ROWS_ARE_READ_AGAIN):
        again = yield postgres.read(me)
    sure = again == row and (pending is None or pending.version <= row.version)
    if not me.setup.l2:
        return sure
    if isinstance(held, Value) and not held.deleted and held.version == row.version:
        return sure
    if held == Lease(me.token):
        stored = yield from ask(redis.fill(me, Value(row.version, False, False, row.raw) if sure else None))
        return stored and sure
    return False
