"""`Table`: one schema's table, as everything above L3 sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from strata.errors import InvalidModelError
from strata.l3 import doubt, failures, statement
from strata.l3.apply import Applier
from strata.l3.bulk import Bulk
from strata.l3.catalog import table_columns
from strata.l3.connection import Connection
from strata.l3.drawing import Drawing
from strata.l3.fit import check
from strata.l3.layout import Layout, quote
from strata.l3.look import TableLook
from strata.l3.marks import Marks, waiting_repairs
from strata.l3.ordered import OrderedIndexes
from strata.l3.partials import Partials
from strata.l3.partition import partition_of
from strata.l3.reads import Reads, Row
from strata.l3.secrets import Secrets
from strata.l3.spans import Spans
from strata.l3.stage import Stage
from strata.l3.transactions import under_way
from strata.l3.values import Applied, Assigned, Change, Held
from strata.l3.where import Selected
from strata.l3.writes import Writes, Written
from strata.model.plan import ModelPlan
from strata.model.unloaded import UNLOADED

P = ParamSpec("P")
T = TypeVar("T")

LOOK_EVERY = 5.0  # seconds after which a table that is written to is looked at again


class Table:
    """The statements of one table. Thread-safe: the state is in the connection, which every method takes, but for
    `_writing` and `_sight`: who looks at the table sets them, one after the other, and who comes between looks too.
    After a fork the child keeps them.

    `deferred` is true for write-behind schemas, whose deletions leave tombstones. `locked` says that writers take the
    shards' locks, so that every writing method needs a transaction: in write-behind schemas, and in tables that are
    partitioned by month. Writing is done by statements for the table as it is: that is looked up in the catalog
    before the first write, over a new generation of connections, every `LOOK_EVERY` seconds, and where PostgreSQL
    refuses what it took before (see `strata.l3.doubt`). Methods raise `psycopg.Error`, which the context managers of
    `Database` turn into Strata's errors. Raises `InvalidModelError` for names that are Strata's own, and for a
    `partition_by` that cannot be.
    """

    def __init__(
        self, plan: ModelPlan[Any], name: str, *, schema_name: str, deferred: bool, partition_by: str | None = None
    ) -> None:
        self.partition = partition_of(plan, name, partition_by)
        layout = Layout(plan, name, schema_name, deferred=deferred, partition=self.partition)
        self.plan = plan
        self.name = name
        self.schema_name = schema_name
        self.mark = layout.mark
        self.deferred = deferred
        self.locked = layout.locked
        self.monthly = layout.monthly
        self._fits = False  # whoever finds that the table fits sets it, once; after fork it is as true

        reads = Reads(layout)
        self.get = self._door(reads.get)
        self.hold = self._door(reads.hold)
        self.get_many = self._door(reads.get_many)
        self.asking = self._door(reads.asking)
        self.keyed = reads.keyed
        self.exists = self._door(reads.exists)
        self.page = self._door(reads.page)
        self.keys = self._door(reads.keys)
        self.key_bounds = self._door(reads.key_bounds)
        self.check = reads.check
        self.order = reads.order
        self.search = self._door(reads.search)
        self.search_page = self._door(reads.search_page)
        self.lock_fitting = self._door(reads.lock)
        self.missing_index = OrderedIndexes(layout).missing
        self.count = self._door(reads.count)
        self.stream = self._door(reads.stream)

        spans = Spans(layout)
        self.count_up_to = spans.count_up_to
        self.about = spans.about
        self.steps = spans.steps
        self.cuts = spans.cuts

        self._stage = Stage(layout)
        self._partials = Partials(layout, self._stage)
        self._look = TableLook(layout)
        self._writing = self._writing_to(layout)
        self._sight = _NEVER
        self._doubted = _Doubted(self)

        writes = self._writing.writes
        self.noted = self._partials.noted
        self.note_of = self._partials.note_of
        self.lock_shards = writes.lock_shards
        self.delete = self._door(writes.delete)

        secrets = Secrets(layout)
        self.sealed_names = secrets.names
        self.sealed = secrets.page
        self.replace_sealed = secrets.replace

        marks = Marks(layout, writes)
        self.forget_tombstones = marks.forget_tombstones
        self.forget_partials = marks.forget_partials
        self.tombstones_beyond = marks.beyond
        self.tombstone = marks.tombstone
        self.horizon = marks.horizon
        self.record_repairs = marks.record_repairs
        self.take_repairs = marks.take_repairs
        self.take_whole_repairs = marks.take_whole_repairs
        self.repairs_done = marks.repairs_done
        self.waiting_repairs = waiting_repairs
        self.under_way = under_way

    @staticmethod
    def together(conn: Connection, asked: Sequence[tuple[Table, Sequence[Any]]]) -> list[dict[Any, Row]]:
        """The rows found of each table, by key, in one round trip for all of them."""
        answers = statement.together(conn, [table.asking(conn, keys) for table, keys in asked])
        return [table.keyed(rows) for (table, _), rows in zip(asked, answers, strict=True)]

    @property
    def alone(self) -> bool:
        """Whether an upsert needs no transaction around it, for all that was seen of the table."""
        return self._writing.layout.alone

    def upsert(self, conn: Connection, values: Sequence[Any], version: int, node: int) -> Written:
        """See `Writes.upsert`. Raises `doubt.OutdatedError` where it needs a transaction, and there is none."""
        if not self._fits:
            self._fit(conn)
        with self._doubted:
            writing = self._now(conn)
            if not (writing.layout.alone or conn.in_transaction):
                raise doubt.OutdatedError(self.name)
            written = writing.writes.upsert(conn, values, version, node)
            self._make_sure(conn, writing, written.names)
            return written

    def change(self, conn: Connection, values: Sequence[Any], version: int, node: int) -> Written:
        """See `Writes.change`; in a transaction that holds the row."""
        with self._doubted:
            writing = self._now(conn)
            written = writing.writes.change(conn, values, version, node)
            self._make_sure(conn, writing, written.names)
            return written

    def set_many(
        self, conn: Connection, rows: Sequence[tuple[Any, ...]], versions: Sequence[int], node: int
    ) -> list[Written]:
        """See `Bulk.set_many`."""
        if not self._fits:
            self._fit(conn)
        with self._doubted:
            writing = self._now(conn)
            written = writing.bulk.set_many(conn, rows, versions, node)
            self._make_sure(conn, writing, *(answer.names for answer in written))
            return written

    def insert_many(
        self, conn: Connection, rows: Sequence[tuple[Any, ...]], versions: Sequence[int], node: int
    ) -> list[Written]:
        """See `Bulk.insert_many`. Raises `doubt.OutdatedError` where it needs a transaction, and there is none."""
        if not self._fits:
            self._fit(conn)
        with self._doubted:
            writing = self._now(conn)
            if not (writing.layout.alone or conn.in_transaction):
                raise doubt.OutdatedError(self.name)
            written = writing.bulk.insert_many(conn, rows, versions, node)
            self._make_sure(conn, writing, *(answer.names for answer in written))
            return written

    def draw(self, conn: Connection, count: int) -> list[Any]:
        """See `Drawing.draw`."""
        if not self._fits:
            self._fit(conn)
        with self._doubted:
            return self._now(conn).drawing.draw(conn, count)

    def update_held(self, conn: Connection, held: Held, assigned: Assigned, version: int, node: int) -> dict[Any, int]:
        """See `Selected.update`."""
        with self._doubted:
            writing = self._now(conn)
            written = writing.selected.update(conn, held, assigned, version, node)
            given = zip(self.plan.column_names, assigned.values, strict=True)
            self._make_sure(conn, writing, tuple(name for name, value in given if value is not UNLOADED))
            return written

    def delete_held(self, conn: Connection, held: Held, version: int, node: int) -> dict[Any, int]:
        """See `Selected.delete`."""
        return self._writing.selected.delete(conn, held, version, node)

    def apply(self, conn: Connection, changes: Sequence[Change]) -> list[Applied]:
        """See `Applier.apply`."""
        if not self._fits:
            self._fit(conn)
        with self._doubted:
            writing = self._now(conn)
            applied = writing.applier.apply(conn, changes)
            self._make_sure(conn, writing, *(answer.kept_names for answer in applied))
            return applied

    def _make_sure(self, conn: Connection, writing: _Writing, *others: tuple[str, ...]) -> None:
        """Raise `doubt.OutdatedError` where a column that holds something else, since it was left out as one that
        PostgreSQL computes, takes values by now."""
        computed = writing.layout.actual.computed
        left_out = computed and any(not computed.isdisjoint(names) for names in others)
        if left_out and not self._look.still_computed(conn, computed):
            raise doubt.OutdatedError(self.name)

    def _door(self, method: Callable[Concatenate[Connection, P], T]) -> Callable[Concatenate[Connection, P], T]:
        """The method, in a table that was found to fit."""

        def checked(conn: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
            if not self._fits:
                self._fit(conn)
            return method(conn, *args, **kwargs)

        return checked

    def _fit(self, conn: Connection) -> None:
        """Raise `MigrationError` where the table cannot hold the model's records. What it lacks is the statements' to
        say; the first look that finds nothing missing is the last one."""
        kind, columns = table_columns(conn, quote(self.name))
        if kind:
            check(self.plan, self.name, kind, columns)
            self._fits = all(name in columns for name in self.plan.column_names)

    def changed(self) -> None:
        """It may not be as it was seen: it is looked at again before the next write."""
        self._sight = _NEVER

    def doubt(self, error: Exception) -> None:
        """A write ended so. Where it was refused since the table may not be as it was seen, it is looked at again
        before the next; and where a value was, it is said in which columns it may have been."""
        if doubt.doubtful(error):
            self.changed()
        layout = self._writing.layout
        failures.narrow(error, {name: layout.field(name).kind for name in sorted(layout.actual.narrower)})

    def _now(self, conn: Connection) -> _Writing:
        """The statements for the table as it is."""
        assert conn.clock is not None
        sight, now = self._sight, conn.clock.monotonic()
        if now < sight.until and conn.generation == sight.generation:
            return self._writing
        actual = self._look.at(conn)
        if actual is None:
            return self._writing
        if actual != self._writing.layout.actual:
            self._writing = self._writing_to(self._writing.layout.of(actual))
        self._sight = _Sight(now + LOOK_EVERY, conn.generation)
        return self._writing

    def _writing_to(self, layout: Layout) -> _Writing:
        writes = Writes(layout, self._partials)
        applier = Applier(layout, writes, self._stage, self._partials)
        selected = Selected(layout, self._partials)
        return _Writing(layout, writes, Bulk(layout, writes, self._stage), applier, Drawing(layout), selected)


class _Doubted:
    """A block that writes to the table."""

    __slots__ = ("_table",)

    def __init__(self, table: Table) -> None:
        self._table = table

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._table.doubt(error)


class _Writing(NamedTuple):
    """The writing statements for a table that is as its layout says."""

    layout: Layout
    writes: Writes
    bulk: Bulk
    applier: Applier
    drawing: Drawing
    selected: Selected


class _Sight(NamedTuple):
    """Until when (monotonic), and over which generation of connections, what was seen of the table is good."""

    until: float
    generation: int


_NEVER = _Sight(0.0, -1)


def check_shared(table: Table, others: Iterable[Table]) -> None:
    """Raise `InvalidModelError` where another schema has the same table, and takes it for another one."""
    for other in others:
        if other.name != table.name:
            continue
        both = f"schemas {other.schema_name!r} and {table.schema_name!r}"
        if other.partition != table.partition:
            raise InvalidModelError(
                f"{both} have another partition_by but the same table {table.name!r}; give them the same"
            )
        if other.plan.columns != table.plan.columns:
            raise InvalidModelError(
                f"{both} have other columns but the same table {table.name!r}; make one schema of them, or give one "
                "another PostgresPolicy.table_name"
            )
        if other.deferred or table.deferred:
            raise InvalidModelError(
                f"{both} have the same table {table.name!r}, and one of them is written behind: its pending writes "
                "would be lost under writes of the other; make one schema of them"
            )
