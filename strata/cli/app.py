"""Which store a command works on."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from strata.datastore import DataStore
from strata.errors import InvalidConfigError

app_option: Callable[[Any], Any] = click.option(
    "--app",
    "target",
    envvar="STRATA_APP",
    required=True,
    metavar="PACKAGE.MODULE:STORE",
    help="Where your DataStore is (default: STRATA_APP).",
)
json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="As JSON.")


def load_store(target: str) -> DataStore:
    """The store that `package.module:store` names. Raises `InvalidConfigError` where there is none.

    What the module itself raises passes through: it is the application's mistake, and its traceback tells where.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise InvalidConfigError(f"the app is {target!r}; it must be package.module:store, where your DataStore is")
    here = os.getcwd()  # noqa: PTH109 a string, as sys.path wants it
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidConfigError(f"the app is {target!r}, but there is no module {error.name!r}") from error
    try:
        found = getattr(module, name)
    except AttributeError:
        raise InvalidConfigError(f"the app is {target!r}, but {module_name} has no {name!r}") from None
    if not isinstance(found, DataStore):
        raise InvalidConfigError(f"the app is {target!r}, which is a {type(found).__name__}, not a DataStore")
    return found
