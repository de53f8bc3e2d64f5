"""The Celery app of the fleet, and the user's store, which knows schemas, hooks and keys."""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache

import kombu

from strata import DataStore
from strata.errors import InvalidConfigError
from strata.writebehind.broker import celery_app

QUEUES = ("strata.persist", "strata.redrive", "strata.warm", "strata.migrate")


@cache
def store() -> DataStore:
    """The store that STRATA_APP names as `package.module:store`. Raises `InvalidConfigError` where there is none."""
    target = os.environ.get("STRATA_APP", "")
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise InvalidConfigError(f"STRATA_APP is {target!r}; set it to package.module:store, where your DataStore is")
    sys.path[:0] = [path for path in (os.getcwd(),) if path not in sys.path]  # noqa: PTH109 as python -m does
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise InvalidConfigError(f"STRATA_APP is {target!r}, but there is no module {error.name!r}") from error
    except AttributeError:
        raise InvalidConfigError(f"STRATA_APP is {target!r}, but {module_name} has no {name!r}") from None
    if not isinstance(found, DataStore):
        raise InvalidConfigError(f"STRATA_APP is {target!r}, which is a {type(found).__name__}, not a DataStore")
    return found


app = celery_app(store().config)
# Direct queues: Celery publishes to them without a binding, which a flushed Redis would lose.
app.conf.task_queues = [kombu.Queue(name, routing_key=name) for name in QUEUES]  # type: ignore[attr-defined, no-untyped-call]
app.conf.include = ["workers.tasks", "workers.lifecycle"]
