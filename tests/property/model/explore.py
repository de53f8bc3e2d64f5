"""The search: every interleaving of a scenario, breadth first, until a promise is broken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from tests.property.model import memory, promises
from tests.property.model.redis import FOR_READERS
from tests.property.model.rules import Rule, Setup
from tests.property.model.state import Content, Ledger, Left, Link, Proc, Row, Value, World
from tests.property.model.step import DOWN, Automaton, Me, Program, Where
from tests.property.model.surroundings import Change, Fault, Surroundings, lost_answer

Start = Callable[[Me], Program]

NOTHING_LEFT = Left()


class Thread(NamedTuple):
    """A thread of a scenario. `daemon`: it never ends, and is at rest when it has nothing to do."""

    name: str
    proc: int
    start: Start
    daemon: bool = False
    gets: int = 0
    stamps: int = 0


@dataclass(frozen=True, eq=False)
class Scenario:
    """Threads of some processes, what they begin with, and what may happen to them."""

    name: str
    threads: tuple[Thread, ...]
    setup: Setup = field(default_factory=Setup)
    present: bool = True  # there is a row at the start
    cached: bool = True  # and it is in L2
    faults: frozenset[Fault] = frozenset()
    left: Left = NOTHING_LEFT
    killable: frozenset[int] | None = None

    def without(self, *rules: Rule) -> Scenario:
        """The same with some rules left out."""
        return replace(self, setup=replace(self.setup, without=frozenset(rules)))


class Violation(NamedTuple):
    """A promise that is not kept, and the shortest way there."""

    promise: str
    trace: list[str]

    def __str__(self) -> str:
        return "\n".join([self.promise, *(f"{number:4} {line}" for number, line in enumerate(self.trace))])


class Result(NamedTuple):
    """What a search found; `complete` if it looked at every state."""

    states: int
    complete: bool
    seconds: float
    violation: Violation | None


class Search:
    """One search. `_came` gives for each state the one before it, and what happened."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._setup = setup = scenario.setup
        self._threads = scenario.threads
        procs = tuple(thread.proc for thread in scenario.threads)
        killable = scenario.killable if scenario.killable is not None else frozenset(procs)
        self._surroundings = Surroundings(setup, scenario.faults, procs, killable)
        automata = [
            Automaton(partial(thread.start, Me(number, thread.proc, setup)))
            for number, thread in enumerate(scenario.threads)
        ]
        self._of_proc = [
            [thread for thread, proc in enumerate(procs) if proc == number] for number in range(1 + max(procs))
        ]
        start = _first_world(scenario, tuple(automaton.start for automaton in automata))
        self._worlds = [start]
        self._numbers = {start: 0}
        self._came: list[tuple[int, Any]] = [(-1, "start")]
        self._back: list[list[int]] = [[]]
        self._rests: list[int] = []

    def run(self, bound: int | None) -> Result:
        """Look at every state, or at about `bound` of them, those that are reached soonest."""
        began = time.perf_counter()
        violation, complete = self._violation_found(bound)
        if violation is None and complete:
            violation = self._stuck()
        return Result(len(self._worlds), complete, time.perf_counter() - began, violation)

    def _violation_found(self, bound: int | None) -> tuple[Violation | None, bool]:
        worlds, numbers, came = self._worlds, self._numbers, self._came
        at = -1
        while (at := at + 1) < len(worlds):
            if bound is not None and at >= bound:
                return None, False
            world, moves = worlds[at], 0
            for after, what, sure in self._moves(world):
                number = numbers.setdefault(after, len(worlds))
                if number == len(worlds):
                    worlds.append(after)
                    came.append((at, what))
                    self._back.append([])
                    if after.broken:
                        return self._violation(after.broken, number), False
                if sure:
                    moves += 1
                    self._back[number].append(at)
            if not moves:
                self._rests.append(at)
                wrong = self._at_rest(world)
                if wrong:
                    return self._violation(wrong, at), False
        return None, True

    def _stuck(self) -> Violation | None:
        """A state from which nothing comes to rest any more."""
        good, todo = set(self._rests), list(self._rests)
        while todo:
            for before in self._back[todo.pop()]:
                if before not in good:
                    good.add(before)
                    todo.append(before)
        for number in range(len(self._worlds)):
            if number not in good:
                return self._violation("the processes never come to rest", number)
        return None

    def _moves(self, world: World) -> Iterator[tuple[World, Any, bool]]:
        nodes = world.nodes
        alone = self._independent(world)
        if alone is not None:
            yield alone.world, alone.what, True
            return
        for thread, node in enumerate(nodes):
            step = node.step
            if step is None:
                continue
            if step.where is Where.REDIS and (world.down or world.procs[step.proc].cut):
                yield _at(world, nodes, thread, node.after(DOWN)), (thread, step, DOWN), True
                continue
            if step.where is Where.REDIS and world.procs[step.proc].mute and step.name not in FOR_READERS:
                untold = [(world, None)] if self._setup.keeps(Rule.TOLD_BEFORE_CHANGED) else step.outcomes(world)
                for after, _ in untold:
                    yield _at(after, nodes, thread, node.after(DOWN)), (thread, step, DOWN), True
                continue
            for after, answer in step.outcomes(world):
                yield _at(after, nodes, thread, node.after(answer)), (thread, step, answer), True
            lost = self._surroundings.unanswered(world, step)
            if lost is not None:
                answer = lost_answer(step)
                yield _at(lost, nodes, thread, node.after(answer)), (thread, step, answer), False
        for change in self._surroundings.changes(world):
            yield change.world, change.what, change.sure

    def _independent(self, world: World) -> Change | None:
        """A message to a process of which only L1 is left: it commutes with all else, so that it may go first."""
        if self._scenario.faults and world.left.faults:
            return None
        for number, threads in enumerate(self._of_proc):
            proc = world.procs[number]
            if proc.inbox and proc.link is Link.FINE and all(world.nodes[thread].step is None for thread in threads):
                return Change(f"process {number} hears", memory.deliver(world, number, self._setup), True)
        return None

    def _at_rest(self, world: World) -> str:
        for thread, node in zip(self._threads, world.nodes, strict=True):
            if node.step is not None and not thread.daemon:
                return f"{thread.name} waits for ever"
        return promises.at_rest(world, self._setup)

    def _violation(self, promise: str, number: int) -> Violation:
        lines: list[str] = []
        while number >= 0:
            before, what = self._came[number]
            lines.append(self._line(self._worlds[before] if before >= 0 else None, what, self._worlds[number]))
            number = before
        return Violation(f"{self._scenario.name}: {promise}", lines[::-1])

    def _line(self, before: World | None, what: Any, after: World) -> str:
        if not isinstance(what, str):
            thread, step, answer = what
            rest = ", ".join(str(arg) for arg in step.args[1:])
            what = f"{self._threads[thread].name}: {step.name}({rest}) -> {answer}"
        return f"{what:70} {_difference(before, after)}"


