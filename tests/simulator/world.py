"""The world: what is under way, one event after another as a seed has it; its clock moves when nothing else does.

Every task is a greenlet that runs shipped code until it waits (`World.pause`); whoever is next is chosen among all that
could go on. Each event, also what a server does, is one step of `World.step`, and nothing else happens meanwhile.
"""

from __future__ import annotations

import math
import random
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

if TYPE_CHECKING:
    from tests.simulator.process import Process

START = 1_700_000_000.0  # at which each life begins, so that a seed replays exactly
LIMIT = 20_000  # events of an episode, beyond which it is taken for endless


class Event(Protocol):
    """Something that could happen now."""

    def happen(self) -> None: ...

    def said(self) -> str: ...


class Source(Protocol):
    """Who has events that are not a task's."""

    def add_events(self, events: list[Event]) -> None:
        """Those that could happen now."""

    def deadline(self) -> float:
        """The time of the next one that comes by itself; infinite where there is none."""


class Timer(NamedTuple):
    """Something that happens at a time."""

    at: float
    do: Callable[[], None]
    what: str
    world: World

    def happen(self) -> None:
        self.world.timers.remove(self)
        self.do()

    def said(self) -> str:
        return self.what


class Wait(NamedTuple):
    """What a task waits for: until `ready`, or until the time is `deadline`."""

    ready: Callable[[], bool]
    deadline: float | None
    what: str
    firm: bool = False  # no cancellation breaks it off


class Cancelled(BaseException):
    """The task that awaits a call was cancelled: raised in the call, out of what it waits for."""


class Task(greenlet):  # type: ignore[misc]  # greenlet ships no types
    """One thread of a process, or one of its calls. `awaited`: it is in a call that can be cancelled, as one from an
    event loop; `shields`: how many blocks it is in that a cancellation has to wait for."""

    def __init__(self, world: World, process: Process, run: Callable[[], object], name: str, *, daemon: bool) -> None:
        super().__init__(self._main, world.main)
        self.world = world
        self.process = process
        self.name = name
        self.daemon = daemon
        self.number = world.next_number()
        self.wait = Wait(_at_once, None, "begins")
        self.awaited = self.cancelled = False
        self.shields = 0
        self._run = run

    def _main(self) -> None:
        try:
            self._run()
        except GreenletExit:
            raise
        except BaseException as error:
            if not self.world.over:
                where = "".join(traceback.format_exception(error)[-3:])
                self.world.breaks(f"{self} raised {type(error).__name__}: {error}\n{where}")

    def happen(self) -> None:
        """It goes on."""
        self.switch()
        if self.dead:
            self.world.tasks.remove(self)

    def said(self) -> str:
        """What it goes on with."""
        if self.breaks_off():
            return f"{self}: breaks off {self.wait.what}"
        return f"{self}: {'' if self.wait.ready() else 'time-out of '}{self.wait.what}"

    def breaks_off(self) -> bool:
        """Whether it was cancelled, and goes on with that."""
        return self.cancelled and self.awaited and not self.shields and not self.wait.firm

    def cancel(self) -> None:
        """As a task of asyncio is: once, where it waits, or will wait next."""
        self.cancelled = True

    def __str__(self) -> str:
        return f"{self.process}.{self.name}"


def _at_once() -> bool:
    return True


def _never() -> bool:
    return False


