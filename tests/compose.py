"""`docker-compose.yml` as Docker Compose reads it: YAML, then the variables in its texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
# $$, or ${NAME}, ${NAME:-else} and ${NAME:?what to set}, in which `else` may have such a thing in it.
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>(?:\$\{\w+\}|[^}])*))?\})")


class Missing(Exception):
    """A variable that must be set is not, or is empty."""


@cache
def services() -> dict[str, Any]:
    """The services as they are written."""
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def rendered(variables: Mapping[str, str]) -> dict[str, Any]:
    """The services with these variables in place. Raises `Missing`."""
    return {name: _within(service, variables) for name, service in services().items()}


def _within(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _text(value, variables)
    if isinstance(value, dict):
        return {name: _within(item, variables) for name, item in value.items()}
    return [_within(item, variables) for item in value] if isinstance(value, list) else value


def _text(text: str, variables: Mapping[str, str]) -> str:
    def put(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        value = variables.get(found["name"], "")
        if not value and found["kind"] == "?":
            raise Missing(found["name"])
        return value or (_text(found["rest"], variables) if found["kind"] == "-" else "")

    return _VARIABLE.sub(put, text)
