"""`Q` builds, and `Query` is, what `search`, its relatives and `count` ask of PostgreSQL.

A query is checked as soon as it is made: placeholders are counted and statements told apart outside quotes and
comments, by PostgreSQL's lexical rules (manual, "Lexical Structure", with `standard_conforming_strings` on).
"""

from __future__ import annotations

import datetime
import enum
import functools
import hashlib
import re
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, NamedTuple

from strata.errors import QueryError, shown

DEFAULT_LIMIT = 100
_MAX_BIGINT = (1 << 63) - 1
_SPELLED = (
    int, float, str, bytes, Decimal, uuid.UUID, datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip

_FIRST = r"A-Za-z_\u0080-\U0010ffff"  # what a name may begin with, and the tag of a dollar-quoted string
_TAG = rf"[{_FIRST}][{_FIRST}0-9]*+"
# A string goes on in the next quote, if there is nothing but space, with a line's end in it, and comments between.
_GOES_ON = r"(?:[ \t\f\v]|--[^\r\n]*+)*+[\r\n](?:[ \t\f\v\r\n]|--[^\r\n]*+[\r\n])*+'"
_BLOCK = re.compile(r"/\*|\*/")


@functools.cache  # made at the first query: it takes longer than all else that an import of this module does
def _lexeme() -> re.Pattern[str]:
    return re.compile(
        rf"""
          (?P<escaped>[eE]'(?:[^'\\]|''|\\.|'{_GOES_ON})*+')    # E'...', where a backslash escapes
        | (?P<word>(?![eE]')[{_FIRST}][{_FIRST}0-9$]*+)         # a `$` in one is no placeholder
        | (?P<string>'(?:[^']|'')*+')
        | (?P<name>"(?:[^"]|"")*+")
        | (?P<dollar>\$(?P<tag>(?:{_TAG})?)\$.*?\$(?P=tag)\$)
        | (?P<line>--[^\r\n]*)
        | (?P<block>/\*)
        | \$(?P<placeholder>[0-9]+)
        | (?P<broken>[eE]'|['"]|\$(?:{_TAG})?\$)    # opened, never closed
        | (?P<mark>[;()])
        | [^{_FIRST}'"$/;()\-]+    # nothing of interest, passed over at once
        """,
        re.VERBOSE | re.DOTALL,
    )


class Order(NamedTuple):
    """A column that rows are sorted by, its direction, and where NULL goes; None is as PostgreSQL has it, to which NULL
    is the greatest value of all."""

    column: str
    desc: bool = False
    nulls_first: bool | None = None

    @property
    def led_by_null(self) -> bool:
        """Whether the rows that have NULL there come before the others."""
        return self.desc if self.nulls_first is None else self.nulls_first


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; frozen. Raises `QueryError` when made, if it could not be run as it stands.

    Attributes:
        where: A condition in SQL, with `$1`, `$2`, ... for `args`. Default: "", every row.
        args: The values of the placeholders. Default: none.
        order_by: The column to sort by, or a sequence of them, the first one first. Default: "", none.
        desc: Whether it is sorted descending, or a sequence of that for each column. Default: False.
        limit: Rows at most; 0 means 100. Default: 0.
        offset: Rows that are skipped. Default: 0.
        fields: The columns to load; the other fields hold `UNLOADED`. Default: all of them.
        force_l2: "Not from L1"; it changes nothing, since whole results are kept in L2 and never in L1. Default: False.
        force_l3: Whether `search_cached` asks L3 and no cache. Default: False.
        nulls_first: Whether NULL comes first, or last, or a sequence of that for each column. Default: None, as
            PostgreSQL has it, last where ascending and first where descending.

    >>> Query(where="level > $1", args=(10,), order_by="level").limit_rows
    100
    >>> Query(order_by=("score", "name"), desc=(True, False)).order[0]
    Order(column='score', desc=True, nulls_first=None)
    """

    where: str = ""
    args: tuple[Any, ...] = ()
    order_by: str | tuple[str, ...] = ""
    desc: bool | tuple[bool, ...] = False
    limit: int = 0
    offset: int = 0
    fields: tuple[str, ...] = ()
    force_l2: bool = False
    force_l3: bool = False
    nulls_first: bool | tuple[bool | None, ...] | None = None

    def __post_init__(self) -> None:
        for what, value in (("fields", self.fields), ("args", self.args)):
            if isinstance(value, str | bytes) or not isinstance(value, Sequence):
                raise QueryError(f"{what} is a {type(value).__name__}; it must be a sequence, such as a tuple")
        object.__setattr__(self, "args", tuple(_argument(value, place) for place, value in enumerate(self.args, 1)))
        object.__setattr__(self, "fields", tuple(self.fields))
        _check_count(self.limit, "limit")
        _check_count(self.offset, "offset")
        if not isinstance(self.where, str):
            raise QueryError(f"where is a {type(self.where).__name__}; it must be a str, such as 'level > $1'")
        for name in self.fields:
            if not isinstance(name, str):
                kind = type(name).__name__
                raise QueryError(f"fields has a {kind} in it; give the names of columns: fields('id', 'score')")
        for name, value in _order(self.order_by, self.desc, self.nulls_first).items():
            object.__setattr__(self, name, value)
        _check_where(self.where, len(self.args))

    @property
    def limit_rows(self) -> int:
        """The number of rows asked for."""
        return self.limit or DEFAULT_LIMIT

    @property
    def order(self) -> tuple[Order, ...]:
        """The columns to sort by, the first one first."""
        columns, directions, nulls = self.order_by, self.desc, self.nulls_first
        if isinstance(columns, str):
            assert not isinstance(nulls, tuple)
            return (Order(columns, directions is True, nulls),) if columns else ()
        assert isinstance(directions, tuple)
        return tuple(map(Order, columns, directions, nulls if isinstance(nulls, tuple) else [None] * len(columns)))

    def fingerprint(self, shape: str = "") -> str:
        """A key made from all that decides the result: equal for equal queries, in every process.

        `shape` tells models apart whose records of the same rows differ. An argument counts with its type, so that
        `1`, `1.0`, `True` and `"1"` are four queries.
        """
        order = tuple(
            item[:2] if item.led_by_null is item.desc else (*item[:2], item.led_by_null) for item in self.order
        )
        parts = (shape, self.where, order, self.limit_rows, self.offset, self.fields, self.args)
        return hashlib.blake2b(_spelled(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Q:
    """Builds a `Query` step by step; immutable, each step returns a new one.

    >>> Q().where("region = $1 AND level > $2", "eu", 10).order_by("score").desc().limit(25).build().limit
    25
    """

    _query: Query = field(default_factory=lambda: Query())

    def where(self, sql: str, *args: Any) -> Q:
        """The condition, with `$1`, `$2`, ... for `args`.

        Raises `QueryError` if there is one already, if it is empty, or could not be run as it stands.
        """
        if self._query.where:
            raise QueryError("where was given twice; join the conditions with AND in one where")
        if isinstance(sql, str) and not sql.strip():
            raise QueryError("where is empty; leave it out to find every row")
        return Q(replace(self._query, where=sql, args=args))

    def order_by(self, column: str) -> Q:
        """Sort by this column, ascending unless `desc` follows, and where rows are equal by the next `order_by`.

        Raises `QueryError` for what is no name, and for a column that was named before.

        >>> Q().order_by("score").desc().order_by("name").nulls_first().build().order[1]
        Order(column='name', desc=False, nulls_first=True)
        """
        if not isinstance(column, str) or not column:
            raise QueryError("order_by takes the name of one column; call it again for the next")
        return self._ordered([*self._query.order, Order(column)])

    def desc(self) -> Q:
        """Sort descending by the column of the last `order_by`. Raises `QueryError` if there is none."""
        return self._last("desc", lambda last: last._replace(desc=True))

    def nulls_first(self) -> Q:
        """Rows that have NULL in the column of the last `order_by` come first. Raises `QueryError` if there is none."""
        return self._last("nulls_first", lambda last: last._replace(nulls_first=True))

    def nulls_last(self) -> Q:
        """Rows that have NULL in the column of the last `order_by` come last. Raises `QueryError` if there is none."""
        return self._last("nulls_last", lambda last: last._replace(nulls_first=False))

    def _last(self, what: str, change: Callable[[Order], Order]) -> Q:
        if not self._query.order:
            raise QueryError(f"{what} follows an order_by, and there is none; name the column first")
        *before, last = self._query.order
        return self._ordered([*before, change(last)])

    def _ordered(self, order: list[Order]) -> Q:
        columns, directions, nulls = zip(*order, strict=True)
        return Q(replace(self._query, order_by=columns, desc=directions, nulls_first=nulls))

    def limit(self, rows: int) -> Q:
        """At most so many rows; 0 means 100. Raises `QueryError` for what is no whole number of 0 or more."""
        return Q(replace(self._query, limit=rows))

    def offset(self, rows: int) -> Q:
        """Skip so many rows. Raises `QueryError` for what is no whole number of 0 or more."""
        return Q(replace(self._query, offset=rows))

    def fields(self, *names: str) -> Q:
        """Load these columns only; the other fields hold `UNLOADED`. Raises `QueryError` for what is no name."""
        return Q(replace(self._query, fields=names))

    def force_l2(self) -> Q:
        """`search_cached`: do not answer from L1. It never does, so that this changes nothing; it is there for queries
        that come from the Go library. `get` has a `force_l2` that does something."""
        return Q(replace(self._query, force_l2=True))

    def force_l3(self) -> Q:
        """`search_cached`: do not answer from a cache."""
        return Q(replace(self._query, force_l3=True))

    def build(self) -> Query:
        """The finished query."""
        return self._query


def as_query(query: Q | Query | None) -> Query:
    """`query` as a `Query`; None is the query that finds every row. Raises `QueryError` for anything else."""
    if isinstance(query, Query):
        return query
    if query is None:
        return Query()
    if isinstance(query, Q):
        return query.build()
    raise QueryError(f"query is a {type(query).__name__}; it must be a Q or a Query")


def check_columns(query: Query, column_names: Collection[str], schema_name: str) -> None:
    """Raise `QueryError` where `order_by` or `fields` names something that is not a column of the schema."""
    named = [("order_by", order.column) for order in query.order]
    for what, name in [*named, *(("fields", name) for name in query.fields)]:
        if name not in column_names:
            known = ", ".join(column_names)
            raise QueryError(f"{what} names {name!r}, which is no column of schema {schema_name!r}; it has {known}")


def _check_count(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_BIGINT:
        raise QueryError(f"{what} is {shown(value)}; it must be a whole number, 0 or more")


def _order(order_by: Any, desc: Any, nulls_first: Any) -> dict[str, Any]:
    """The three in the form that equal orders share: of one column each as itself, of several as tuples."""
    columns = [order_by] if isinstance(order_by, str) else order_by
    directions = [desc] if isinstance(desc, bool) else desc
    nulls = [nulls_first] if nulls_first is None or isinstance(nulls_first, bool) else nulls_first
    for what, value, kind in (("order_by", columns, str), ("desc", directions, bool), ("nulls_first", nulls, bool)):
        known = (kind, type(None)) if value is nulls else kind
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, known) for v in value):
            raise QueryError(f"{what} must be a {kind.__name__}, or a sequence of them")
    if columns == [""] or not columns:
        if any(directions) or any(place is not None for place in nulls):
            raise QueryError("desc, or nulls_first, is given without an order_by; name the column to sort by")
        return {"order_by": "", "desc": False, "nulls_first": None}
    directions = [False] * len(columns) if desc is False else directions
    nulls = [None] * len(columns) if nulls_first is None else nulls
    for what, value in (("desc", directions), ("nulls_first", nulls)):
        if len(value) != len(columns):
            raise QueryError(f"order_by has {len(columns)} columns, {what} {len(value)} values; give one for each")
    if len(set(columns)) < len(columns):
        raise QueryError("order_by names a column twice; once is enough")
    if len(columns) == 1:
        return {"order_by": columns[0], "desc": directions[0], "nulls_first": nulls[0]}
    placed = None if all(place is None for place in nulls) else tuple(nulls)
    return {"order_by": tuple(columns), "desc": tuple(directions), "nulls_first": placed}


def _check_where(where: str, args: int) -> None:
    used: set[int] = set()
    depth = 0
    for kind, text, _ in scan(where):
        if kind == "comment":
            continue
        if kind == "placeholder":
            used.add(int(text[-10:]) if len(text.lstrip("0")) < 10 else _MAX_BIGINT)
        elif text == ";":
            raise QueryError("where holds a ';' outside quotes; it must be one condition, without a semicolon")
        else:
            depth += 1 if text == "(" else -1
            if depth < 0:
                break
    if depth:
        raise QueryError("where has parentheses that do not match")
    if 0 in used:
        raise QueryError("where uses $0; placeholders are numbered from $1")
    highest = max(used, default=0)
    if highest == _MAX_BIGINT:
        raise QueryError("where has a placeholder with more than nine digits; number them from $1")
    if highest != args:
        raise QueryError(
            f"where has {highest} placeholders, which are $1, $2 and so on, but {args} arguments were given; give one "
            "for each"
        )
    if len(used) != args:
        missing = min(set(range(1, args + 1)) - used)
        raise QueryError(f"where uses ${highest} but not ${missing}; number the placeholders without a gap")


def scan(sql: str, what: str = "where") -> Iterator[tuple[str, str, int]]:
    """What PostgreSQL sees of `sql` outside quotes and comments: (kind, text, place) of each.

    The kinds are "placeholder", whose text is the number, "mark" (a semicolon or parenthesis) and "comment". Raises
    `QueryError`, in which `sql` is called `what`, for what is never closed.
    """
    _check_text(sql, what)
    at = 0
    while found := _lexeme().search(sql, at):
        start, at = found.span()
        kind = found.lastgroup or ""
        if kind == "broken":
            raise QueryError(f"{what} has a quote ({found[kind]}) that is never closed")
        if kind == "block":
            at = _end_of_comment(sql, at, what)
        if kind in ("block", "line"):
            yield "comment", sql[start:at], start
        elif kind in ("placeholder", "mark"):
            yield kind, found[kind], start


def _end_of_comment(sql: str, at: int, what: str) -> int:
    depth = 1  # block comments nest
    while depth:
        found = _BLOCK.search(sql, at)
        if found is None:
            raise QueryError(f"{what} has a comment (/*) that is never closed")
        depth += 1 if found.group() == "/*" else -1
        at = found.end()
    return at


def _check_text(text: str, what: str) -> None:
    if "\x00" in text:
        raise QueryError(f"{what} holds a NUL character, which PostgreSQL cannot take")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise QueryError(f"{what} holds half of a surrogate pair, which is no character; PostgreSQL cannot take it")


def _argument(value: Any, place: int) -> Any:
    try:
        return _plain(value, place)
    except RecursionError:
        raise QueryError(f"the argument of ${place} is nested too deeply, or holds itself") from None


def _plain(value: Any, place: int) -> Any:
    """What a column holds for what Python users write; a collection becomes a tuple, so that a query stays frozen."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, place)
    if isinstance(value, str):
        _check_text(value, f"the argument of ${place}")
        return value
    if value is None or isinstance(value, bytes | int | float):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Set):
        return tuple(sorted((_plain(item, place) for item in value), key=lambda item: shown(item, sys.maxsize)))
    if isinstance(value, Sequence | ValuesView):
        return tuple([_plain(item, place) for item in value])
    if isinstance(value, Mapping | Iterator):
        raise QueryError(
            f"the argument of ${place} is a {type(value).__name__}; give a list, or for JSON its text, as json.dumps "
            "makes it"
        )
    return value


def _spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({','.join(_spelled(item) for item in value)})"
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC)
    if isinstance(value, int) and not -_MAX_BIGINT <= value <= _MAX_BIGINT:
        return f"{type(value).__name__}:{value:x}"  # Python has no decimal digits for what is very large
    if value is None or isinstance(value, _SPELLED):
        return f"{type(value).__name__}:{value!r}"
    raise QueryError(f"an argument is a {type(value).__name__}, which cannot be part of a cached query's key")
