"""Which store a command or a worker works on: the one that STRATA_APP, or an option, names."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from strata.aio.store import plain
from strata.datastore import DataStore
from strata.errors import InvalidConfigError

_FORM = "package.module:store, where your DataStore, or a function that makes it, is"


def load_store(target: str | Callable[[], DataStore]) -> DataStore:
    """The store that `package.module:store` names: a `DataStore`, a function that returns one, or an attribute of
    something (`package.module:thing.store`); or that a function makes which is given itself. Raises
    `InvalidConfigError` where there is none.

    What the module itself, or the function, raises passes through: it is the application's mistake, and its traceback
    tells where.
    """
    if not isinstance(target, str):
        return target()
    check_name(target)
    module_name, _, path = target.partition(":")
    found = plain(_made(_found(_module(module_name, target), path, target), target))
    if not isinstance(found, DataStore):
        raise InvalidConfigError(f"the app is {target!r}, which is a {type(found).__name__}, not a DataStore")
    return found


def check_name(target: str) -> None:
    """Raise `InvalidConfigError` for what `load_store` cannot look for."""
    if not target:
        raise InvalidConfigError(f"no app is named; set STRATA_APP (or give --app) to {_FORM}")
    if not is_named(target):
        raise InvalidConfigError(f"the app is {target!r}; it must be {_FORM}")


def is_named(target: str) -> bool:
    """Whether it has the form that `load_store` takes."""
    module_name, _, path = target.partition(":")
    return bool(module_name and path)


def _module(name: str, target: str) -> Any:
    here = os.getcwd()  # noqa: PTH109 a string, as sys.path wants it
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InvalidConfigError(f"the app is {target!r}, but there is no module {error.name!r}") from error


def _found(module: Any, path: str, target: str) -> Any:
    found, where = module, module.__name__
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise InvalidConfigError(f"the app is {target!r}, but {where} has no {name!r}") from None
        where = f"{where}.{name}"
    return found


def _made(found: Any, target: str) -> Any:
    """What a factory makes; anything else as it is."""
    if isinstance(found, DataStore) or not callable(found):
        return found
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        raise InvalidConfigError(
            f"the app is {target!r}, which is to be called with arguments; name a DataStore, or a function without any"
        ) from None
    return found()
