"""Write-behind: the programs of `strata/writebehind/service.py`, of `flusher`, `handoff` and `redrive` of its `writer`,
and of `persister`, `settle` and `giving_up` of its `persist`."""

from __future__ import annotations

import enum
from typing import NamedTuple

from tests.property.model import buffer, ledger, memory, postgres, redis
from tests.property.model.ledger import Answer, Fate, Verdict
from tests.property.model.postgres import REFUSED
from tests.property.model.promises import acknowledged
from tests.property.model.rules import Rule
from tests.property.model.state import FAR, Entry, Pending, Proc, Report, Slot, World
from tests.property.model.step import UNKNOWN, DownError, Me, Outcomes, Program, Where, ask, step
from tests.property.model.through import close_repair, note_repair

# -- the caller -----------------------------------------------------------------------------------------------------


@step()
def stamp(world: World, me: Me) -> Outcomes:
    """The version of a deferred write."""
    proc, version = memory.stamp(world.procs[me.proc], me.proc)
    return [(world.with_proc(me.proc, proc), version)]


@step()
def put(world: World, me: Me, version: int, deleted: bool) -> Outcomes:
    """Into the dirty buffer; whether it is what reads get now."""
    proc, newest = buffer.put(world.procs[me.proc], version, deleted)
    history = tuple(sorted({*world.history, (version, deleted)}))
    return [(world.with_proc(me.proc, proc)._replace(history=history), newest)]


@step()
def stamp_and_put(world: World, me: Me, deleted: bool) -> Outcomes:
    """Both in one hold of the buffer's lock."""
    ((stamped, version),) = stamp(me).outcomes(world)
    ((after, newest),) = put(me, version, deleted).outcomes(stamped)
    return [(after, (version, newest))]


@step()
def show(world: World, me: Me, version: int, deleted: bool, newest: bool, direct: bool = False) -> Outcomes:
    """Into L1, and the write returns."""
    proc, setup = world.procs[me.proc], me.setup
    if setup.keeps(Rule.WRITTEN_IF_STILL_READ):
        slot = buffer.peek(proc, setup)
        newest = newest and (slot is None or slot.version == version) and (direct or slot is not None)
    if newest and not deleted:
        proc = memory.write(proc, setup, Entry(version, True, setup.kept))
    else:
        proc = memory.forget(proc, setup, version)
    return [(acknowledged(world.with_proc(me.proc, proc), setup, me.proc, version), None)]


@step(name="write")
def write_at_once(world: World, me: Me, deleted: bool) -> Outcomes:
    """Stamp, buffer and L1, with nothing between."""
    ((after, (version, newest)),) = stamp_and_put(me, deleted).outcomes(world)
    return show(me, version, deleted, newest).outcomes(after)


def write(me: Me, deleted: bool = False) -> Program:
    """One deferred `set` or `delete`."""
    if me.setup.prompt:
        yield write_at_once(me, deleted)
        return
    if me.setup.keeps(Rule.STAMP_IN_BUFFER):
        version, newest = yield stamp_and_put(me, deleted)
    else:
        version = yield stamp(me)
        newest = yield put(me, version, deleted)
    yield show(me, version, deleted, newest)


def around(me: Me, deleted: bool = False) -> Program:
    """A deferred write for which the buffer has no room: straight to L3 (`Direct.one`)."""
    version, is_down = yield stamp_direct(me)
    repair = is_down or me.setup.keeps(Rule.DIRECT_LEAVES_REPAIR)
    if repair:
        yield note_repair(me)
    applied = yield postgres.apply(me, version, deleted, -1, True, repair)
    if repair:
        yield close_repair(me)
    if applied is UNKNOWN:
        yield give_up(me)
        return
    try:
        if not is_down:
            yield from ask(redis.settle(me, applied, deleted, False, True))
    except DownError:
        if not repair:
            yield give_up(me)
            return
    yield show_direct(me, version, deleted, applied)


@step(name="stamp")
def stamp_direct(world: World, me: Me) -> Outcomes:
    """As `stamp`; and whether L2 is known not to answer, which it may be where it does not."""
    outcomes = []
    for after, version in stamp(me).outcomes(world):
        outcomes.append((after, (version, False)))
        if world.down or world.procs[me.proc].cut:
            outcomes.append((after, (version, True)))
    return outcomes


@step()
def show_direct(world: World, me: Me, version: int, deleted: bool, applied: int) -> Outcomes:
    """As `show`: into L1 if L3 holds just what was written."""
    return show(me, version, deleted, applied == version, True).outcomes(world)


