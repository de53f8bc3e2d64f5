"""Synchronous writes, invalidations and repairs: the programs of `strata/engine/write.py`, `batch.py` and
`strata/coherence/repairs.py`."""

from __future__ import annotations

from tests.property.model import ledger, memory, postgres, redis
from tests.property.model.postgres import REFUSED
from tests.property.model.promises import acknowledged
from tests.property.model.rules import Rule
from tests.property.model.state import Entry, Op, Proc, World
from tests.property.model.step import UNKNOWN, DownError, Me, Outcomes, Program, ask, step


class CommitError(Exception):
    """The commit failed, or its outcome is not known."""


@step()
def begin_write(world: World, me: Me) -> Outcomes:
    """Drop the key from L1, and take a claim. Answers whether L2 may be asked, and a stamp."""
    proc, setup = world.procs[me.proc], me.setup
    if setup.keeps(Rule.OWN_WRITE_VOIDS_CLAIMS):
        proc = memory.forget(proc, setup)
    else:
        proc = proc._replace(l1=None)
    proc, version = memory.stamp(proc._replace(claims=proc.claims | {me.thread}), me.proc)
    return [(world.with_proc(me.proc, proc), (proc.skipped == 0, version))]


@step()
def note_repair(world: World, me: Me, version: int) -> Outcomes:
    """L2 is not to be asked for the key, and the repairs' thread is woken."""
    proc = world.procs[me.proc]
    if me.setup.keeps(Rule.SKIP_OUTLASTS_COMMIT):
        proc = proc._replace(skipped=version, unclosed=proc.unclosed | {me.thread})
    else:
        proc = proc._replace(skipped=version, woken=True)
    return [(world.with_proc(me.proc, proc), None)]


@step()
def close_repair(world: World, me: Me) -> Outcomes:
    """The commit has ended one way or the other: now the repairs' thread is woken."""
    proc = world.procs[me.proc]
    return [(world.with_proc(me.proc, proc._replace(unclosed=proc.unclosed - {me.thread}, woken=True)), None)]


@step()
def end_write(world: World, me: Me, version: int, deleted: bool, stored: bool, batch: bool) -> Outcomes:
    """L1 takes the record if the claim is still good, else drops the key; the write returns."""
    proc, setup = memory.observe(world.procs[me.proc], version), me.setup
    filled = False
    if not setup.keeps(Rule.WRITER_NEEDS_CLAIM):
        proc = proc._replace(claims=proc.claims | {me.thread})
    if stored and not deleted:
        proc, filled = memory.fill(proc, setup, me.thread, Entry(version, False, False))
    if filled and batch and not setup.keeps(Rule.BATCH_VOIDS_CLAIMS):
        pass
    elif setup.keeps(Rule.OWN_WRITE_VOIDS_CLAIMS):
        proc = memory.void(proc, setup) if filled else memory.forget(proc, setup)
    elif not filled:
        proc = proc._replace(l1=None)
    world = world.with_proc(me.proc, memory.release(proc, me.thread))
    return [(acknowledged(world, setup, me.proc, version), None)]


@step()
def give_up_write(world: World, me: Me) -> Outcomes:
    """The write raises: L1 drops the key."""
    proc = memory.forget(world.procs[me.proc], me.setup)
    return [(world.with_proc(me.proc, memory.release(proc, me.thread)), None)]


def write(me: Me, deleted: bool = False, refused: bool = False, batch: bool = False) -> Program:
    """One write-through `set` or `delete`, or, `batch`, the key's part in a transaction; `refused`: L3 refuses it."""
    may_ask, stamp = yield begin_write(me)
    try:
        intended = yield from _intend(me, may_ask)
        version = yield from _commit(me, stamp, deleted, refused, intended)
    except CommitError:
        yield give_up_write(me)
        return
    stored = yield from _put(me, version, deleted, intended)
    yield end_write(me, version, deleted, stored, batch)


def _intend(me: Me, may_ask: bool) -> Program:
    if not me.setup.keeps(Rule.INTENT_BEFORE_COMMIT):
        return True
    try:
        if not me.setup.l2:
            yield from ask(redis.publish(me, Op.INTENT, 0))
            return False
        if not may_ask:
            return False
        yield from ask(redis.intent(me))
    except DownError:
        return False
    return True


def _commit(me: Me, stamp: int, deleted: bool, refused: bool, intended: bool) -> Program:
    repair = me.setup.l2 and not intended
    if repair:
        yield note_repair(me, stamp)
    answer = yield (postgres.refuse(me) if refused else postgres.commit(me, stamp, deleted, repair))
    if repair and me.setup.keeps(Rule.SKIP_OUTLASTS_COMMIT):
        yield close_repair(me)
    if answer is REFUSED or (answer is UNKNOWN and not me.setup.keeps(Rule.UNKNOWN_LEAVES_INTENT)):
        yield from _abandon(me, intended)
    if answer is REFUSED or answer is UNKNOWN:
        raise CommitError
    return answer


