"""Which indexes a schema wants."""

from __future__ import annotations

from typing import Any

from strata.errors import InvalidModelError
from strata.model.plan import ModelPlan
from strata.policies import Index
from strata.schema import Schema


def wanted_indexes(plan: ModelPlan[Any], schema: Schema[Any]) -> list[Index]:
    """The indexes that model and schema ask for, each set of columns once.

    Raises `InvalidModelError` for a column that there is not.
    """
    columns = plan.columns
    asked = [
        *(Index([column.name], unique=True) for column in columns if column.unique),
        *(Index([column.name]) for column in columns if column.indexed and not column.unique),
        *schema.indexes,
    ]
    names = set(plan.column_names)
    found: dict[tuple[tuple[str, ...], bool], Index] = {}
    for item in asked:
        unknown = [name for name in item.fields if name not in names]
        if unknown:
            raise InvalidModelError(
                f"an Index of schema {schema.name!r} names {unknown[0]!r}, which is no column of it"
            )
        found.setdefault((tuple(item.fields), item.unique), item)
    return [item for (fields, unique), item in found.items() if unique or (fields, True) not in found]
