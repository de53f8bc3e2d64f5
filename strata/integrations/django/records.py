"""`record_of`: the record class and schema of a Django model, whose table stays Django's."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from strata.errors import InvalidModelError, shown
from strata.integrations.django.fields import RecordField, record_field
from strata.model.keys import ModelKey
from strata.model.plan import compile_model
from strata.policies import MemPolicy, PostgresPolicy, RedisPolicy
from strata.schema import Schema


def record_of(
    model: Any,
    *,
    name: str = "",
    l1: MemPolicy | None = MemPolicy(),
    l2: RedisPolicy | None = RedisPolicy(),
    l3: PostgresPolicy = PostgresPolicy(watch=True),
    exclude: Collection[str] = (),
    hints: Mapping[str, Any] | None = None,
    frozen: bool = False,
    **options: Any,
) -> Schema[Any]:
    """The schema of a Django model; its `model` is a dataclass made for it, with a field for each column.

    The table stays Django's: Strata alters nothing of it, and hears of what the ORM changes by the triggers that
    `StrataFields` gives it (`watch=True`), or by `invalidate_on_commit`. The fields are those of the model's own table,
    named as its columns (`author_id`). New records have the defaults that new objects have; `auto_now` and
    `auto_now_add` are stamped; neither `save` nor signals nor validators run.

    Args:
        model: A Django model with a table of its own, or a proxy of one.
        name: The schema's name. Default: that of the table.
        l1: As in `Schema`. Default: with the times of `Config`.
        l2: As `l1`.
        l3: As in `Schema`; `table_name` and `managed` are set.
        exclude: Columns that the record is to be without; rows keep what is in them.
        hints: Types by column, where another one is wanted, such as a dataclass for a `JSONField`.
        frozen: Whether the dataclass is.
        options: What else `Schema` takes, such as `write_mode`.

    Raises `InvalidModelError` for a column of which no record can have the value, and for what is no such model.
    """
    if not hasattr(model, "_meta") or model._meta.abstract:
        raise InvalidModelError(f"record_of takes a Django model that has a table, not {shown(model)}")
    meta = model._meta.concrete_model._meta
    fields = [item for item in meta.local_concrete_fields if item.column is not None]
    columns = {item.column for item in fields}
    for told in (*exclude, *(hints or ())):
        if told not in columns:
            raise InvalidModelError(f"{model.__name__} has no column {told!r}; it has {', '.join(sorted(columns))}")
    made = [record_field(item, hints or {}) for item in fields if item.column not in exclude]
    return Schema(
        _record_class(model, made, frozen=frozen),
        name=name or meta.db_table,
        l1=l1,
        l2=l2,
        l3=dataclasses.replace(l3, table_name=meta.db_table, managed=False),
        **options,
    )


def key_of(model: Any) -> ModelKey:
    """The key of a model's table. Raises `InvalidModelError` for one that no record can have."""
    pk = model._meta.concrete_model._meta.pk
    fields = [record_field(field, {}) for field in getattr(pk, "fields", None) or [pk]]
    return compile_model(_record_class(model, fields, frozen=False)).key


def _record_class(model: Any, fields: Collection[RecordField], *, frozen: bool) -> Any:
    specs = [(item.name, item.hint, _field(item.default)) for item in fields]
    made = dataclasses.make_dataclass(f"{model.__name__}Record", specs, frozen=frozen, kw_only=True)
    made.__module__ = model.__module__
    made.__doc__ = f"A row of {model._meta.db_table}."
    return made


def _field(default: Any) -> Any:
    if default is dataclasses.MISSING:
        return dataclasses.field()
    if callable(default):
        return dataclasses.field(default_factory=default)
    return dataclasses.field(default=default)
