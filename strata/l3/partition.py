"""How a table is divided: by the hash of its key, or by the month of a timestamp.

PostgreSQL keeps unique only what the partition's column is part of. A table divided by months therefore has (key,
timestamp) for its primary key, and that a key has one row, wherever that lives, is the work of its writers: each
holds the advisory lock of the key's shard alone, looks for the row in all partitions, and inserts where there is
none. An update that changes the timestamp moves the row (PostgreSQL does so itself). Months are those of UTC; what
lies in no month that was made, NULL included, is in the default partition.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple

from strata.errors import InvalidModelError, shown
from strata.model.fields import Kind
from strata.model.plan import ModelPlan
from strata.policies import Index

MONTHS_AHEAD = 3


class Partition(NamedTuple):
    """The column, and whether its months divide the table; otherwise its hash does: it is the key, or a part of it."""

    column: str
    monthly: bool


class Month(NamedTuple):
    """A month of UTC."""

    year: int
    number: int

    @classmethod
    def of(cls, at: datetime.datetime) -> Month:
        """The month of a moment."""
        at = at.astimezone(datetime.UTC)
        return cls(at.year, at.month)

    def next(self) -> Month:
        """The month after it."""
        return Month(self.year + 1, 1) if self.number == 12 else Month(self.year, self.number + 1)

    @property
    def start(self) -> datetime.datetime:
        """Its first moment."""
        return datetime.datetime(self.year, self.number, 1, tzinfo=datetime.UTC)

    @property
    def suffix(self) -> str:
        """What the name of its partition ends in."""
        return f"y{self.year:04}m{self.number:02}"


def months_from(now: datetime.datetime, ahead: int = MONTHS_AHEAD) -> list[Month]:
    """The month of `now`, and those ahead of it."""
    months = [Month.of(now)]
    for _ in range(ahead):
        months.append(months[-1].next())
    return months


def partition_of(plan: ModelPlan[Any], table: str, by: str | None) -> Partition | None:
    """What `PostgresPolicy.partition_by` means. Raises `InvalidModelError`."""
    if by is None:
        return None
    if by in plan.key.names:
        return Partition(by, monthly=False)
    key = " or ".join(map(repr, plan.key.names))
    of = "" if len(plan.key.names) == 1 else "a field of "
    wanted = f"partition_by is {of}the key, {key} (by hash), or a datetime column (by month)"
    field = next((column for column in plan.columns if column.name == by), None)
    if field is None:
        said = f"table {table!r} cannot be partitioned by {shown(by)}, which is no column of it"
        raise InvalidModelError(f"{said}; {wanted}")
    if field.kind is not Kind.TIMESTAMPTZ:
        raise InvalidModelError(f"table {table!r} cannot be partitioned by {by!r}, which is {field.sql_type}; {wanted}")
    return Partition(by, monthly=True)


def check_unique(plan: ModelPlan[Any], table: str, partition: Partition | None, indexes: Sequence[Index]) -> None:
    """Raise `InvalidModelError` for what PostgreSQL cannot keep unique in a table that is divided so."""
    if partition is None:
        return
    for item in indexes:
        if item.unique and partition.column not in item.fields and tuple(item.fields) != plan.key.names:
            raise InvalidModelError(
                f"table {table!r} is partitioned by {partition.column!r}, so that {', '.join(item.fields)} cannot be "
                "unique in all of it: PostgreSQL checks each partition by itself; drop Unique, or partition_by"
            )
