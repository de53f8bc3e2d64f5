"""The scripts of L2, one step each, and the messages that they publish. They mirror `strata/l2/scripts/*.lua`."""

from __future__ import annotations

from tests.property.model.rules import Rule
from tests.property.model.state import Content, Intent, Lease, Link, Message, Op, Value, World
from tests.property.model.step import Me, Outcomes, Where, step

HEARS = (Link.FINE, Link.BACK)


def say(world: World, me: Me, op: Op, version: int = 0) -> World:
    """Publish: into the inbox of every process whose subscription stands."""
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


def spoiled(intent: Intent) -> Intent:
    """The intent, of whose writers none stores its value."""
    return intent._replace(spoiled=True)


def _older(held: Content, version: int) -> bool:
    return isinstance(held, Value) and held.version < version


@step(Where.REDIS, "L2 read")
def read(world: World, me: Me, lease: bool) -> Outcomes:
    """read.lua: what the key holds; where it holds nothing, a lease is left."""
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
    world = world._replace(l2=both, uncommitted=world.uncommitted | {me.token})
    return [(say(world, me, Op.INTENT), True)]


@step(Where.REDIS, "L2 put")
def put(world: World, me: Me, version: int, deleted: bool) -> Outcomes:
    """put.lua: the committed value takes the place of the own intent, if that is there and not spoiled."""
    after, stored = _put(world.l2, me, Value(version, deleted, False, False))
    world = world._replace(l2=after)
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
    return [(world._replace(l2=held, uncommitted=world.uncommitted - {me.token}), True)]


@step(Where.REDIS, "L2 repair")
def repair(world: World, me: Me, version: int) -> Outcomes:
    """put.lua with a token that nobody has: what is older goes, intents are spoiled, others are told."""
    after, _ = _put(world.l2, me._replace(thread=-1), Value(version, True, False, False))
    return [(say(world._replace(l2=after), me, Op.SET, version), True)]


@step(Where.REDIS, "L2 own")
def own(world: World, me: Me, version: int, deleted: bool) -> Outcomes:
    """own.lua: L2 is the lowest tier; stored if newer. Answers the version in the way, 0 where it was stored."""
    held = world.l2
    if isinstance(held, Value) and held.version >= version:
        return [(world, held.version)]
    world = world._replace(
        l2=Value(version, deleted, False, False), history=(*world.history, (version, deleted))
    )
    return [(say(world, me, Op.DELETE if deleted else Op.SET, version), 0)]


@step(Where.REDIS, "L2 invalidate")
def invalidate(world: World, me: Me) -> Outcomes:
    """invalidate.lua: the value goes, whatever its version; what is pending stays."""
    held = world.l2
    voids = isinstance(held, Lease) and me.setup.keeps(Rule.INVALIDATE_VOIDS_LEASE)
    if voids or (isinstance(held, Value) and not held.pending):
        world = world._replace(l2=None)
    return [(say(world, me, Op.INVALIDATE), True)]


@step(Where.REDIS, "publish")
def publish(world: World, me: Me, op: Op, version: int) -> Outcomes:
    """A message alone, for schemas without L2."""
    return [(say(world, me, op, version), True)]
