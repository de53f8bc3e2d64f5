"""Which rows come after a given one, in an order of any columns, directions and places for NULL.

Where the columns agree in their direction and none may be NULL, that is one comparison of rows; else it is spelled out,
column by column. A condition always begins with a bound of the first column, at which an index can begin. What comes
after a row is one *stretch* of such an index, or, where the rows with NULL lie at its other end, two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from strata.l3.layout import Layout, quote
from strata.query import Order


class Sorted(NamedTuple):
    """A column of an order, as SQL. `led_by_null`: where NULL goes; `nullable`: whether it can be there."""

    sql: str
    desc: bool
    led_by_null: bool
    nullable: bool

    @property
    def term(self) -> str:
        """It in ORDER BY. PostgreSQL's own place for NULL is not spelled out, nor that of none: indexes have it so."""
        way = f"{self.sql} DESC" if self.desc else self.sql
        if self.led_by_null is self.desc or not self.nullable:
            return way
        return f"{way} NULLS {'FIRST' if self.led_by_null else 'LAST'}"

    @property
    def beyond(self) -> str:
        """The operator between a column and a value that comes before it."""
        return "<" if self.desc else ">"


class Stretch(NamedTuple):
    """A condition, empty for all rows, and the values of its placeholders, as PostgreSQL writes them."""

    condition: str
    args: tuple[str, ...]


def whole(order: Sequence[Order], keys: Sequence[str]) -> list[Order]:
    """The order with those of the keys at its end that it lacks, in the direction of the last column: an index on them
    all gives the rows as they come, and rows that are otherwise equal have one order."""
    desc = bool(order) and order[-1].desc
    named = {item.column for item in order}
    return [*order, *(Order(key, desc) for key in keys if key not in named)]


def columns_of(layout: Layout, order: Sequence[Order]) -> list[Sorted]:
    """The columns of an order, with the table's name: a plain one would mean what is selected under it, and cast."""
    return [
        Sorted(f"{layout.table}.{quote(item.column)}", item.desc, item.led_by_null, layout.field(item.column).nullable)
        for item in order
    ]


def stretches(columns: Sequence[Sorted], values: Sequence[str | None], first: int) -> list[Stretch]:
    """What comes after the row of these values, in order; `first` is the number of the first placeholder."""
    head, value = columns[0], values[0]
    after = _After(columns, values, first)
    if after.agree(0):
        return [after.stretch(after.row(0))]
    if value is None:
        found = [after.stretch(f"{head.sql} IS NULL AND ({after.chain(1)})" if len(columns) > 1 else "false")]
        return [*found, Stretch(f"{head.sql} IS NOT NULL", ())] if head.led_by_null else found
    mark = after.mark(0)
    bound = f"{head.sql} {head.beyond}= {mark}"
    further = f"{head.sql} {head.beyond} {mark}"
    found = [after.stretch(f"{bound} AND ({further} OR {after.chain(1)})" if len(columns) > 1 else further)]
    return [*found, Stretch(f"{head.sql} IS NULL", ())] if head.nullable and not head.led_by_null else found


class _After:
    """The conditions about a row, and the placeholders that they came to use."""

    def __init__(self, columns: Sequence[Sorted], values: Sequence[str | None], first: int) -> None:
        self._columns = columns
        self._values = values
        self._first = first
        self._used: dict[int, str] = {}

    def stretch(self, condition: str) -> Stretch:
        return Stretch(condition, tuple(self._values[place] or "" for place in self._used))

    def mark(self, place: int) -> str:
        """The placeholder of a column's value."""
        return self._used.setdefault(place, f"${self._first + len(self._used)}")

    def agree(self, start: int) -> bool:
        """Whether the columns from there on can be compared as rows: they go one way, and nothing is NULL."""
        rest = self._columns[start:]
        one_way = len({column.desc for column in rest}) == 1
        return one_way and not any(column.nullable for column in rest) and None not in self._values[start:]

    def row(self, start: int) -> str:
        """The comparison of the columns from there on, which agree."""
        places = range(start, len(self._columns))
        names, marks = ", ".join(self._columns[p].sql for p in places), ", ".join(self.mark(p) for p in places)
        return f"({names}) {self._columns[start].beyond} ({marks})"

    def chain(self, start: int) -> str:
        """What comes after, of rows that are equal in the columns before."""
        last = len(self._columns)
        agreeing = next((place for place in range(start, last) if self.agree(place)), last)
        condition = self.row(agreeing) if agreeing < last else ""
        for place in reversed(range(start, agreeing)):
            condition = self._one(place, condition)
        return condition

    def _one(self, place: int, rest: str) -> str:
        """A column, of which `rest` is what comes after where it is equal."""
        column = self._columns[place]
        if self._values[place] is None:
            ways = [f"{column.sql} IS NOT NULL"] if column.led_by_null else []
            equal = f"{column.sql} IS NULL"
        else:
            mark = self.mark(place)
            ways = [f"{column.sql} {column.beyond} {mark}"]
            if column.nullable and not column.led_by_null:
                ways.append(f"{column.sql} IS NULL")
            equal = f"{column.sql} = {mark}"
        return " OR ".join([*ways, *([f"({equal} AND ({rest}))"] if rest else [])]) or "false"
