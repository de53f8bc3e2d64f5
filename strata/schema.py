"""A schema: one model, the tiers it lives in, and how writes travel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, Field, dataclass, field
from inspect import iscoroutinefunction
from types import NoneType
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from uuid import UUID

import msgspec

from strata.errors import InvalidConfigError, shown
from strata.hooks import SchemaHooks
from strata.policies import Index, MemPolicy, PostgresPolicy, RedisPolicy, WriteMode, member


class _Dataclass(Protocol):
    """What type checkers know every instance of a dataclass by."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class _Pydantic(Protocol):
    """What type checkers know every instance of a pydantic model by, where pydantic is not there to be named."""

    __pydantic_fields__: ClassVar[dict[str, Any]]


Record = _Dataclass | msgspec.Struct | _Pydantic
"""A record of any schema: an instance of a dataclass, of a Struct, or of a pydantic model."""

KeyField = str | int | UUID
Key = KeyField | tuple[KeyField, ...]
FieldNames = str | tuple[str, ...]
"""The id of a record."""

T = TypeVar("T", bound=Record)

SchemaRef = str | type[T]
"""How a call names a schema: by its name, or by its model class."""

_KINDS: dict[str, tuple[type, ...]] = {
    "l1": (MemPolicy, NoneType),
    "l2": (RedisPolicy, NoneType),
    "l3": (PostgresPolicy, NoneType),
    "hooks": (SchemaHooks,),
}


@dataclass(frozen=True)
class Schema(Generic[T]):
    """Binds a model class to its tiers; a tier exists where its policy is given, and at least one must be.

    Raises `InvalidConfigError` for a part of another kind; `DataStore.register` checks the rest.

    Attributes:
        model: The class of the records: a dataclass, a `msgspec.Struct`, or a `pydantic.BaseModel`.
        name: The schema's name, an SQL identifier. Default: the class name in snake_case.
        l1: What the memory of each process keeps. Default: none, there is no L1.
        l2: What Redis keeps. Default: none, there is no L2.
        l3: The table in PostgreSQL. Default: none, there is no L3.
        write_mode: When `set` returns. Default: `Config.default_write_mode`.
        indexes: Indexes of the table, beside those of the fields that are marked. Default: none.
        hooks: What is called when records are read, written and dropped. Default: nothing.
        tags: A function of a record that returns the list of its tags, texts by which `invalidate_tag` finds its copies
            in any process. It must say the same of the same record, and call nothing that waits. Default: no tags.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class PlayerScore:
    ...     id: str
    >>> Schema(PlayerScore, l1=MemPolicy(ttl=60)).name
    'player_score'
    """

    model: type[T]
    _: KW_ONLY
    name: str = ""
    l1: MemPolicy | None = None
    l2: RedisPolicy | None = None
    l3: PostgresPolicy | None = None
    write_mode: WriteMode | None = None
    indexes: Sequence[Index] = ()
    hooks: SchemaHooks[T] = field(default_factory=SchemaHooks[T])
    tags: Callable[[T], Iterable[str]] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.name, str) and not self.name:
            object.__setattr__(self, "name", snake_case(str(getattr(self.model, "__name__", ""))))
        for part, kind in _KINDS.items():
            value = getattr(self, part)
            if not isinstance(value, kind):
                none = ", or None" if NoneType in kind else ""
                wanted = f"{kind[0].__name__}(...){none}"
                raise InvalidConfigError(f"{part} of a Schema is {shown(value)}; it must be a {wanted}")
        if self.write_mode is not None:
            member(self.write_mode, WriteMode, "write_mode of a Schema")
        if isinstance(self.indexes, str) or not isinstance(self.indexes, Iterable):
            raise InvalidConfigError(f"indexes of a Schema is {shown(self.indexes)}; it must be a list of Index")
        if self.tags is not None and (not callable(self.tags) or iscoroutinefunction(self.tags)):
            raise InvalidConfigError(
                f"tags of a Schema is {shown(self.tags)}; it must be a plain function of a record, or None"
            )
        object.__setattr__(self, "indexes", tuple(self.indexes))
        for item in self.indexes:
            if not isinstance(item, Index):
                raise InvalidConfigError(f"indexes of a Schema has {shown(item)}; each must be an Index")


def snake_case(name: str) -> str:
    """`PlayerScore` as `player_score`, `HTTPLog` as `http_log`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return spaced.lower()
