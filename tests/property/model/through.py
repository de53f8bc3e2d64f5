"""Synchronous writes, invalidations and repairs: the programs of `strata/engine/commit.py`, `write.py` and
`strata/coherence/repairs.py`."""

from __future__ import annotations

from tests.property.model import buffer, ledger, memory, postgres, redis
from tests.property.model.postgres import REFUSED
from tests.property.model.promises import acknowledged
from tests.property.model.reading import skips
from tests.property.model.rules import Rule
from tests.property.model.state import NODES, UNDER_WAY, Entry, Op, World
from tests.property.model.step import UNKNOWN, DownError, Me, Outcomes, Program, Where, ask, step


class CommitError(Exception):
    """The commit failed, or its outcome is not known."""


@step()
def begin_write(world: World, me: Me) -> Outcomes:
    """Drop the key from L1, and take a claim. Answers whether L2 may be asked, and a stamp.

    A batch of a write-behind schema stamps later, when it has met the ledger.
    """
    proc, setup = world.procs[me.proc], me.setup
    proc = memory.forget(proc, setup) if setup.keeps(Rule.OWN_WRITE_VOIDS_CLAIMS) else proc._replace(l1=None)
    proc, version = proc._replace(claims=proc.claims | {me.thread}), 0
    if not setup.deferred:
        proc, version = memory.stamp(proc, me.proc)
    return [(world.with_proc(me.proc, proc), (not skips(proc, setup), version))]


@step()
def note_repair(world: World, me: Me) -> Outcomes:
    """A commit that L2 is not told of begins: L2 is not to be asked for the key."""
    proc = world.procs[me.proc]
    if me.setup.keeps(Rule.SKIP_OUTLASTS_COMMIT):
        proc = proc._replace(skipped=UNDER_WAY)
    else:
        proc = proc._replace(skipped=_turn(me), woken=True)
    return [(world.with_proc(me.proc, proc), None)]


@step()
def close_repair(world: World, me: Me) -> Outcomes:
    """The commit has ended one way or the other: from now on a look at the repairs is sure to find its row."""
    proc = world.procs[me.proc]
    return [(world.with_proc(me.proc, proc._replace(skipped=_turn(me), woken=True)), None)]


def _turn(me: Me) -> int:
    return 1 + me.thread * NODES + me.call


@step()
def end_write(world: World, me: Me, version: int, deleted: bool, stored: bool, batch: bool) -> Outcomes:
    """L1 takes the record if the claim is still good, else drops the key; the write returns."""
    proc, setup = memory.observe(world.procs[me.proc], version), me.setup
    filled = False
    if not setup.keeps(Rule.WRITER_NEEDS_CLAIM):
        proc = proc._replace(claims=proc.claims | {me.thread})
    if stored and not deleted:
        proc, filled = memory.fill(proc, setup, me.thread, Entry(version, False, False))
    if filled and batch:
        pass  # the fill has voided the others
    elif setup.keeps(Rule.OWN_WRITE_VOIDS_CLAIMS):
        proc = memory.void(proc, setup) if filled else memory.forget(proc, setup)
    elif not filled:
        proc = proc._replace(l1=None)
    world = world.with_proc(me.proc, memory.release(proc, me.thread))._replace(intending=world.intending - {me.token})
    return [(acknowledged(world, setup, me.proc, version), None)]


@step()
def give_up_write(world: World, me: Me) -> Outcomes:
    """The write raises: L1 drops the key. Its intent cannot have expired as long as its commit is on its way."""
    proc = memory.forget(world.procs[me.proc], me.setup)
    if world.late is None or world.late.args[0] != me:
        world = world._replace(intending=world.intending - {me.token})
    return [(world.with_proc(me.proc, memory.release(proc, me.thread)), None)]


