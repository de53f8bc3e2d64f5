"""A call of the engine in a greenlet, which comes back to the event loop with each thing that it waits for.

So the engine stays what it is: plain calls, which wait by `strata.waits`. The way is SQLAlchemy's `greenlet_spawn`; the
greenlets are kept, since a new one costs a stack that the kernel has to map (10 µs of 12, measured).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from strata.aio.loop import LoopHub


class Operation(greenlet):  # type: ignore[misc]  # greenlet has no types
    """Carries out one call after another, for tasks of one event loop; used by one of them at a time.

    `ended` and `failed` say how the last switch came back: with what the call returned, or raised, or with something
    to await. `shields` counts the blocks that a cancellation has to wait for. `dropped`: its task is no more, and
    nothing can be awaited. `number` is that of the call (`Hub.ident`).
    """

    def __init__(self, hub: LoopHub) -> None:
        super().__init__()
        self.hub = hub
        self.number = 0
        self.shields = 0
        self.ended = self.failed = self.dropped = False

    def run(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The greenlet's life. Ended by greenlet itself, while it waits for a call, once nobody refers to it."""
        while True:
            outcome: Any
            try:
                outcome, self.failed = call(*args, **kwargs), False
            except BaseException as error:  # noqa: BLE001 it is raised where the call was awaited
                outcome, self.failed = error, True
            self.ended = True
            call = args = kwargs = None  # type: ignore[assignment]  # nothing of it is kept alive
            call, args, kwargs = self.parent.switch(outcome)

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        """Called in it: what the loop has awaited. Raises what that raised, such as `CancelledError`."""
        if self.dropped:
            raise GeneratorExit
        return self.parent.switch(awaitable)


def current() -> Operation | None:
    """The one that asks."""
    me = getcurrent()
    return me if type(me) is Operation else None


def switch(operation: Operation, *values: Any) -> Any:
    """Have it go on with these; what it comes back with."""
    # Whoever runs the task now, which may be another greenlet than before, is whom it comes back to.
    me = operation.parent = getcurrent()
    operation.gr_context = me.gr_context  # the task's, in which the engine runs as the caller does
    return operation.switch(*values)


def throw(operation: Operation, error: BaseException) -> Any:
    """The same, with an error that is raised where it waits."""
    me = operation.parent = getcurrent()
    operation.gr_context = me.gr_context
    return operation.throw(type(error), error, error.__traceback__)