@step()
def give_up(world: World, me: Me) -> Outcomes:
    """The write raises, although L3 may have it."""
    return [(world.with_proc(me.proc, memory.release(world.procs[me.proc], me.thread)), None)]


# -- the flusher ----------------------------------------------------------------------------------------------------


class Chore(enum.IntEnum):
    """What the flusher does next."""

    HAND_OFF = 0
    COLLECT = 1
    PROBE = 2


class Job(NamedTuple):
    """A chore, with the write to hand off or the report that came."""

    chore: Chore
    slot: Slot | None = None


@step(name="flusher")
def look_for_work(world: World, me: Me) -> Outcomes:
    """Wait until there is something to hand off, or to hear."""
    proc = world.procs[me.proc]
    found = []
    if proc.slot is not None and proc.slot.unsent:
        found.append((world, Job(Chore.HAND_OFF, proc.slot)))
    if proc.reports:
        found.append((world, Job(Chore.COLLECT)))
    elif list(ledger.probe(me).outcomes(world)):
        found.append((world, Job(Chore.PROBE)))
    return found


def flusher(me: Me) -> Program:
    """The thread that hands off and reads outcomes; it never ends."""
    while True:
        job = yield look_for_work(me)
        try:
            if job.chore is Chore.HAND_OFF:
                yield from _hand_off(me, job.slot)
            elif job.chore is Chore.COLLECT:
                report = yield from ask(collect(me))
                yield from _learn(me, report)
            else:
                fate = yield from ask(probe_now(me))
                if fate is not None:
                    yield from _believe(me, fate)
        except DownError:
            pass


def _hand_off(me: Me, slot: Slot) -> Program:
    overtaken = slot.superseded > slot.version
    answer = yield from ask(ledger.hand_off(me, slot.version, slot.deleted, overtaken))
    if me.setup.apart:
        yield check_epoch(me, answer.epoch)
        if answer.verdict <= Verdict.THERE and not overtaken:
            yield from ask(redis.pend(me, slot.version, slot.deleted))
    yield after_hand_off(me, slot.version, answer)
    if answer.verdict is Verdict.UNEXPECTED:
        yield from _straight(me, slot)


def _straight(me: Me, slot: Slot) -> Program:
    """What was overtaken goes to L3 as it is (`Direct.overtaken`): L3 has something newer, or takes it."""
    version = yield from _apply(me, Pending(slot.version, slot.deleted, me.proc))
    if version is UNKNOWN:
        return
    yield from _learn(me, Report(slot.version, False, False))


@step()
def check_epoch(world: World, me: Me, epoch: int) -> Outcomes:
    """What the answer tells of the ledger."""
    return [(world.with_proc(me.proc, _check_epoch(world.procs[me.proc], me, epoch)), None)]


def _check_epoch(proc: Proc, me: Me, epoch: int) -> Proc:
    """Another epoch than the known one means that the ledger was lost: everything kept is unsent again."""
    if proc.epoch != epoch:
        proc = buffer.again(proc, 0)
    return proc._replace(epoch=epoch)


@step()
def after_hand_off(world: World, me: Me, version: int, answer: Answer) -> Outcomes:
    """What the ledger said, for buffer and L1."""
    proc, setup = _check_epoch(world.procs[me.proc], me, answer.epoch), me.setup
    if answer.verdict is Verdict.UNEXPECTED:
        return [(world.with_proc(me.proc, proc), None)]  # the newer one was only heard of: it stays unsent
    if answer.verdict <= Verdict.THERE:
        return [(world.with_proc(me.proc, buffer.sent(proc, setup, version)), None)]
    proc = memory.forget(memory.observe(proc, answer.version), setup, answer.version)
    if answer.verdict is Verdict.PERSISTED:
        proc, _ = buffer.confirm(proc, answer.version)
    else:
        proc = buffer.sent(buffer.supersede(proc, answer.version), setup, version)
    return [(world.with_proc(me.proc, proc), None)]


@step(Where.REDIS)
def collect(world: World, me: Me) -> Outcomes:
    """The oldest outcome that was sent to this process."""
    proc = world.procs[me.proc]
    if not proc.reports:
        return [(world, None)]
    return [(world.with_proc(me.proc, proc._replace(reports=proc.reports[1:])), proc.reports[0])]


@step(Where.REDIS)
def probe_now(world: World, me: Me) -> Outcomes:
    """As `ledger.probe`; None where nothing is to be asked any more."""
    return list(ledger.probe(me).outcomes(world)) or [(world, None)]


