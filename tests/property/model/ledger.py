"""The scripts of the ledger, one step each. They mirror `strata/writebehind/ledger/scripts/*.lua`."""

from __future__ import annotations

import enum
from typing import NamedTuple

from tests.property.model.redis import pended, say
from tests.property.model.rules import Rule
from tests.property.model.state import FAR, Ledger, Op, Pending, Report, World
from tests.property.model.step import Me, Outcomes, Where, step


class Verdict(enum.IntEnum):
    """What became of a hand-off."""

    TAKEN = 0
    THERE = 1
    PERSISTED = 2
    NEWER = 3
    UNEXPECTED = 4


class Answer(NamedTuple):
    """The verdict, the version that it is about, and the ledger's epoch."""

    verdict: Verdict
    version: int
    epoch: int


class Fate(NamedTuple):
    """What the ledger knows of a write of this version."""

    version: int
    pending: int
    persisted: int
    dead: bool


def believed(ledger: Ledger, me: Me) -> Ledger:
    """The shard as hand-offs and reads take it: without a floor, or an entry, of the far future."""
    keeps = me.setup.keeps
    if ledger.floor >= FAR and keeps(Rule.FAR_FLOOR_REFUSES_NOTHING):
        ledger = ledger._replace(floor=0)
    if ledger.entry is not None and ledger.entry.version >= FAR and keeps(Rule.FAR_ENTRY_GIVES_WAY):
        ledger = ledger._replace(entry=None)
    return ledger


@step(Where.REDIS, "ledger read")
def read(world: World, me: Me) -> Outcomes:
    """HGET: what is pending."""
    return [(world, believed(world.ledger, me).entry)]


@step(Where.REDIS, "ledger hand-off")
def hand_off(world: World, me: Me, version: int, deleted: bool, overtaken: bool) -> Outcomes:
    """handoff.lua: into the ledger if newer; where L2 is on this server, into L2 and on the bus too.

    What was `overtaken` is only asked after.
    """
    ledger, keeps = believed(world.ledger, me), me.setup.keeps
    entry, epoch = ledger.entry, ledger.epoch
    if ledger.floor >= version and keeps(Rule.FLOOR_REFUSES_OLD_HANDOFF):
        answer = Answer(Verdict.PERSISTED, ledger.floor, epoch)
    elif entry is not None and entry.version == version:
        answer = Answer(Verdict.THERE, version, epoch)
    elif entry is not None and entry.version > version and keeps(Rule.NEWER_STAYS_IN_LEDGER):
        answer = Answer(Verdict.NEWER, entry.version, epoch)
    elif overtaken:
        answer = Answer(Verdict.UNEXPECTED, version, epoch)
    else:
        answer = Answer(Verdict.TAKEN, version, epoch)
        world = world._replace(ledger=ledger._replace(entry=Pending(version, deleted, me.proc)))
    taken = answer.verdict in (Verdict.TAKEN, Verdict.THERE)
    if not me.setup.apart and not overtaken and (taken or not keeps(Rule.REFUSED_WHOLE)):
        world = pended(world, me, version, deleted)
        if answer.verdict is Verdict.TAKEN:
            world = say(world, me, Op.DELETE if deleted else Op.SET, version)
    safe = answer.verdict is not Verdict.UNEXPECTED
    return [(_handed(world, me, version) if safe else world, answer)]


def _handed(world: World, me: Me, version: int) -> World:
    proc = world.procs[me.proc]
    return world.with_proc(me.proc, proc._replace(handed=version)) if version > proc.handed else world


@step(Where.REDIS, "ledger claim")
def claim(world: World, me: Me) -> Outcomes:
    """claim.lua. Leases are left out: applying twice is harmless, so that every entry may be claimed at any time."""
    entry = world.ledger.entry
    return [] if entry is None else [(world, entry)]


@step(Where.REDIS, "ledger done")
def done(world: World, me: Me, version: int) -> Outcomes:
    """done.lua: what is not newer leaves the ledger, the floor rises, older dead letters go."""
    ledger, keeps = world.ledger, me.setup.keeps
    ledger = ledger._replace(floor=believed(ledger, me).floor)
    entry = ledger.entry
    if entry is not None and (entry.version <= version or not keeps(Rule.DONE_EXACT_VERSION)):
        entry = None
    ledger = ledger._replace(
        entry=entry,
        floor=max(ledger.floor, version),
        untold=frozenset(letter for letter in ledger.untold if letter.version > version),
    )
    return [(world._replace(ledger=ledger), True)]


@step(Where.REDIS, "ledger bury")
def bury(world: World, me: Me, letter: Pending) -> Outcomes:
    """bury.lua: a write that is given up becomes a dead letter, unless something newer has made it void."""
    ledger, version = world.ledger, letter.version
    entry = ledger.entry if letter.version >= FAR else believed(ledger, me).entry
    ledger = ledger._replace(floor=believed(ledger, me).floor)
    if ledger.floor >= version or (entry is not None and entry.version > version):
        return [(world, False)]
    if entry is not None and entry.version == version:
        entry = None
    ledger = ledger._replace(entry=entry, dead=ledger.dead | {version}, untold=ledger.untold | {letter})
    procs = tuple(proc._replace(seen=0) if proc.seen == version else proc for proc in world.procs)
    return [(world._replace(ledger=ledger, procs=procs, given_up=world.given_up | {version}), True)]


@step(Where.REDIS, "ledger untold")
def untold(world: World, me: Me) -> Outcomes:
    """HKEYS: letters that were buried and perhaps not made known."""
    return [(world, letter) for letter in sorted(world.ledger.untold)]


@step(Where.REDIS, "ledger told")
def told(world: World, me: Me, letter: Pending) -> Outcomes:
    """HDEL: the letter was made known."""
    ledger = world.ledger
    return [(world._replace(ledger=ledger._replace(untold=ledger.untold - {letter})), True)]


@step(Where.REDIS, "send outcome")
def send(world: World, me: Me, origin: int, report: Report) -> Outcomes:
    """outcome.lua: tell the process that wrote, if it still lives."""
    proc = world.procs[origin]
    if not proc.alive:
        return [(world, False)]
    if report in proc.reports:
        return [(world, True)]  # hearing it twice is hearing it once
    return [(world.with_proc(origin, proc._replace(reports=(*proc.reports, report))), True)]


@step(Where.REDIS, "probe")
def probe(world: World, me: Me) -> Outcomes:
    """probe.lua, for the write that was handed off; asked only where the answer is news."""
    slot, ledger = world.procs[me.proc].slot, believed(world.ledger, me)
    if slot is None or slot.unsent:
        return []
    fate = Fate(
        slot.version,
        ledger.entry.version if ledger.entry is not None else 0,
        ledger.floor,
        slot.version in ledger.dead,
    )
    if fate.persisted >= fate.version or fate.dead or fate.pending < fate.version:
        return [(world, fate)]
    return []
