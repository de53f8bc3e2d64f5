"""Programs as generators of atomic steps, and the automata that they are unrolled into.

A program is written as the engine is, top to bottom, but yields each step that touches anything shared, and is sent
its answer. Between two steps it is determined by the answers so far; two histories that stop at the same place with
the same local variables are one state. So a program runs a few thousand times at most, however many states the
search visits, and a state of the search holds one node for each thread.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Hashable, Iterable
from types import CodeType
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias

from tests.property.model.state import World

P = ParamSpec("P")

Outcomes: TypeAlias = Iterable[tuple[World, Any]]
"""Each way in which a step can go: the world afterwards, and the answer. None at all: the step has to wait."""

Program: TypeAlias = Generator["Step", Any, Any]


class Where(enum.IntEnum):
    """What a step needs in order to be taken: its own process only, Redis, or the commit of a transaction."""

    HERE = 0
    REDIS = 1
    COMMIT = 2


class Step(NamedTuple):
    """One atomic action of a thread. `proc` is the number of its process."""

    name: str
    where: Where
    proc: int
    run: Callable[..., Outcomes]
    args: tuple[Any, ...]

    def outcomes(self, world: World) -> Outcomes:
        """Take it."""
        return self.run(world, *self.args)


class Me(NamedTuple):
    """A thread: its number, that of its process, and the rules and circumstances, which never change.

    `call` tells the calls of a thread apart.
    """

    thread: int
    proc: int
    setup: Any  # Setup; its hash is its identity
    call: int = 0

    @property
    def token(self) -> str:
        """A token that no other call has."""
        return f"t{self.thread}.{self.call}"


def step(
    where: Where = Where.HERE, name: str = ""
) -> Callable[[Callable[Concatenate[World, Me, P], Outcomes]], Callable[Concatenate[Me, P], Step]]:
    """Make a function of world and thread the maker of a step."""

    def decorate(run: Callable[Concatenate[World, Me, P], Outcomes]) -> Callable[Concatenate[Me, P], Step]:
        called = name or run.__name__.replace("_", " ")

        def make(me: Me, /, *args: P.args, **kwargs: P.kwargs) -> Step:
            return Step(called, where, me.proc, run, (me, *args, *kwargs.values()))

        make.__doc__ = run.__doc__
        return make

    return decorate


class Down:
    """The answer of a server that did not answer."""

    def __repr__(self) -> str:
        return "DOWN"


class Unknown:
    """The answer of a commit whose outcome is not known."""

    def __repr__(self) -> str:
        return "UNKNOWN"


DOWN, UNKNOWN = Down(), Unknown()


class DownError(Exception):
    """What a program raises for DOWN, as the tier raises L2UnavailableError."""


def ask(wanted: Step) -> Program:
    """Take a step on Redis. Raises `DownError`."""
    answer = yield wanted
    if answer is DOWN:
        raise DownError
    return answer


class Node:
    """A place in a program, and the step that is taken next; None where the program is over."""

    __slots__ = ("_after", "_automaton", "_history", "step")

    def __init__(self, automaton: Automaton, history: tuple[Any, ...], step: Step | None) -> None:
        self.step = step
        self._automaton = automaton
        self._history = history
        self._after: dict[Any, Node] = {}

    def after(self, answer: Any) -> Node:
        """The place where the answer leads."""
        try:
            return self._after[answer]
        except KeyError:
            found = self._after[answer] = self._automaton.unroll((*self._history, answer))
            return found


class Automaton:
    """The places of one thread's program, unrolled as they are met."""

    def __init__(self, make: Callable[[], Program]) -> None:
        self._make = make
        self._nodes: dict[Hashable, Node] = {}
        self.start = self.unroll(())

    def unroll(self, history: tuple[Any, ...]) -> Node:
        """The place that the answers lead to."""
        program = self._make()
        step: Step | None = None
        try:
            step = next(program)
            for answer in history:
                step = program.send(answer)
        except StopIteration:
            return self._nodes.setdefault(None, Node(self, (), None))
        place = (step, *_frames(program))
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = Node(self, history, step)
        return node


OVER = Node(Automaton.__new__(Automaton), (), None)
"""The place of a thread that was killed."""


def _frames(program: Any) -> list[tuple[CodeType, int, tuple[tuple[str, Any], ...]]]:
    """Where the program and those it calls stand, and their local variables."""
    found = []
    while program is not None:
        frame = program.gi_frame
        found.append((frame.f_code, frame.f_lasti, tuple(sorted(frame.f_locals.items(), key=_name))))
        program = program.gi_yieldfrom
    return found


def _name(item: tuple[str, Any]) -> str:
    return item[0]