def _learn(me: Me, report: Report | None) -> Program:
    """An outcome."""
    if report is None or (report.version >= FAR and me.setup.keeps(Rule.FAR_OUTCOME_ENDS_NO_WRITE)):
        return
    if report.failed:
        yield drop_write(me, report.version)
        yield forget(me, report.version + 1)
        return
    left = yield confirm(me, report.version)
    if report.changed or (left and left < report.version):
        yield forget(me, report.version + report.changed)


def _believe(me: Me, fate: Fate) -> Program:
    """What a probe found."""
    if fate.persisted >= fate.version:
        yield from _learn(me, Report(fate.persisted, False, False))
    elif fate.dead:
        yield drop_write(me, fate.version)
        yield forget(me, fate.version + 1)
    elif fate.pending < fate.version:
        slot = yield hand_off_again(me, fate.version)
        if slot is not None:
            yield from _straight(me, slot)


@step()
def confirm(world: World, me: Me, version: int) -> Outcomes:
    """L3 has this version: the buffer lets go of it. Answers the version that left."""
    proc, left = buffer.confirm(world.procs[me.proc], version)
    if left and me.setup.keeps(Rule.CONFIRM_VOIDS_CLAIMS):
        proc = memory.void(proc, me.setup)
    return [(world.with_proc(me.proc, proc), left)]


@step(name="L1 forget")
def forget(world: World, me: Me, below: int) -> Outcomes:
    """Drop what is older from L1."""
    return [(world.with_proc(me.proc, memory.forget(world.procs[me.proc], me.setup, below)), None)]


@step()
def drop_write(world: World, me: Me, version: int) -> Outcomes:
    """The write was given up."""
    return [(world.with_proc(me.proc, buffer.drop(world.procs[me.proc], version)), None)]


@step()
def hand_off_again(world: World, me: Me, version: int) -> Outcomes:
    """The ledger does not have it after all. Answers it where it was overtaken, and goes to L3 directly."""
    proc = world.procs[me.proc]
    slot = proc.slot
    if slot is not None and slot.superseded > slot.version:
        return [(world, slot)]
    return [(world.with_proc(me.proc, buffer.again(proc, version)), None)]


# -- the worker -----------------------------------------------------------------------------------------------------


def worker(me: Me) -> Program:
    """A worker of the fleet; it never ends."""
    while True:
        try:
            entry = yield from ask(ledger.claim(me))
            yield from persist(me, entry)
        except DownError:
            pass


def giving_up(me: Me) -> Program:
    """Who makes known what was buried by processes that died over it."""
    while True:
        try:
            letter = yield from ask(ledger.untold(me))
            yield from _make_known(me, letter)
        except DownError:
            pass


def persist(me: Me, entry: Pending) -> Program:
    """One claimed entry: L3, then L2 and the bus, then the ledger, then whoever wrote it."""
    if entry.version >= FAR and me.setup.keeps(Rule.FAR_ENTRY_GIVES_WAY):
        if (yield from ask(ledger.bury(me, entry))):
            yield from _make_known(me, entry)
        return
    version = yield from _apply(me, entry)
    if version is REFUSED:
        if (yield from ask(ledger.bury(me, entry))):
            yield from _make_known(me, entry)
    elif version is not UNKNOWN:
        yield from _succeeded(me, entry, version)


def _succeeded(me: Me, entry: Pending, version: int) -> Program:
    changed = me.setup.kept and version == entry.version and not entry.deleted
    settled = not me.setup.keeps(Rule.SETTLE_BEFORE_DONE)
    if not settled:
        yield from _settle(me, entry, version, changed)
    yield from ask(ledger.done(me, version))
    if settled:
        yield from _settle(me, entry, version, changed)
    yield from ask(ledger.send(me, entry.origin, Report(version, False, changed)))


def _apply(me: Me, entry: Pending) -> Program:
    buried = -1
    if me.setup.locks:
        buried = yield postgres.lock(me, entry.deleted)
    answer = yield postgres.apply(me, entry.version, entry.deleted, buried)
    return answer


def _settle(me: Me, entry: Pending, version: int, changed: bool) -> Program:
    try:
        yield from ask(redis.settle(me, version, entry.deleted, changed, version > entry.version))
    except DownError:
        if not me.setup.apart:
            raise
        # A repair removes what is older than its version: one more, so that a pending value of this one goes too.
        yield postgres.leave_repair(me, version + 1)


def _make_known(me: Me, letter: Pending) -> Program:
    purged = True
    try:
        yield from ask(redis.purge(me, letter.version))
    except DownError:
        purged = False
    yield from ask(ledger.send(me, letter.origin, Report(letter.version, True, False)))
    if purged:
        yield from ask(ledger.told(me, letter))
