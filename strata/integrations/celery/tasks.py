"""The tasks: thin, with tiny arguments, and returning numbers only, since Flower shows both.

Their arguments come from the broker. A message that names others than a task takes is left out: it is at most a bell
that did not ring.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import celery

from strata.errors import RefusedError, StrataError, UnavailableError
from strata.integrations.celery.chores import JOBS, chores, log
from strata.integrations.celery.installed import Installed
from strata.jobs.fleet import Fleet
from strata.writebehind.fleet import settings
from strata.writebehind.fleet.broker import TASKS, serializer

KINDS: dict[str, tuple[type, ...]] = {  # of the arguments
    "strata.persist": (str, int),
    "strata.redrive": (),
    "strata.warm": (str, str, int),
    "strata.migrate": (str,),
    "strata.audit": (),
}


class FleetTask(celery.Task):  # type: ignore[misc]
    """Of no base that the application has for its own tasks."""

    installed: Installed

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """What beat sends is written as the app's workers read it, and never pickled."""
        cls.serializer = serializer(app)


class Round(FleetTask):
    """`strata.redrive`, for which beat rings: all that the threads of a worker do, once."""

    def apply_async(self, *given: Any, **named: Any) -> Any:
        """Nothing, where a round waits for a worker already: those of a day without workers would fill the broker."""
        try:
            return super().apply_async(*given, **named) if self.installed.store.fleet.wants_round() else None
        except (UnavailableError, RefusedError):  # what is said for all that need it
            return None


def tasks_in(app: Any) -> list[str]:
    """Those of Strata's names that tasks of the app have, also of those that Celery makes when the app is first used:
    making them now would settle their options before the application has given all its settings."""
    later = [object.__getattribute__(task, "_Proxy__kwargs") for task in app._pending]
    known = {*app._tasks, *(options.get("name") for options in later)}
    return [name for name in TASKS if name in known]


def put_tasks(installed: Installed, *, among_others: bool) -> None:
    """Into the app; with Strata's settings as their own options, where it has others for its tasks."""
    for name, kinds in KINDS.items():
        options = _options(name) if among_others else {}
        base = Round if name == "strata.redrive" else FleetTask
        body = _guarded(installed, name, kinds)
        installed.app.task(name=name, base=base, installed=installed, shared=False, typing=False, **options)(body)


def _options(name: str) -> dict[str, Any]:
    given = vars(settings)
    own = {option: given[setting] for option, setting in celery.Task.from_config if setting in given}
    return own | settings.task_annotations.get(name, {})


def _guarded(installed: Installed, name: str, kinds: tuple[type, ...]) -> Callable[..., int]:
    """The body of a task, with arguments of just these types. What keeps it from being done is a line at most, for
    which Celery would give a traceback; whoever rings for it rings again."""
    body: Callable[..., int] = _round if name == "strata.redrive" else getattr(Fleet, name.removeprefix("strata."))

    def run(*given: Any, **named: Any) -> int:
        if named or [type(argument) for argument in given] != list(kinds):
            log.warning("a message has other arguments than its task takes; it is left out", task=name)
            return 0
        try:
            with _span(installed.store.fleet, name):
                return body(installed.store.fleet, *given)
        except (UnavailableError, RefusedError) as error:  # which is said for all that need it
            log.debug("a task waits", task=name, reason=str(error))
        except StrataError as error:
            log.warning("a task could not be done", task=name, reason=str(error))
        return 0

    run.__name__, run.__doc__ = body.__name__, body.__doc__
    return run


def _span(fleet: Fleet, name: str) -> AbstractContextManager[object]:
    """That of a task; `strata.persist` has one for each batch. A round, of which most find nothing to do, has none, as
    in a thread; what it persists has one."""
    return nullcontext() if name in ("strata.persist", "strata.redrive") else fleet.tracer.span(name)


def _round(fleet: Fleet) -> int:
    """Look for overdue entries whose doorbell was lost, for waiting jobs, and for what is to be done now and then."""
    fleet.begin_round()
    late = fleet.redrive()
    fleet.look_after_jobs(JOBS)
    chores(fleet)
    return late
