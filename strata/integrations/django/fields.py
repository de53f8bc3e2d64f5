"""A field of a Django model as one of a record: the column's name, the type of its values, and what a new one has."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

from django.db import models

from strata.errors import InvalidModelError
from strata.model import UNLOADED, AutoNow, AutoNowAdd, Generated, PrimaryKey
from strata.model.fields import check_column_name

# The first that a field is an instance of. Of each of them Django and Strata have the same values in the same column.
_TYPES: tuple[tuple[type, Any], ...] = (
    (models.BooleanField, bool),
    (models.IntegerField, int),
    (models.CharField, str),
    (models.TextField, str),
    (models.FileField, str),
    (models.FilePathField, str),
    (models.UUIDField, uuid.UUID),
    (models.DateTimeField, datetime),
    (models.DateField, date),
    (models.TimeField, time),
    (models.DurationField, timedelta),
    (models.DecimalField, Decimal),
    (models.FloatField, float),
    (models.BinaryField, bytes),
)


@dataclasses.dataclass(frozen=True, slots=True)
class RecordField:
    """`hint` is its annotation; `default` is that of `dataclasses.field`, `MISSING` where a record has to say."""

    name: str
    hint: Any
    default: Callable[[], Any] | Any = dataclasses.MISSING


def record_field(field: Any, hints: Mapping[str, Any]) -> RecordField:
    """The field of a record that stands for the field's column; `hints` say the type where Django cannot.

    Raises `InvalidModelError` for a column that no record can have.
    """
    name = field.column
    check_column_name(name, field.model.__name__)
    hint = hints[name] if name in hints else _hint(field, field)
    if field.generated:
        return RecordField(name, hint, UNLOADED)
    if field.primary_key or field in getattr(field.model._meta.pk, "fields", ()):
        return _key(field, name, hint)
    marker = AutoNow if getattr(field, "auto_now", False) else AutoNowAdd
    if hint is datetime and (getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)):
        return RecordField(name, Annotated[hint | None, marker] if field.null else Annotated[hint, marker], UNSTAMPED)
    return RecordField(name, hint | None if field.null else hint, _default(field, hint))


UNSTAMPED = datetime(1, 1, 1)
"""What stands in a field that is stamped, before it is."""


def _key(field: Any, name: str, hint: Any) -> RecordField:
    if isinstance(field, models.AutoField) and field.primary_key:
        return RecordField(name, Annotated[hint | None, PrimaryKey, Generated], None)
    return RecordField(name, Annotated[hint, PrimaryKey], field.default if callable(field.default) else _MISSING)


_MISSING = dataclasses.MISSING


def _hint(field: Any, asked: Any) -> Any:
    """The type of the field's values; `asked` is the one that is spoken of."""
    if isinstance(field, models.GeneratedField):
        return _hint(field.output_field, asked)
    if isinstance(field, models.ForeignKey):
        return _hint(field.target_field, asked)
    if isinstance(field, models.JSONField) and _is_plain(field, models.JSONField):
        return list[Any] if field.default is list else dict[str, Any]
    known = next((item for item in _TYPES if isinstance(field, item[0])), None)
    if known is not None and _is_plain(field, known[0]):
        return known[1]
    what = f"{asked.model.__name__}.{asked.name} is a {type(field).__name__}"
    out = f"leave it out, as exclude=[{asked.column!r}]"
    if known is None:
        raise InvalidModelError(f"{what}, for whose column Strata has no type; {out}")
    raise InvalidModelError(
        f"{what}, which reads rows in a way of its own; give the type that a row has, as "
        f"hints={{{asked.column!r}: {known[1].__name__}}}, or {out}"
    )


def _is_plain(field: Any, kind: Any) -> bool:
    """Whether a subclass of Django's field reads rows as that does."""
    return getattr(type(field), "from_db_value", None) is getattr(kind, "from_db_value", None)


def _default(field: Any, hint: Any) -> Any:
    """What a new record has, as a new object of Django's: nothing of it is a DEFAULT of the table."""
    if field.has_default() and callable(field.default):
        return field.default
    if field.has_default():
        value = field.to_python(field.default)
        return lambda: str.__str__(value) if hint is str and isinstance(value, str) else value
    if field.null:
        return None
    if field.blank and hint is str:
        return str
    return dataclasses.MISSING