def write(me: Me, deleted: bool = False, refused: bool = False, batch: bool = False) -> Program:
    """One write-through `set` or `delete`, or, `batch`, the key's part in a transaction; `refused`: L3 refuses it."""
    may_ask, stamp = yield begin_write(me)
    try:
        intended = yield from _intend(me, may_ask)
        if me.setup.deferred:
            stamp = yield from _meet_ledger(me)
        version = yield from _commit(me, stamp, deleted, refused, intended)
    except CommitError:
        yield give_up_write(me)
        return
    if not me.setup.deferred:
        stored = yield from _put(me, version, deleted, intended)
    elif me.setup.keeps(Rule.FLOOR_BEFORE_PUT):
        told = yield from _raise_floor(me, version)
        stored = yield from _put(me, version, deleted, intended)
    else:
        stored = yield from _put(me, version, deleted, intended)
        told = yield from _raise_floor(me, version)
    if me.setup.deferred and intended and not told:
        yield from _leave_repair(me, version)
    yield end_write(me, version, deleted, bool(stored), batch)


def _leave_repair(me: Me, version: int) -> Program:
    """Redis did not hear of the commit: a transaction of its own leaves a row for it."""
    if me.setup.keeps(Rule.UNTOLD_LEAVES_REPAIR):
        yield note_repair(me)
        yield postgres.leave_repair(me, version)
        yield close_repair(me)


def _intend(me: Me, may_ask: bool) -> Program:
    if not me.setup.keeps(Rule.INTENT_BEFORE_COMMIT):
        return True
    try:
        if not me.setup.l2:
            yield from ask(redis.publish(me, Op.INTENT, 0))
            return True
        if not may_ask:
            return False
        yield from ask(redis.intent(me))
    except DownError:
        return False
    return True


def _commit(me: Me, stamp: int, deleted: bool, refused: bool, intended: bool) -> Program:
    repair = not intended and (me.setup.l2 or me.setup.keeps(Rule.UNTOLD_WITHOUT_L2_LEAVES_REPAIR))
    if repair:
        yield note_repair(me)
    if me.setup.deferred:
        if me.setup.locks:
            yield postgres.lock(me, deleted)
        answer = yield postgres.commit_deferred(me, stamp, deleted, repair)
    else:
        answer = yield (postgres.refuse(me) if refused else postgres.commit(me, stamp, deleted, repair))
    if repair and me.setup.keeps(Rule.SKIP_OUTLASTS_COMMIT):
        yield close_repair(me)
    if answer is REFUSED or (answer is UNKNOWN and not me.setup.keeps(Rule.UNKNOWN_LEAVES_INTENT)):
        yield from _abandon(me, intended)
    if answer is REFUSED or answer is UNKNOWN:
        raise CommitError
    return answer


def _meet_ledger(me: Me) -> Program:
    """What is pending is to be older than the version of this write."""
    try:
        pending = yield from ask(ledger.read(me))
    except DownError:
        pending = None
    version = yield stamp_late(me, pending.version if pending is not None else 0)
    return version


@step(name="stamp")
def stamp_late(world: World, me: Me, pending: int) -> Outcomes:
    """A stamp above what is pending in the ledger and in the own buffer."""
    proc = memory.observe(world.procs[me.proc], pending)
    slot = buffer.peek(proc, me.setup)
    proc, version = memory.stamp(memory.observe(proc, slot.version) if slot is not None else proc, me.proc)
    return [(world.with_proc(me.proc, proc), version)]


def _raise_floor(me: Me, version: int) -> Program:
    """Own older writes are not read any more, and hand-offs of older ones are refused; whether the ledger heard."""
    yield let_go(me, version)
    try:
        if me.setup.keeps(Rule.SYNC_RAISES_FLOOR):
            yield from ask(ledger.done(me, version))
    except DownError:
        return False
    return True


@step()
def let_go(world: World, me: Me, version: int) -> Outcomes:
    """The own buffer: superseded, and confirmed, since L3 has something newer."""
    proc, setup = buffer.supersede(world.procs[me.proc], version), me.setup
    proc, left = buffer.confirm(proc, version)
    if left and left < version:
        proc = memory.forget(proc, setup, version)
    return [(world.with_proc(me.proc, proc), None)]


