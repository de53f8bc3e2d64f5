"""Every order of the events of a few calls, and of one fault at any moment, but those that differ in nothing.

Two neighbouring events are independent where neither reads what the other changes (`independent`): in whichever order
they come, the same follows. Of the orders that differ by such swaps only, one is run: depth first, with sleep sets
(Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", 1996). No time passes meanwhile but
where nothing else can happen; from there on, and once the calls have returned, the order is always the same.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.simulator.draw import Scenario, first
from tests.simulator.house import Episode, House
from tests.simulator.network import Mail, SimStream
from tests.simulator.postgres import Session
from tests.simulator.world import Event, Task

Fault = Callable[[House], None]
FAULTS: dict[str, Fault] = {
    "none": lambda house: None,
    "the first is killed": lambda house: house.kill(house.processes[0]),
    "the second is killed": lambda house: house.kill(house.processes[1]),
    "redis restarts, empty": lambda house: house.redis.restart(empty=True),
    "postgres restarts": lambda house: house.postgres.restart(),
    "the key is evicted": lambda house: _evict(house),
}


def _evict(house: House) -> None:
    for key in list(house.redis.valkey.data):
        if key.endswith(b"item:%d" % house.calls.keys[0]):
            house.redis.valkey.do_del(key)


class Actor(NamedTuple):
    """Who does something: of which kind, in or for which process, and the how manieth that was met."""

    kind: str
    process: int
    number: int


@dataclass
class Node:
    """A moment at which several could be next. `asleep`: what need not be tried here, as an order in which it came
    earlier was run."""

    chosen: Actor
    asleep: set[Actor]
    enabled: list[Actor]
    tried: set[Actor] = field(default_factory=set)


class Searched(NamedTuple):
    """How many orders were run, whether these were all, and the promise that one of them broke."""

    orders: int
    all: bool
    broken: str


def search(house: House, scenario: Scenario, fault: str = "none", most: int | None = None) -> Searched:
    """Run one order after the other, `most` at most."""
    tree, orders, alive = _Tree(house, FAULTS[fault] if fault != "none" else None), 0, False
    gc.disable()
    house.world.sources.append(tree)
    try:
        while most is None or orders < most:
            if not alive:
                house.begin(0)
                for _ in range(2):  # connections are made where they are needed first
                    house.run(Episode(scenario, first))
            broken = tree.run(scenario)
            orders += 1
            alive = fault == "none" and not broken
            if not alive:
                house.end()
                gc.collect()
            if broken or not tree.turn():
                return Searched(orders, True, broken)
        return Searched(orders, False, "")
    finally:
        house.world.sources.remove(tree)


class _Tree:
    """The orders that were run, as the path of the last one; and the fault, as something that could happen now."""

    def __init__(self, house: House, fault: Fault | None) -> None:
        self._house = house
        self._fault = fault
        self._path: list[Node] = []
        self._begin()

    def _begin(self) -> None:
        self._depth = 0
        self._exploring = False
        self._happened = self._fault is None
        self._actors: dict[Event, Actor] = {}

    def run(self, scenario: Scenario) -> str:
        """The order that the path asks for, and then any; the promise that is broken."""
        self._begin()
        self._house.world.settle()
        for process in self._house.processes:
            for bound in process.inside.schemas.values():
                if bound.l2 is not None:
                    bound.l2._missed = False  # as the last order found it
        self._exploring = True
        return self._house.run(Episode(scenario, self._pick))

    def turn(self) -> bool:
        """Leave the path where something else could have been next; false where nothing could."""
        while self._path:
            node = self._path[-1]
            node.tried.add(node.chosen)
            left = [actor for actor in node.enabled if actor not in node.tried and actor not in node.asleep]
            if left:
                node.chosen = left[0]
                return True
            self._path.pop()
        return False

    def add_events(self, events: list[Event]) -> None:
        """The fault, until it has happened or the calls have returned."""
        if self._exploring and not self._happened and self._house.busy:
            events.append(self)

    def deadline(self) -> float:
        """Never by itself."""
        return float("inf")

    def happen(self) -> None:
        """The fault."""
        self._happened = True
        assert self._fault is not None
        self._house.world.say("!! the fault")
        self._fault(self._house)

    def said(self) -> str:
        """Nothing: it speaks for itself."""
        return ""

    def _pick(self, events: list[Event]) -> Event:
        world = self._house.world
        if not self._exploring or not self._house.busy or world.now > world.began:
            self._exploring = False
            return first(events)
        by_actor = {self._actor(event): event for event in events}
        if self._depth == len(self._path):
            asleep = self._asleep()
            awake = [actor for actor in by_actor if actor not in asleep]
            if not awake:
                self._exploring = False  # all that could follow was run before
                return first(events)
            self._path.append(Node(awake[0], asleep, list(by_actor)))
        node = self._path[self._depth]
        self._depth += 1
        return by_actor[node.chosen]

    def _asleep(self) -> set[Actor]:
        if not self._path:
            return set()
        before = self._path[-1]
        return {actor for actor in before.asleep | before.tried if independent(actor, before.chosen)}

    def _actor(self, event: Event) -> Actor:
        if event not in self._actors:
            kind, process = _told(event)
            number = sum(actor[:2] == (kind, process) for actor in self._actors.values())
            self._actors[event] = Actor(kind, process, number)
        return self._actors[event]


def _told(event: Event) -> tuple[str, int]:
    match event:
        case Task():
            return ("bus" if event.name == "strata-bus" else "task"), event.process.number
        case SimStream():
            return str(event.server), event.process.number
        case Mail():
            return "mail", event.stream.process.number
        case Session():
            return "postgres", event.process.number
    return "all", -1


def independent(one: Actor, other: Actor) -> bool:
    """Whether the same follows in whichever order they come. A server's events are all of the same data; a thread does
    what others of its process might see; what arrives is read by the thread that listens only."""
    kinds = {one.kind, other.kind}
    if "all" in kinds:
        return False
    if one.process == other.process:
        return not (kinds <= {"task", "bus"} or ("bus" in kinds and kinds != {"bus", "postgres"}) or len(kinds) == 1)
    return len(kinds) == 2 or kinds <= {"task", "bus", "mail"}
