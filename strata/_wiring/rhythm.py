"""What goes with the heartbeats of the bus."""

from __future__ import annotations

from dataclasses import dataclass

from strata.coherence.identity import Identity
from strata.coherence.lineage import Lineage
from strata.coherence.marking import Marking
from strata.coherence.pulse import Pulse
from strata.coherence.repairs import Repairs
from strata.maintenance.housekeeping import Housekeeping
from strata.observe.log import SafeLogger


@dataclass(frozen=True, slots=True)
class BusRhythm:
    """What is done with each heartbeat of the bus, and with the beginning and the end of a subscription."""

    pulse: Pulse
    repairs: Repairs
    identity: Identity
    lineage: Lineage
    housekeeping: Housekeeping
    marking: Marking
    log: SafeLogger

    def beat(self, number: int) -> None:
        self.repairs.look(self.pulse.beat(number, self.repairs.turns()))
        self.identity.beat()
        self.lineage.look()
        self.marking.look()
        self.log.remind()
        self.housekeeping.beat()

    def confirmed(self) -> None:
        self.marking.begin()

    def subscribed(self) -> None:
        self.repairs.wake()

    def returned(self) -> None:
        self.repairs.replaced()  # once more: another Redis may have come since the loss

    def lost(self) -> None:
        self.repairs.replaced()
