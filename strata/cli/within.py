"""Strata's commands within the command line of a framework, which knows whose store they work on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from strata.cli.main import StrataGroup, main
from strata.datastore import DataStore


def commands_on(make: Callable[[], DataStore]) -> click.Group:
    """`strata` with its commands that need a store, each without `--app`: it works on one of `make`, and closes it."""
    group = StrataGroup("strata", callback=main.callback, help="Strata's commands on this application's store.")
    group.commands = _on(make, main)
    return group


def _on(make: Callable[[], DataStore], group: click.Group) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        bound: Any = copy.copy(command)
        if isinstance(command, click.Group):
            bound.commands = _on(make, command)
        elif any(map(_names_a_store, command.params)):
            bound.params = [param for param in command.params if not _names_a_store(param)]
            bound.callback = partial(bound.callback, target=make)
        else:
            continue
        found[name] = bound
    return found


def _names_a_store(param: click.Parameter) -> bool:
    return param.name == "target" and param.required
