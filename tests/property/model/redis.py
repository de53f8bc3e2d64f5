"""The scripts of L2, one step each, and the messages that they publish. They mirror `strata/l2/scripts/*.lua`."""

from __future__ import annotations

from tests.property.model.memory import forget
from tests.property.model.rules import Rule
from tests.property.model.state import FAR, Content, Intent, Lease, Link, Message, Op, Value, World
from tests.property.model.step import Me, Outcomes, Where, step

HEARS = (Link.FINE, Link.BACK)
FOR_READERS = frozenset({"L2 read", "L2 fill", "ledger read"})
"""Steps that change nothing that anybody would have to be told of."""


def say(world: World, me: Me, op: Op, version: int = 0) -> World:
    """Publish: into the inbox of every process whose subscription stands."""
    if me.proc >= 0 and world.procs[me.proc].mute:
        return world
    message = Message(op, version, me.proc)
    ignored = op in (Op.SET, Op.DELETE, Op.INTENT)  # by the sender, who has seen to its own L1
    deaf = me.setup.deaf
    procs = tuple(
        proc._replace(inbox=(*proc.inbox, message))
        if proc.alive and proc.link in HEARS and number not in deaf and not (ignored and number == me.proc)
        else proc
        for number, proc in enumerate(world.procs)
    )
    return world._replace(procs=procs)


def anonymous(me: Me) -> Me:
    """A sender whose messages nobody takes for his own."""
    return me._replace(proc=-1)


def spoiled(intent: Intent) -> Intent:
    """The intent, of whose writers none stores its value."""
    return intent._replace(spoiled=True)


def standing(world: World, me: Me) -> World:
    """common.lua's standing: a value of the far future goes where it is met."""
    held = world.l2
    if isinstance(held, Value) and held.version >= FAR and me.setup.keeps(Rule.FAR_VALUE_GIVES_WAY):
        return world._replace(l2=None)
    return world


def _older(held: Content, version: int) -> bool:
    return isinstance(held, Value) and held.version < version


@step(Where.REDIS, "L2 read")
def read(world: World, me: Me, lease: bool) -> Outcomes:
    """read.lua: what the key holds; where it holds nothing, or what nobody believes (discard.lua), a lease is left."""
    world = standing(world, me)
    if world.l2 is None and lease:
        return [(world._replace(l2=Lease(me.token)), Lease(me.token))]
    return [(world, world.l2)]


@step(Where.REDIS, "L2 fill")
def fill(world: World, me: Me, content: Value | None) -> Outcomes:
    """fill.lua: store what was loaded if the own lease still stands; None ends the lease."""
    held, setup = world.l2, me.setup
    mine = held == Lease(me.token)
    if not mine and not setup.keeps(Rule.EMPTY_KEY_REFUSES_FILL):
        mine = held is None
    if not mine and not setup.keeps(Rule.FILL_NEEDS_OWN_LEASE):
        mine = isinstance(held, Lease)
    if not mine:
        return [(world, False)]
    return [(world._replace(l2=content), content is not None)]


@step(Where.REDIS, "L2 intent")
def intent(world: World, me: Me) -> Outcomes:
    """intent.lua: the value goes, fills are refused, others drop the key; intents that meet are spoiled."""
    held = world.l2
    if isinstance(held, Intent):
        both = Intent(held.writers | {me.token}, held.spoiled or me.setup.keeps(Rule.INTENTS_SPOIL))
    else:
        both = Intent(frozenset({me.token}), False)
    world = world._replace(l2=both, intending=world.intending | {me.token})
    return [(say(world, me, Op.INTENT), True)]


@step(Where.REDIS, "L2 put")
def put(world: World, me: Me, version: int, deleted: bool) -> Outcomes:
    """put.lua: the committed value takes the place of the own intent, if that is there and not spoiled."""
    world = standing(world, me)
    after, stored = _put(world.l2, me, Value(version, deleted, False, False))
    world = world._replace(l2=after, intending=world.intending - {me.token})
    if me.setup.keeps(Rule.PUT_IS_PUBLISHED):
        world = say(world, me, Op.DELETE if deleted else Op.SET, version)
    return [(world, stored)]


def _put(held: Content, me: Me, value: Value) -> tuple[Content, bool]:
    keeps = me.setup.keeps
    if isinstance(held, Intent) and me.token in held.writers:
        rest = held.writers - {me.token}
        if not held.spoiled or not keeps(Rule.SPOILED_PUT_STORES_NOTHING):
            return value, True
        if not rest or not keeps(Rule.LAST_SPOILED_EMPTIES):
            return None, False
        return Intent(rest, True), False
    if not keeps(Rule.PUT_WITHOUT_INTENT_STORES_NOTHING) and (
        held is None or isinstance(held, Lease) or _older(held, value.version)
    ):
        return value, True
    if isinstance(held, Intent):
        return (spoiled(held) if keeps(Rule.PUT_WITHOUT_INTENT_SPOILS) else held), False
    if isinstance(held, Lease):
        return (None if keeps(Rule.PUT_WITHOUT_INTENT_REMOVES_LEASE) else held), False
    if _older(held, value.version) and keeps(Rule.PUT_WITHOUT_INTENT_REMOVES_OLDER):
        return None, False
    return held, False


