"""The scripts of the ledger, one step each. They mirror `strata/writebehind/scripts/*.lua`."""

from __future__ import annotations

from tests.property.model.state import World
from tests.property.model.step import Me, Outcomes, Where, step


@step(Where.REDIS, "ledger read")
def read(world: World, me: Me) -> Outcomes:
    """HGET: what is pending."""
    return [(world, world.ledger.entry)]
