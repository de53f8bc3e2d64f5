"""What must always hold (design, section 2), and what must hold once everything has come to rest."""

from __future__ import annotations

from tests.property.model.memory import Seen
from tests.property.model.rules import Rule, Setup
from tests.property.model.state import FAR, Link, Proc, Value, World


def rank(world: World, setup: Setup, version: int) -> int:
    """How new a record is: deferred writes are ordered by version, others by their commits; -1 if never committed.

    Deletions that follow one another show the same, so they rank the same.
    """
    if setup.deferred:
        return version if version < FAR else -1
    history = world.history
    for place, (committed, deleted) in enumerate(history):
        if committed == version:
            while deleted and place and history[place - 1][1]:
                place -= 1
            return place
    return -1


def returned(world: World, setup: Setup, number: int, floor: int, seen: Seen) -> World:
    """A read returns a record: it must not be older than what its process had seen when it began."""
    found = rank(world, setup, seen.version)
    if found < 0:
        return world._replace(broken=f"process {number} read a version that was never committed")
    if found < floor and floor not in world.given_up:
        return world._replace(broken=f"process {number} read an older version than it had seen before")
    return _saw(world, number, found)


def acknowledged(world: World, setup: Setup, number: int, version: int) -> World:
    """A write returns: from now on its process reads nothing older."""
    return _saw(world, number, rank(world, setup, version))


def _saw(world: World, number: int, place: int) -> World:
    proc = world.procs[number]
    return world.with_proc(number, proc._replace(seen=place)) if proc.gets and place > proc.seen else world


def newest(world: World, setup: Setup) -> tuple[int, bool]:
    """Version and deletion of what the lowest tier must hold in the end.

    Where the newest deferred write was given up, that is what L3 held or was given before or meanwhile.
    """
    if not setup.deferred:
        return world.history[-1]
    latest = max(world.history)
    if latest[0] not in world.given_up:
        return latest
    held = world.row.version or world.row.buried
    return max(item for item in world.history if item[0] <= held and item[0] not in world.given_up)


def at_rest(world: World, setup: Setup) -> str:
    """The promise that is broken although nothing is under way; '' if none is."""
    version, deleted = newest(world, setup)
    row = world.row
    if setup.l3 and (
        row.version != (0 if deleted else version) or (setup.deferred and deleted and row.buried < version)
    ):
        return "L3 does not hold the newest write"
    held = world.l2
    # Where nobody can tell, nobody asks it; and what is of the far future is not read.
    asked = not all(proc.mute for proc in world.procs if proc.alive)
    unread = isinstance(held, Value) and held.version >= FAR and setup.keeps(Rule.FAR_VALUE_GIVES_WAY)
    if not isinstance(held, Value) or not asked or unread:
        pass
    elif held.deleted != deleted or (not deleted and held.version != version) or held.raw:
        return "L2 holds something else than the lowest tier"
    for number, proc in enumerate(world.procs):
        if proc.alive and number not in setup.deaf and (wrong := _l1_at_rest(proc, version, deleted)):
            return f"process {number}: {wrong}"
    return ""


def _l1_at_rest(proc: Proc, version: int, deleted: bool) -> str:
    if proc.l1 is None or proc.link is not Link.FINE:
        return ""
    if deleted or proc.l1.version != version or proc.l1.raw:
        return "L1 holds something else than the lowest tier"
    return ""