@step(Where.REDIS, "L2 abandon")
def abandon(world: World, me: Me) -> Outcomes:
    """abandon.lua: a commit that is known to have failed takes its intent back."""
    held = world.l2
    if isinstance(held, Intent) and me.token in held.writers:
        rest = held.writers - {me.token}
        held = Intent(rest, held.spoiled) if rest else None
    return [(world._replace(l2=held, intending=world.intending - {me.token}), True)]


@step(Where.REDIS, "L2 repair")
def repair(world: World, me: Me, version: int) -> Outcomes:
    """put.lua with a token that nobody has: what is older goes, intents are spoiled, others are told."""
    world = standing(world, me)
    after, _ = _put(world.l2, me._replace(thread=-1), Value(version, True, False, False))
    return [(say(world._replace(l2=after), me, Op.SET, version), True)]


@step(Where.REDIS, "L2 own")
def own(world: World, me: Me, version: int, deleted: bool) -> Outcomes:
    """own.lua: L2 is the lowest tier; stored if newer. Answers the version in the way, 0 where it was stored."""
    world = standing(world, me)
    held = world.l2
    if isinstance(held, Value) and held.version >= version:
        return [(world, held.version)]
    world = world._replace(l2=Value(version, deleted, False, False), history=(*world.history, (version, deleted)))
    if world.procs[me.proc].mute:
        return [(world, 0)]
    me = anonymous(me) if me.setup.keeps(Rule.OWN_L2_WRITE_REACHES_ITSELF) else me
    return [(say(world, me, Op.DELETE if deleted else Op.SET, version), 0)]


@step(Where.REDIS, "L2 invalidate")
def invalidate(world: World, me: Me) -> Outcomes:
    """invalidate.lua: the value goes, whatever its version; what is pending stays."""
    world = standing(world, me)
    held = world.l2
    voids = isinstance(held, Lease) and me.setup.keeps(Rule.INVALIDATE_VOIDS_LEASE)
    if voids or (isinstance(held, Value) and not held.pending):
        world = world._replace(l2=None)
    return [(say(world, me, Op.INVALIDATE), True)]


def pended(world: World, me: Me, version: int, deleted: bool) -> World:
    """common.lua's pend: a pending value; an intent that it meets is spoiled, not replaced."""
    world = standing(world, me)
    held = world.l2
    if isinstance(held, Intent):
        if me.setup.keeps(Rule.PEND_REFUSED_LEAVES_L1):
            world = world.with_proc(me.proc, forget(world.procs[me.proc], me.setup))
        return world._replace(l2=spoiled(held)) if me.setup.keeps(Rule.PEND_SPOILS_INTENT) else world
    if isinstance(held, Value) and held.version >= version:
        return world
    return world._replace(l2=Value(version, deleted, True, me.setup.kept and not deleted))


@step(Where.REDIS, "L2 pend")
def pend(world: World, me: Me, version: int, deleted: bool) -> Outcomes:
    """pend.lua: where the ledger is on another server, which may have forgotten the write again meanwhile."""
    if world.l2 is not None or not me.setup.keeps(Rule.APART_PEND_NEVER_CREATES):
        leased = isinstance(world.l2, Lease) and me.setup.keeps(Rule.APART_PEND_NEVER_CREATES)
        world = world._replace(l2=None) if leased else pended(world, me, version, deleted)
    return [(say(world, me, Op.DELETE if deleted else Op.SET, version), True)]


@step(Where.REDIS, "L2 settle")
def settle(world: World, me: Me, version: int, deleted: bool, changed: bool, superseded: bool) -> Outcomes:
    """settle.lua: L3 holds `version`; `changed`: with other columns than were written, which L2 gets."""
    world = standing(world, me)
    held = world.l2
    world = world._replace(l2=_settled(held, me, version, changed))
    removed = world.l2 is None and isinstance(held, Value) and me.setup.keeps(Rule.SETTLE_TELLS_WHAT_IT_REMOVES)
    if changed:
        world = say(world, me, Op.INVALIDATE, version)
    elif superseded or removed:
        world = say(world, me, Op.DELETE if deleted else Op.SET, version)
    return [(world, True)]


def _settled(held: Content, me: Me, version: int, changed: bool) -> Content:
    keeps = me.setup.keeps
    if isinstance(held, Lease):
        return None if keeps(Rule.SETTLE_REMOVES_LEASE) else held
    if isinstance(held, Intent):
        return spoiled(held)
    if held is None:
        return None if keeps(Rule.SETTLE_NEVER_CREATES) else Value(version, False, False, False)
    if held.version < version:
        return None if keeps(Rule.SETTLE_REMOVES_OLDER) else held
    if held.version > version:
        return held
    return Value(version, False, False, False) if changed else held._replace(pending=False)


@step(Where.REDIS, "L2 purge")
def purge(world: World, me: Me, version: int) -> Outcomes:
    """purge.lua: values and leases up to a version that was given up go, intents are spoiled."""
    world = standing(world, me)
    held, keeps = world.l2, me.setup.keeps
    if isinstance(held, Lease) and keeps(Rule.PURGE_REMOVES_LEASE):
        held = None
    elif isinstance(held, Intent):
        held = spoiled(held)
    elif isinstance(held, Value) and held.version <= version and keeps(Rule.PURGE_REMOVES_VALUE):
        held = None
    return [(say(world._replace(l2=held), me, Op.PURGE, version), True)]


@step(Where.REDIS, "publish")
def publish(world: World, me: Me, op: Op, version: int) -> Outcomes:
    """A message alone, for schemas without L2."""
    return [(say(world, me, op, version), True)]
