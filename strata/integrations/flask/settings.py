"""The settings of an application's store: those of `app.config`, and for what they do not say the environment's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask

from strata.config import Config
from strata.environment import check_names, settings, variable
from strata.errors import InvalidConfigError, shown

FIELDS = frozenset(Config.__dataclass_fields__)


def config_of(app: Flask) -> Config:
    """Of each field what `app.config["STRATA"]` says, else its `STRATA_...` key, else the environment.

    A text is read as in the environment, so that files and `FLASK_STRATA_...` variables can say everything that one can
    say there. Raises `InvalidConfigError`.
    """
    given = app.config.get("STRATA", {})
    if isinstance(given, Config):
        return given
    check_names(FIELDS, app.config)
    found = {name: app.config[key] for name in FIELDS if (key := variable(name)) in app.config} | _fields(given)
    texts = {variable(name): value for name, value in found.items() if type(value) is str}
    return Config.from_env(**found | settings(FIELDS, texts))


def _fields(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidConfigError(
            f'app.config["STRATA"] is {shown(given)}; it must be a Config, or a mapping of its fields'
        )
    fields = {name.lower(): value for name, value in given.items()}
    if unknown := sorted(fields.keys() - FIELDS):
        raise InvalidConfigError(
            f'app.config["STRATA"] has {unknown[0]!r}, which is no field of Config; those are '
            f"{', '.join(sorted(FIELDS))}"
        )
    return fields
