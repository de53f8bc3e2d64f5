"""Options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


class AppGroup(click.Group):
    """Takes `--app` in front of a command as the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        count = 2 if args[:1] == ["--app"] else int("".join(args[:1]).startswith("--app="))
        given, others = args[:count], args[count:]
        return super().parse_args(ctx, [*others[:1], *given, *others[1:]] if others else [])


app_option: Callable[[Any], Any] = click.option(
    "--app",
    "target",
    envvar="STRATA_APP",
    required=True,
    metavar="PACKAGE.MODULE:STORE",
    help="Where your DataStore is (default: STRATA_APP).",
)
json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="As JSON.")