def _abandon(me: Me, intended: bool) -> Program:
    if intended and me.setup.l2:
        try:
            yield from ask(redis.abandon(me))
        except DownError:
            pass


def _put(me: Me, version: int, deleted: bool, intended: bool) -> Program:
    try:
        if not me.setup.l2 and intended:
            yield from ask(redis.publish(me, Op.DELETE if deleted else Op.SET, version))
        elif intended:
            stored = yield from ask(redis.put(me, version, deleted))
            return stored
    except DownError:
        if not me.setup.l2 and me.setup.keeps(Rule.UNTOLD_WITHOUT_L2_LEAVES_REPAIR):
            yield note_repair(me)
            yield postgres.leave_repair(me, version)
            yield close_repair(me)
        return None
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


def update_by_hand(me: Me) -> Program:
    """Somebody changes the row without Strata, and then invalidates the key."""
    yield postgres.update_by_hand(me)
    yield from invalidate(me)


@step()
def wait_for_call(world: World, me: Me) -> Outcomes:
    """The repairs' thread sleeps until it is woken, or there is something to be found by a look.

    Whatever a fault leaves behind that ends, is seen to by whom it woke; the looks are for those that do not end.
    """
    proc = world.procs[me.proc]
    lasting = any(other.severed or other.mute for other in world.procs) and me.setup.keeps(Rule.LOOK_FOR_REPAIRS)
    if proc.severed or proc.mute or not (proc.woken or (lasting and world.row.repairs)):
        return []
    return [(world.with_proc(me.proc, proc._replace(woken=False)), None)]


@step(Where.REDIS)
def ping(world: World, me: Me) -> Outcomes:
    """L2 answers; what the look that begins now will have seen to: a turn, and doubts."""
    proc = world.procs[me.proc]
    return [(world, (0 if proc.skipped == UNDER_WAY else proc.skipped, proc.doubts))]


@step()
def something_left(world: World, me: Me) -> Outcomes:
    """Whether the repairs' thread is to try again after a pause, which has no end where it cannot succeed."""
    proc = world.procs[me.proc]
    if proc.severed or proc.mute:
        return []
    return [(world, proc.skipped != 0 or proc.doubts > 0)]


@step()
def seen_to(world: World, me: Me, turn: int, doubts: int) -> Outcomes:
    """L2 may be asked again, unless there was another write, or no answer, meanwhile."""
    proc = world.procs[me.proc]
    if turn and proc.skipped == turn:
        proc = proc._replace(skipped=0)
    proc = proc._replace(doubts=max(0, proc.doubts - doubts))
    return [(world.with_proc(me.proc, proc), None)]


def repairs(me: Me) -> Program:
    """The thread that repairs L2; it never ends."""
    while True:
        yield wait_for_call(me)
        while not (yield from _attempt(me)):
            if not (yield something_left(me)):
                break


def _attempt(me: Me) -> Program:
    try:
        turn, doubts = yield from ask(ping(me))
        while rows := (yield postgres.take_repairs(me)):
            if me.setup.deferred and me.setup.keeps(Rule.REPAIR_RAISES_FLOOR):
                yield from ask(ledger.done(me, max(rows)))
            yield from ask(redis.repair(me, max(rows)))
            if me.setup.keeps(Rule.REPAIR_REACHES_ITSELF):
                yield drop_older(me, max(rows))
            yield postgres.repairs_done(me, rows)
    except DownError:
        return False
    yield seen_to(me, turn, doubts)
    return True


@step()
def drop_older(world: World, me: Me, version: int) -> Outcomes:
    """As another process's message: what is older leaves L1, and is not read from the buffer."""
    proc = buffer.supersede(memory.forget(world.procs[me.proc], me.setup, version), version)
    return [(world.with_proc(me.proc, proc), None)]