def _at(world: World, nodes: tuple[Any, ...], thread: int, node: Any) -> World:
    return world._replace(nodes=(*nodes[:thread], node, *nodes[thread + 1 :]))


def _difference(before: World | None, after: World) -> str:
    parts = []
    for name in ("l2", "row", "ledger", "late", "history"):
        new = getattr(after, name)
        if before is None or getattr(before, name) != new:
            parts.append(f"{name}={new}")
    for number, proc in enumerate(after.procs):
        for name in Proc._fields:
            new = getattr(proc, name)
            if before is not None and getattr(before.procs[number], name) != new and name not in ("boarded", "landed"):
                parts.append(f"{name}[{number}]={new}")
    return " ".join(parts)


def _first_world(scenario: Scenario, nodes: tuple[Any, ...]) -> World:
    setup = scenario.setup
    count = 1 + max(thread.proc for thread in scenario.threads)
    version = 8 if scenario.present else 0
    content: Content = Value(version, False, False, False) if version and scenario.cached and setup.l2 else None
    return World(
        l2=content,
        row=Row(version if setup.l3 else 0, 0),
        ledger=Ledger(),
        procs=tuple(_first_proc(scenario, number, version) for number in range(count)),
        nodes=nodes,
        left=scenario.left._replace(faults=1 if scenario.faults else 0),
        history=((version, not version),),
    )


def _first_proc(scenario: Scenario, number: int, version: int) -> Proc:
    mine = [thread for thread in scenario.threads if thread.proc == number]
    stamps = sum(thread.stamps for thread in mine)
    return Proc(clock=version if stamps else 0, epoch=1, gets=sum(thread.gets for thread in mine), stamps=stamps)


def explore(scenario: Scenario, bound: int | None = None) -> Result:
    """Search a scenario; `bound`: not further than about so many states."""
    return Search(scenario).run(bound)
