"""L3: one step a statement or commit. Mirrors `strata/l3/{writes,apply,reads,marks}.py`."""

from __future__ import annotations

from tests.property.model.memory import Seen
from tests.property.model.rules import Rule
from tests.property.model.state import NODES, Row, World
from tests.property.model.step import Me, Outcomes, Where, step


class Refused:
    """The answer to a commit that is known to have failed."""

    def __repr__(self) -> str:
        return "REFUSED"


REFUSED = Refused()


def raised(old: int, number: int) -> int:
    """The version rule of a synchronous write that meets the version `old`."""
    return (old // NODES + 1) * NODES + number + 1


def latest(row: Row) -> Seen:
    """What a SELECT shows."""
    return Seen(row.version, False) if row.version else Seen(row.buried, True)


@step(name="L3 read")
def read(world: World, me: Me) -> Outcomes:
    """SELECT one row, and, where there is none, the version at which it was deleted."""
    return [(world, latest(world.row))]


@step(Where.COMMIT, "L3 commit")
def commit(world: World, me: Me, stamp: int, deleted: bool, repair: bool) -> Outcomes:
    """The write-through statement, which commits by itself, or with its repair row; answers the version."""
    row, above = world.row, me.setup.keeps(Rule.VERSION_ABOVE_ROW)
    version = max(stamp, raised(row.version, me.proc)) if row.version and above else stamp
    row = row._replace(version=0, buried=version) if deleted else row._replace(version=version)
    if repair and me.setup.keeps(Rule.REPAIR_ROW):
        row = row._replace(repairs=row.repairs | {version})
    world = world._replace(row=row, history=(*world.history, (version, deleted)))
    return [(world, version)]


@step(name="L3 lock")
def lock(world: World, me: Me, alone: bool) -> Outcomes:
    """The shard's advisory lock, shared or alone; what comes next sees what earlier holders committed.

    Answers the tombstone that the next statement's snapshot shows.
    """
    row = world.row
    if me.setup.keeps(Rule.SHARD_LOCK):
        if any(thread != me.thread and (alone or other) for thread, other in row.locks):
            return []
        row = row._replace(locks=row.locks | {(me.thread, alone)})
    return [(world._replace(row=row), row.buried)]


@step(Where.COMMIT, "L3 apply")
def apply(
    world: World, me: Me, version: int, deleted: bool, buried: int, direct: bool = False, repair: bool = False
) -> Outcomes:
    """The merge of a deferred write, if it is newer, and its commit. Answers the version that L3 holds then.

    `buried` is the tombstone by the statement's snapshot, which is older than its wait for the row; -1: as it is.
    `direct`: the writer itself does it, around the ledger; `repair`: and leaves a repair row.
    """
    buried = world.row.buried if buried < 0 else buried
    row, keeps = _unlocked(world.row, me), me.setup.keeps
    if me.setup.refused == version % NODES - 1:
        return [(world._replace(row=row), REFUSED)]
    if deleted:
        row = row._replace(
            version=row.version if row.version > version else 0,
            buried=max(row.buried, version) if keeps(Rule.TOMBSTONE_IN_L3) else row.buried,
        )
    elif (version > row.version if row.version else version > buried) or not keeps(Rule.APPLY_ONLY_NEWER):
        row = row._replace(version=version)
    answer = row.version or max(row.buried, version if deleted else 0)
    if repair:
        row = row._replace(repairs=row.repairs | {answer})
    if direct:
        world = world._replace(history=tuple(sorted({*world.history, (version, deleted)})))
    return [(world._replace(row=row), answer)]


def _unlocked(row: Row, me: Me) -> Row:
    return row._replace(locks=frozenset(lock for lock in row.locks if lock[0] != me.thread))


@step(Where.COMMIT, "L3 commit")
def commit_deferred(world: World, me: Me, stamp: int, deleted: bool, repair: bool) -> Outcomes:
    """A synchronous write of a write-behind schema: above row and tombstone."""
    row = _unlocked(world.row, me)
    version = max(stamp, *(raised(old, me.proc) for old in (row.version, row.buried) if old), 0)
    row = row._replace(version=0, buried=version) if deleted else row._replace(version=version)
    if repair:
        row = row._replace(repairs=row.repairs | {version})
    history = tuple(sorted({*world.history, (version, deleted)}))
    return [(world._replace(row=row, history=history), version)]


@step(name="L3 leave repair")
def leave_repair(world: World, me: Me, version: int) -> Outcomes:
    """A transaction of its own, with a repair row."""
    return [(world._replace(row=world.row._replace(repairs=world.row.repairs | {version})), None)]


@step(name="L3 refuses")
def refuse(world: World, me: Me) -> Outcomes:
    """A statement that violates a constraint."""
    return [(world, REFUSED)]


@step(name="UPDATE by hand")
def update_by_hand(world: World, me: Me) -> Outcomes:
    """The row is changed by somebody else; to tell the records apart, it gets a version here."""
    version = raised(world.row.version, me.proc)
    row = world.row._replace(version=version)
    return [(world._replace(row=row, history=(*world.history, (version, False))), None)]


@step(name="L3 take repairs")
def take_repairs(world: World, me: Me) -> Outcomes:
    """The repairs there are."""
    return [(world, world.row.repairs)]


@step(name="L3 repairs done")
def repairs_done(world: World, me: Me, done: frozenset[int]) -> Outcomes:
    """These were repaired."""
    return [(world._replace(row=world.row._replace(repairs=world.row.repairs - done)), None)]
