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
    """SELECT one row. The version of a missing one is known to the promises only."""
    return [(world, latest(world.row))]


@step(Where.COMMIT, "L3 commit")
def commit(world: World, me: Me, stamp: int, deleted: bool, repair: bool) -> Outcomes:
    """The write-through statement, which commits by itself, or with its repair row; answers the version."""
    row, above = world.row, me.setup.keeps(Rule.VERSION_ABOVE_ROW)
    version = max(stamp, raised(row.version, me.proc)) if row.version and above else stamp
    row = row._replace(version=0, buried=version) if deleted else row._replace(version=version)
    if repair and me.setup.keeps(Rule.REPAIR_ROW):
        row = row._replace(repairs=row.repairs | {version})
    world = world._replace(
        row=row, uncommitted=world.uncommitted - {me.token}, history=(*world.history, (version, deleted))
    )
    return [(world, version)]


@step(name="L3 refuses")
def refuse(world: World, me: Me) -> Outcomes:
    """A statement that violates a constraint."""
    return [(world, REFUSED)]


@step(name="L3 take repairs")
def take_repairs(world: World, me: Me) -> Outcomes:
    """The repairs there are."""
    return [(world, world.row.repairs)]


@step(name="L3 repairs done")
def repairs_done(world: World, me: Me, done: frozenset[int]) -> Outcomes:
    """These were repaired."""
    return [(world._replace(row=world.row._replace(repairs=world.row.repairs - done)), None)]
