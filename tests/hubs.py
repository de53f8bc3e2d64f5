"""A hub that runs many operations in one thread, for tests: each wait goes on with the next operation."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

from strata.waits.hub import Hub, Threads
from strata.waits.nudge import Nudge
from strata.waits.sockets import Stream


class Operation(greenlet):  # type: ignore[misc]
    """One call, which gives way where it waits."""


class Cancelled(BaseException):
    """Comes from outside, out of a wait."""


class OneThread(Threads):
    """Takes turns; what an operation waits for is done when it is its turn again."""

    def __init__(self) -> None:
        super().__init__()
        self.switches = 0

    def run(self, *calls: Callable[[], Any]) -> list[Any]:
        """What the calls return, or raise."""
        operations = [Operation(lambda _, call=call: call()) for call in calls]
        turns: deque[tuple[Operation, Callable[[], Any]]] = deque((operation, lambda: None) for operation in operations)
        outcomes: dict[Operation, Any] = {}
        while turns:
            operation, wait = turns.popleft()
            self.switches += 1
            try:
                given = self._resume(operation, wait)
            except BaseException as error:
                given = error
            if operation.dead:
                outcomes[operation] = given
            else:
                turns.append((operation, given))
        return [outcomes[operation] for operation in operations]

    def break_off(self, call: Callable[[], Any], number: int, *, done: bool) -> Any:
        """The call, broken off at its wait of that number; `done`: what it waits for happens all the same. What it
        returns, or raises."""
        operation = Operation(lambda _: call())
        given: Any = operation.switch(None)
        try:
            for at in itertools.count():
                if operation.dead:
                    return given
                if at != number:
                    given = self._resume(operation, given)
                    continue
                if done:
                    with contextlib.suppress(Exception):
                        given()
                given = operation.throw(Cancelled())
        except BaseException as error:
            return error

    @staticmethod
    def _resume(operation: Operation, wait: Callable[[], Any]) -> Any:
        """What it waits for next, or returns."""
        try:
            answer = wait()
        except BaseException as error:
            return operation.throw(error)
        return operation.switch(answer)

    def found(self) -> Hub | None:
        """For `find_by`."""
        return self if isinstance(getcurrent(), Operation) else None

    def sleep(self, seconds: float) -> None:
        self._give_way(lambda: Threads.sleep(self, seconds))

    def nudged(self, nudge: Nudge, seconds: float | None) -> bool:
        until = None if seconds is None else self.clock.monotonic() + seconds
        while not nudge.block(0):
            if until is not None and self.clock.monotonic() >= until:
                return False
            self._give_way(lambda: None)
        return True

    def call(self, wait: Callable[[], Any]) -> Any:
        return self._give_way(wait)

    def stream(self, connection: Any) -> Stream:
        stream: Stream = self._give_way(lambda: Threads.stream(self, connection))
        return stream

    def exchange(self, wires: Any, packed: bytes, count: int) -> list[Any]:
        answers: list[Any] = self._give_way(lambda: wires.block(packed, count))
        return answers

    def query(self, connection: Any, steps: Any, timeout: float | None) -> Any:
        return self._give_way(lambda: connection.block(steps, timeout))

    def ident(self) -> int:
        return id(getcurrent())

    @staticmethod
    def _give_way(wait: Callable[[], Any]) -> Any:
        parent = getcurrent().parent
        assert parent is not None
        return parent.switch(wait)
