"""The settings of an application's store: those of `app.config`, and for what they do not say the environment's."""

from __future__ import annotations

from flask import Flask

from strata.config import CONFIG_FIELDS, Config
from strata.environment import check_names, fields_of, variable


def config_of(app: Flask) -> Config:
    """Of each field what `app.config["STRATA"]` says, else its `STRATA_...` key, else the environment.

    A text is read as in the environment, so that files and `FLASK_STRATA_...` variables can say everything that one can
    say there. Raises `InvalidConfigError`.
    """
    given = app.config.get("STRATA", {})
    if isinstance(given, Config):
        return given
    check_names(CONFIG_FIELDS, app.config)
    keys = {name: app.config[key] for name in CONFIG_FIELDS if (key := variable(name)) in app.config}
    said = fields_of(given, 'app.config["STRATA"]', CONFIG_FIELDS)
    return Config.from_env(**fields_of(keys, "app.config", CONFIG_FIELDS) | said)
