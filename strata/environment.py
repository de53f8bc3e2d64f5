"""Settings in the environment: `STRATA_` and the name of a field of `Config` in capitals, and how each is read."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Callable, Iterable, Mapping, Set
from difflib import get_close_matches
from typing import Any

from strata.codec import JSON, MsgPack
from strata.encryption_keys import EncryptionKeys, parse_base64_key
from strata.errors import InvalidConfigError, shown
from strata.policies import Durability, EvictionPolicy, L1PoolConfig, L2PoolConfig, L3PoolConfig, Retention, WriteMode

PREFIX = "STRATA_"
NEAR = 0.85  # difflib's likeness from which a name is taken for a misspelt one: one letter in six or more
_OF_ANY_CHARACTERS = {"redis_password"}  # blanks are a value, too


class _UnreadableError(ValueError):
    """A text is not what a reader takes; the message says what would be right. The text is shown, so that readers of
    secrets do not raise it."""


def settings(names: Set[str], environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Those of the settings that the environment has. Raises `InvalidConfigError` naming the variable."""
    given = {name: environ.get(variable(name), "") for name in names & _READERS.keys()}
    said = {name: text for name, text in given.items() if (text if name in _OF_ANY_CHARACTERS else text.strip())}
    return {name: _read(name, text) for name, text in said.items()}


def fields_of(given: Any, where: str, names: Set[str], also: Set[str] = frozenset()) -> dict[str, Any]:
    """What a framework's setting says of them: a mapping by their names, in any case, in which texts are read as in the
    environment; names of `also` belong to the framework. Raises `InvalidConfigError`, which says `where` it is."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidConfigError(
            f"{where} is a {type(given).__name__}; it must be a mapping of fields of Config, by name"
        )
    fields = {name.lower(): value for name, value in given.items()}
    if unknown := sorted(fields.keys() - names - also):
        raise InvalidConfigError(
            f"{where} has {unknown[0]!r}, which is no field of Config; those are {', '.join(sorted(names | also))}"
        )
    texts = {variable(name): value for name, value in fields.items() if name in names and type(value) is str}
    return fields | settings(names, texts)


def check_names(names: Set[str], environ: Iterable[str] = os.environ) -> None:
    """Raise `InvalidConfigError` for a variable whose name is a misspelt setting. Others may belong to the application,
    also those that begin like a setting: it may have a `STRATA_REDIS_ADDR_2` for a store that it makes itself."""
    known = {variable(name) for name in names}
    for name in environ:
        if not name.startswith(PREFIX) or any(name.startswith(setting) for setting in known):
            continue
        near = get_close_matches(name.removeprefix(PREFIX), [item.removeprefix(PREFIX) for item in known], 1, NEAR)
        if near:
            raise InvalidConfigError(f"{name} is no variable of Strata's; is {PREFIX}{near[0]} meant?")


def variable(name: str) -> str:
    """The environment variable of the setting `name`."""
    return f"{PREFIX}{name.upper()}"


def _read(name: str, text: str) -> Any:
    try:
        return _READERS[name](text)
    except _UnreadableError as wanted:
        raise InvalidConfigError(f"{variable(name)} is {shown(text)}; {wanted}") from None
    except InvalidConfigError as error:
        raise InvalidConfigError(f"{variable(name)}: {error}") from None


def _number(text: str) -> float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise _UnreadableError("it must be a number of seconds, such as 0.5") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _UnreadableError("it must be a whole number") from None


def _one_of(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text.lower() not in choices:
            raise _UnreadableError(f"it must be one of {', '.join(choices)}")
        return choices[text.lower()]

    return read


def _member(kind: type[enum.Enum]) -> Callable[[str], Any]:
    return _one_of({name.lower(): item for name, item in kind.__members__.items()})


def _pool(kind: Any) -> Callable[[str], Any]:
    hints = {item.name: _PARTS.get(type(item.default), _number) for item in dataclasses.fields(kind)}

    def read(text: str) -> Any:
        found = {}
        for part in filter(None, map(str.strip, text.split(","))):
            name, equals, value = map(str.strip, part.partition("="))
            if not equals or name not in hints:
                said = f"{part!r} is none of its parts" if not equals else f"it has no {name!r}"
                raise _UnreadableError(f"{said}; its parts, each as name=value, are {', '.join(hints)}")
            try:
                found[name] = hints[name](value)
            except _UnreadableError as wanted:
                raise _UnreadableError(f"in {part!r} {wanted}") from None
        return kind(**found)

    return read


def _key(text: str) -> bytes | EncryptionKeys:
    if ":" not in text:
        return parse_base64_key(text, "the key")
    keys: dict[str, bytes] = {}
    for place, (name, _, value) in enumerate((part.strip().partition(":") for part in text.split(",")), 1):
        # By its number, not its id, which is part of a secret where the whole is no list.
        keys[name.strip()] = parse_base64_key(value, f"key number {place}")
    return EncryptionKeys(current=next(iter(keys)), keys=keys)


_TEXTS = """
    postgres_dsn postgres_direct_dsn redis_addr redis_password ledger_addr broker_url journal_dir invalidation_channel
    namespace
""".split()
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_PARTS: Mapping[type, Callable[[str], Any]] = {
    bool: _one_of(_FLAGS),
    int: _whole,
    EvictionPolicy: _member(EvictionPolicy),
}
_READERS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(("default_l1_ttl", "default_l2_ttl", "write_behind_flush_interval"), _number),
    **dict.fromkeys(
        ("redis_db", "write_behind_flush_threshold", "write_behind_max_retry", "write_behind_max_dirty"), _whole
    ),
    "l1_pool": _pool(L1PoolConfig),
    "l2_pool": _pool(L2PoolConfig),
    "l3_pool": _pool(L3PoolConfig),
    "retention": _pool(Retention),
    "default_write_mode": _member(WriteMode),
    "write_behind_durability": _member(Durability),
    "codec": lambda text: _one_of({"json": JSON, "msgpack": MsgPack})(text)(),
    "encryption_key": _key,
    "flush_on_sigterm": _one_of(_FLAGS),
}