class World:
    """`pick` says which event is next; `trace` gets a line for each, where there is one."""

    def __init__(self) -> None:
        self.now = START
        self.main = getcurrent()
        self.sources: list[Source] = []
        self.begin(0)

    def begin(self, seed: int) -> None:
        """A new life: nothing is under way."""
        self.main = getcurrent()
        self.now = START
        self.chance = random.Random(seed)
        self.episode(lambda events: events[0])
        self.tasks: list[Task] = []
        self.gone: list[Task] = []  # of killed processes: kept, so that no `finally` of theirs runs
        self.broken = ""
        self.over = False
        self._number = 0
        self.timers: list[Timer] = []

    def episode(self, pick: Callable[[list[Event]], Event], trace: list[str] | None = None) -> None:
        """What follows is counted, and timed in the trace, from here."""
        self.pick = pick
        self.trace = trace
        self.began = self.now
        self.steps = 0
        self.overtaking = 0.0  # how likely a thread is overtaken before a lock of memory
        self.before_step: Callable[[], None] | None = None

    def after(self, seconds: float, do: Callable[[], None], what: str) -> None:
        """Have something happen some time later."""
        self.timers.append(Timer(self.now + seconds, do, what, self))

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def spawn(self, process: Process, run: Callable[[], object], name: str, *, daemon: bool = False) -> Task:
        """A task that begins when it is chosen."""
        task = Task(self, process, run, name, daemon=daemon)
        self.tasks.append(task)
        return task

    def pause(
        self,
        ready: Callable[[], bool] = _never,
        seconds: float | None = None,
        what: str = "",
        *,
        firm: bool = False,
    ) -> bool:
        """Called by a task: until `ready`, for `seconds` at most; whether it was. Raises `Cancelled` where the task is
        cancelled, unless it is `firm`."""
        task = getcurrent()
        assert isinstance(task, Task), what
        if self.over:
            raise GreenletExit
        task.wait = Wait(ready, None if seconds is None else self.now + seconds, what, firm)
        if not task.breaks_off():
            self.main.switch()
        if self.over:
            raise GreenletExit
        if task.breaks_off():
            task.cancelled = False
            raise Cancelled
        return ready()

    def overtakes(self) -> bool:
        """Whether a thread that is about to take a lock of memory lets others go first."""
        return self.overtaking > 0.0 and self.chance.random() < self.overtaking

    def breaks(self, why: str) -> None:
        """A promise is broken, which ends the schedule."""
        self.broken = self.broken or why

    def say(self, what: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.now - self.began:9.3f}  {what}")

    def run(self, done: Callable[[], bool]) -> None:
        """Events until `done`, or until a promise is broken."""
        while not self.broken and not done():
            self.step()

    def run_for(self, seconds: float) -> None:
        """Events of some time, which only passes when nothing is under way."""
        until = self.now + seconds
        self.run(lambda: self.now >= until)

    def settle(self) -> None:
        """Events until none can happen at this time."""
        while not self.broken and self._events():
            self.step()

    def step(self) -> None:
        """One event; where there is none, time passes until there is."""
        if self.before_step is not None:
            self.before_step()
        events = self._events()
        while not events:
            if not self._pass():
                self.breaks("nothing can go on: " + "; ".join(f"{t}: {t.wait.what}" for t in self.tasks))
                return
            events = self._events()
        self.steps += 1
        if self.steps > LIMIT:
            self.breaks("it does not end")
            return
        event = self.pick(events)
        if self.trace is not None:
            self.say(event.said())
        event.happen()

    def _events(self) -> list[Event]:
        now = self.now
        events: list[Event] = []
        for task in self.tasks:
            if not task.process.frozen:
                ready, deadline, *_ = task.wait
                if (deadline is not None and deadline <= now) or ready() or (task.cancelled and task.breaks_off()):
                    events.append(task)
        for source in self.sources:
            source.add_events(events)
        if self.timers:
            events += [timer for timer in self.timers if timer.at <= now]
        return events

    def _pass(self) -> bool:
        """Let time pass until the next deadline; whether there is one."""
        waits = [task.wait.deadline for task in self.tasks if not task.process.frozen]
        deadlines = [deadline for deadline in waits if deadline is not None] + [timer.at for timer in self.timers]
        following = min([*deadlines, *(source.deadline() for source in self.sources)])
        if following == math.inf:
            return False
        self.now = max(self.now, following)
        return True

    def end(self) -> None:
        """Nothing more happens: what is under way is broken off."""
        self.over = True
        for task in [*self.tasks, *self.gone]:
            if task:  # it has begun
                task.throw(GreenletExit)
        self.tasks.clear()
        self.gone.clear()
