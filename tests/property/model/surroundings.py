"""What happens to the processes: messages arrive, things expire and are evicted, and at most a few faults.

Everything here may happen at any time, or never; only what brings a scenario to rest (messages, a link or a server
that comes back) is sure to happen in the end.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.property.model import memory
from tests.property.model.promises import acknowledged
from tests.property.model.rules import Rule, Setup
from tests.property.model.state import FAR, NODES, Intent, Lease, Ledger, Link, Message, Op, Pending, Proc, Value, World
from tests.property.model.step import DOWN, OVER, UNKNOWN, Step, Where


class Fault(enum.Enum):
    """What may go wrong, once a scenario."""

    KILL = "a process is killed"
    RESTART = "Redis starts again, empty"
    EVICT_INTENT = "Redis evicts an intent"
    EARLY_EXPIRY = "a writer stands still until its intent has expired"
    LINK = "a subscription breaks, and what was on its way is lost"
    HICCUP = "Redis answers nobody for a moment, in which no link breaks"
    OUTAGE = "Redis answers nobody for a while, and every link breaks"
    PARTITION = "one process cannot reach Redis for a while"
    SEVERED = "one process cannot reach Redis any more"
    MUTE = "one process may not tell of anything any more"
    ALL_MUTE = "nobody may tell of anything any more"
    LATE = "an answer of Redis is lost; the script may be run later, or never"
    AMBIGUOUS = "the answer to a COMMIT is lost; it may happen later, or never"
    FORGED = "somebody puts a version of the far future into a message, a value, a floor or an entry"


class Change(NamedTuple):
    """Something that happened. `sure`: it happens in the end, if nothing else does."""

    what: str
    world: World
    sure: bool = False


Source = Callable[[World, Setup], Iterator[Change]]


class Surroundings:
    """Everything that may happen in one scenario."""

    def __init__(
        self, setup: Setup, faults: frozenset[Fault], threads: tuple[int, ...], killable: frozenset[int]
    ) -> None:
        self._setup = setup
        self._faults = faults
        self._threads = threads  # the process of each thread
        self._killable = killable
        self.late = frozenset(
            where for fault, where in ((Fault.LATE, Where.REDIS), (Fault.AMBIGUOUS, Where.COMMIT)) if fault in faults
        )
        possible: list[tuple[Fault, Source]] = [
            (Fault.KILL, self._kill),
            (Fault.RESTART, _restart),
            (Fault.EVICT_INTENT, _evict_intent),
            (Fault.EARLY_EXPIRY, _early_expiry),
            (Fault.LINK, _break_link),
            (Fault.HICCUP, _hiccup),
            (Fault.OUTAGE, _go_down),
            (Fault.PARTITION, self._part),
            (Fault.SEVERED, self._sever),
            (Fault.MUTE, self._mute),
            (Fault.ALL_MUTE, _mute_all),
            (Fault.FORGED, _forge),
        ]
        self._sources = [source for fault, source in possible if fault in faults]

    def changes(self, world: World) -> Iterator[Change]:
        """What may happen now."""
        setup = self._setup
        yield from _deliveries(world, setup)
        yield from _recoveries(world, setup)
        yield from _late(world)
        yield from _expiries(world, setup)
        yield from _losses(world, setup)
        if world.left.faults:
            for source in self._sources:
                yield from source(world, setup)

    def _kill(self, world: World, setup: Setup) -> Iterator[Change]:
        for number in self._killable:
            if world.procs[number].alive:
                yield Change(f"process {number} is killed", spend(self._killed(world, setup, number)))

    def _killed(self, world: World, setup: Setup, number: int) -> World:
        mine = [thread for thread, proc in enumerate(self._threads) if proc == number]
        nodes = tuple(OVER if thread in mine else node for thread, node in enumerate(world.nodes))
        locks = frozenset(lock for lock in world.row.locks if lock[0] not in mine)
        # What this process had not handed off is lost with it, as the durability MEMORY allows.
        safe = max(world.procs[number].handed, world.row.version, world.row.buried)
        kept = [
            item for item in world.history if not setup.deferred or item[0] % NODES != number + 1 or item[0] <= safe
        ]
        return world.with_proc(number, Proc(alive=False))._replace(
            nodes=nodes,
            history=tuple(kept),
            row=world.row._replace(locks=locks),
            intending=frozenset(token for token in world.intending if int(token[1:].split(".")[0]) not in mine),
        )

    def _part(self, world: World, setup: Setup) -> Iterator[Change]:
        for number in self._killable:
            proc = world.procs[number]
            if proc.alive:
                parted = _unlinked(proc, number in setup.deaf)._replace(cut=True)
                yield Change(f"process {number} is cut off from Redis", spend(world.with_proc(number, parted)))

    def _sever(self, world: World, setup: Setup) -> Iterator[Change]:
        for number in self._killable:
            severed = _unlinked(world.procs[number], number in setup.deaf)._replace(cut=True, severed=True)
            yield Change(f"process {number} cannot reach Redis any more", spend(world.with_proc(number, severed)))

    def _mute(self, world: World, setup: Setup) -> Iterator[Change]:
        for number in self._killable:
            yield Change(f"process {number} may not tell any more", spend(_muted(world, setup, number)))

    def unanswered(self, world: World, step: Step) -> World | None:
        """The world in which the answer to this step is lost, if that may happen."""
        if step.where not in self.late or not world.left.faults:
            return None
        return spend(world)._replace(late=step)


def _muted(world: World, setup: Setup, number: int) -> World:
    """Its beats fail as well: it drops its subscription, and distrusts L2 until it can tell again."""
    proc = world.procs[number]
    if setup.keeps(Rule.BEATS_PROVE_TELLING):
        proc = _unlinked(proc, number in setup.deaf)
        proc = proc._replace(doubts=proc.doubts + 1) if setup.l2 and setup.l3 else proc
    return world.with_proc(number, proc._replace(mute=True))


def _unlinked(proc: Proc, deaf: bool) -> Proc:
    """The subscription is broken, and what was on its way is lost."""
    return proc if deaf or not proc.alive else proc._replace(link=Link.CUT, inbox=())


def spend(world: World) -> World:
    """A fault has happened."""
    return world._replace(left=world.left._replace(faults=world.left.faults - 1))


def lost_answer(step: Step) -> object:
    """What a thread is told when its answer is lost."""
    return UNKNOWN if step.where is Where.COMMIT else DOWN


def _deliveries(world: World, setup: Setup) -> Iterator[Change]:
    for number, proc in enumerate(world.procs):
        if proc.inbox and proc.link in (Link.FINE, Link.CUT):
            message = proc.inbox[0]
            told = f"process {number} hears {message.op.name} {message.version or ''} of {message.source}"
            after = memory.deliver(world, number, setup)
            if setup.calm and message.op in (Op.SET, Op.DELETE):
                # Without any fault, what an instance has heard of, its reads show.
                after = acknowledged(after, setup, number, message.version)
            yield Change(told, after, True)


def _recoveries(world: World, setup: Setup) -> Iterator[Change]:
    if world.down:
        yield Change("Redis answers again", world._replace(down=False), True)
    for number, proc in enumerate(world.procs):
        if proc.cut and not proc.severed:
            yield Change(
                f"process {number} can reach Redis again", world.with_proc(number, proc._replace(cut=False)), True
            )
        if proc.link is Link.CUT and not proc.inbox:
            unsure = proc._replace(link=Link.UNSURE)
            yield Change(f"process {number} notices that its link is gone", world.with_proc(number, unsure), True)
        elif proc.link is Link.UNSURE and not proc.cut and not proc.mute and not world.down:
            back = proc._replace(link=Link.BACK)
            yield Change(f"process {number} subscribes again", world.with_proc(number, back), True)
        elif proc.link is Link.BACK:
            sure = world.with_proc(number, memory.confirmed(proc, setup))
            yield Change(f"process {number} has its link again", sure, True)


def _late(world: World) -> Iterator[Change]:
    step = world.late
    if step is None:
        return
    gone = world._replace(late=None)
    if step.where is Where.COMMIT or not (
        world.down or step.name == "ledger hand-off"
    ):  # that one is refused when late
        for after, _ in step.outcomes(gone):
            yield Change(f"late: {step.name}", _ended(after, step), True)
    yield Change(f"lost: {step.name}", _ended(gone, step), True)


def _ended(world: World, step: Step) -> World:
    """The commit that was on its way has happened, or never will."""
    if step.where is not Where.COMMIT:
        return world
    return world._replace(intending=world.intending - {step.args[0].token})


def _expiries(world: World, setup: Setup) -> Iterator[Change]:
    for number, proc in enumerate(world.procs):
        if proc.l1 is not None and proc.l1.brief:
            gone = world.with_proc(number, proc._replace(l1=None))
            yield Change(f"the grace of L1 in process {number} ends", gone, True)
    held = world.l2
    if isinstance(held, Lease):
        yield Change("the lease expires", world._replace(l2=None))
    elif isinstance(held, Intent):
        for token in held.writers:
            if token not in world.intending or not setup.keeps(Rule.INTENT_OUTLIVES_COMMIT):
                yield Change(f"the intent of {token} expires", _without(world, held, token))


def _without(world: World, held: Intent, token: str) -> World:
    rest = held.writers - {token}
    return world._replace(l2=held._replace(writers=rest) if rest else None)


def _losses(world: World, setup: Setup) -> Iterator[Change]:
    # Where L2 is the lowest tier it does not evict, but tombstones expire.
    if world.left.evictions and isinstance(world.l2, Value) and (setup.l3 or world.l2.deleted):
        left = world.left._replace(evictions=world.left.evictions - 1)
        yield Change("L2 evicts the value", world._replace(l2=None, left=left))
    if world.left.drops:
        left = world.left._replace(drops=world.left.drops - 1)
        for number, proc in enumerate(world.procs):
            if proc.l1 is not None:
                dropped = world.with_proc(number, proc._replace(l1=None))
                yield Change(f"L1 of process {number} evicts the key", dropped._replace(left=left))


def _mute_all(world: World, setup: Setup) -> Iterator[Change]:
    for number in range(len(world.procs)):
        world = _muted(world, setup, number)
    yield Change("Redis takes no writes and messages any more", spend(world))


def _restart(world: World, setup: Setup) -> Iterator[Change]:
    procs = tuple(_unlinked(proc, number in setup.deaf)._replace(reports=()) for number, proc in enumerate(world.procs))
    ledger = Ledger(epoch=world.ledger.epoch + 1)
    yield Change("Redis starts again, empty", spend(world)._replace(l2=None, procs=procs, ledger=ledger))


def _evict_intent(world: World, setup: Setup) -> Iterator[Change]:
    if isinstance(world.l2, Intent):
        yield Change("Redis evicts the intent", spend(world)._replace(l2=None))


def _early_expiry(world: World, setup: Setup) -> Iterator[Change]:
    if isinstance(world.l2, Intent):
        for token in world.l2.writers & world.intending:
            yield Change(f"the intent of {token} expires early", spend(_without(world, world.l2, token)))


def _break_link(world: World, setup: Setup) -> Iterator[Change]:
    for number, proc in enumerate(world.procs):
        if proc.alive and number not in setup.deaf and proc.link is Link.FINE:
            for kept in range(len(proc.inbox) + 1):
                # What had arrived is still handled; what was on its way is lost.
                cut = proc._replace(link=Link.CUT, inbox=proc.inbox[:kept])
                yield Change(f"the link of process {number} breaks", spend(world.with_proc(number, cut)))


def _forge(world: World, setup: Setup) -> Iterator[Change]:
    for number, proc in enumerate(world.procs):
        if proc.alive and number not in setup.deaf and proc.link is Link.FINE:
            for op in (Op.SET, Op.PURGE):
                heard = proc._replace(inbox=(*proc.inbox, Message(op, FAR, -1)))
                yield Change(f"process {number} is sent a forged {op.name}", spend(world.with_proc(number, heard)))
    if setup.l2:
        for deleted in (False, True):
            forged = world._replace(l2=Value(FAR, deleted, False, False))
            yield Change("somebody forges the value", spend(forged))
    if setup.deferred:
        yield Change("somebody forges a floor", spend(world._replace(ledger=world.ledger._replace(floor=FAR))))
        entry = world.ledger._replace(entry=Pending(FAR, False, 0))
        if world.ledger.entry is None:
            yield Change("somebody forges an entry", spend(world._replace(ledger=entry)))


def _hiccup(world: World, setup: Setup) -> Iterator[Change]:
    yield Change("Redis stops answering", spend(world)._replace(down=True))


def _go_down(world: World, setup: Setup) -> Iterator[Change]:
    procs = tuple(_unlinked(proc, number in setup.deaf) for number, proc in enumerate(world.procs))
    yield Change("Redis stops answering, and links break", spend(world)._replace(down=True, procs=procs))