def _abandon(me: Me, intended: bool) -> Program:
    if intended and me.setup.l2:
        try:
            yield from ask(redis.abandon(me))
        except DownError:
            pass


def _put(me: Me, version: int, deleted: bool, intended: bool) -> Program:
    try:
        if not me.setup.l2:
            yield from ask(redis.publish(me, Op.DELETE if deleted else Op.SET, version))
        elif intended:
            stored = yield from ask(redis.put(me, version, deleted))
            return stored
    except DownError:
        return not me.setup.l2
    return True


@step()
def begin_own(world: World, me: Me) -> Outcomes:
    """A schema whose lowest tier is L2: take a claim. Answers a stamp."""
    proc, version = memory.stamp(world.procs[me.proc], me.proc)
    return [(world.with_proc(me.proc, proc._replace(claims=proc.claims | {me.thread})), version)]


@step()
def stamp_above(world: World, me: Me, version: int) -> Outcomes:
    """A stamp above a version that was in the way."""
    proc = world.procs[me.proc]._replace(stamps=1)
    proc, stamp = memory.stamp(memory.observe(proc, version), me.proc)
    return [(world.with_proc(me.proc, proc), stamp)]


@step()
def end_own(world: World, me: Me, version: int, deleted: bool) -> Outcomes:
    """L1 takes the record if the claim is still good; nothing older stays in any case."""
    proc, setup = world.procs[me.proc], me.setup
    filled = False
    if not deleted:
        proc, filled = memory.fill(proc, setup, me.thread, Entry(version, False, False))
    if not filled:
        proc = memory.forget(proc, setup, version)
    elif setup.keeps(Rule.OWN_L2_WRITE_VOIDS_CLAIMS):
        proc = memory.void(proc, setup)
    world = world.with_proc(me.proc, memory.release(proc, me.thread))
    return [(acknowledged(world, setup, me.proc, version), None)]


def own(me: Me, deleted: bool = False) -> Program:
    """One `set` or `delete` of a schema whose lowest tier is L2."""
    version = yield begin_own(me)
    try:
        while in_the_way := (yield from ask(redis.own(me, version, deleted))):
            version = yield stamp_above(me, in_the_way)
    except DownError:
        yield give_up_write(me)
        return
    yield end_own(me, version, deleted)


@step()
def drop(world: World, me: Me) -> Outcomes:
    """Drop the key from L1."""
    return [(world.with_proc(me.proc, memory.forget(world.procs[me.proc], me.setup)), None)]


def invalidate(me: Me) -> Program:
    """One `invalidate`."""
    yield drop(me)
    try:
        if me.setup.l2 and me.setup.l3:
            yield from ask(redis.invalidate(me))
        else:
            yield from ask(redis.publish(me, Op.INVALIDATE, 0))
    except DownError:
        pass


@step()
def wait_for_call(world: World, me: Me) -> Outcomes:
    """The repairs' thread sleeps until it is woken. Answers the version not to be asked for."""
    proc = world.procs[me.proc]
    if not proc.woken:
        return []
    return [(world.with_proc(me.proc, proc._replace(woken=False)), _closed(proc))]


@step()
def look_again(world: World, me: Me) -> Outcomes:
    """The repairs' thread tries again after a pause, or, with nothing left to do, sleeps."""
    return [(world, (world.procs[me.proc].skipped > 0, _closed(world.procs[me.proc])))]


def _closed(proc: Proc) -> int:
    return 0 if proc.unclosed else proc.skipped


@step()
def repaired(world: World, me: Me, version: int) -> Outcomes:
    """L2 may be asked again, unless there was another write meanwhile."""
    proc = world.procs[me.proc]
    if version and proc.skipped == version:
        return [(world.with_proc(me.proc, proc._replace(skipped=0)), None)]
    return [(world, None)]


def repairs(me: Me) -> Program:
    """The thread that repairs L2; it never ends."""
    while True:
        before = yield wait_for_call(me)
        while not (yield from _attempt(me, before)):
            left, before = yield look_again(me)
            if not left:
                break


def _attempt(me: Me, before: int) -> Program:
    while True:
        rows = yield postgres.take_repairs(me)
        if not rows:
            break
        try:
            yield from ask(redis.repair(me, max(rows)))
        except DownError:
            return False
        if me.setup.keeps(Rule.REPAIR_REACHES_ITSELF):
            yield drop(me)
        yield postgres.repairs_done(me, rows)
    yield repaired(me, before)
    return True
