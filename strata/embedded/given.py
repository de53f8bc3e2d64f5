"""What the embedded servers are given, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strata.errors import InvalidConfigError, shown
from strata.policies import count

MOST_SERVERS = 100


def number_of(value: int, what: str, least: int = 0, most: int = MOST_SERVERS) -> int:
    """`value`, a whole number within these bounds. Raises `InvalidConfigError`, as all of these do."""
    if count(value, what, least) > most:
        raise InvalidConfigError(f"{what} is {shown(value)}; it must be at most {most}")
    return value


def port_of(value: int | None) -> int | None:
    """`value`, a port; None is any that is free."""
    return None if value is None else number_of(value, "port", 1, 65_535)


def folder_of(value: Path | str | None) -> Path | None:
    """`value`, a directory; None is a temporary one."""
    if value is None:
        return None
    try:
        if isinstance(value, str | Path):
            folder = Path(value).absolute()
            folder.exists()
            return folder
    except (OSError, ValueError):  # a name that no file can have
        pass
    raise InvalidConfigError(f"directory is {shown(value)}; it must be a str or a Path that can be one, or None")


def texts_of(value: Mapping[str, str] | None, what: str) -> dict[str, str]:
    """`value`, names with texts; None is none."""
    given = {} if value is None else value
    if not isinstance(given, Mapping) or not all(isinstance(x, str) for pair in given.items() for x in pair):
        raise InvalidConfigError(f"{what} is {shown(value)}; it must be a dict of str to str, or None")
    return dict(given)


def password_of(value: str | None, what: str = "password") -> str | None:
    """`value`, which is not shown; None is one at random, where one is needed."""
    if value is not None and not isinstance(value, str):
        raise InvalidConfigError(f"{what} is a {type(value).__name__}; it must be a str, or None")
    return value


def made_of(value: Any, kind: type, what: str) -> Any:
    """`value`, of this class."""
    if not isinstance(value, kind):
        raise InvalidConfigError(f"{what} is {shown(value)}; it must be an {kind.__name__}")
    return value
