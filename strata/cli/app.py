"""Options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

app_option: Callable[[Any], Any] = click.option(
    "--app",
    "target",
    envvar="STRATA_APP",
    required=True,
    metavar="PACKAGE.MODULE:STORE",
    help="Where your DataStore is (default: STRATA_APP).",
)
json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="As JSON.")
