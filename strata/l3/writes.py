"""Synchronous writes of single rows, and the locks of a write-behind schema.

A synchronous write never loses to an older row: whoever holds the row's lock sets the version to the greater of its
own stamp and one microsecond above the row's. In write-behind schemas each writer first takes the advisory lock of
the key's shard, as a statement of its own, so that the next statement sees what earlier holders committed: shared
for upserts, exclusive for deletions. In tables that are partitioned by month all take it exclusive, since no index
keeps their keys unique. The caller has opened the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from psycopg.errors import DeadlockDetected, UniqueViolation

from strata.errors import StrataError
from strata.l3 import diagnosis
from strata.l3.connection import Connection
from strata.l3.layout import TOMBSTONES, VERSION, Layout, quote
from strata.l3.outside import moving, own
from strata.l3.partials import Partials
from strata.l3.statement import ARRAYS, BOOL, INT4, INT8, TEXT, Statement
from strata.model.unloaded import UNLOADED
from strata.protocol.shards import shard_of

T = TypeVar("T")

_UPDATES = 64  # statements kept for records that were not loaded whole, one for each set of columns

_LOCK = Statement(
    "SELECT CASE WHEN l.alone THEN pg_advisory_xact_lock($1, l.shard)"
    " ELSE pg_advisory_xact_lock_shared($1, l.shard) END FROM unnest($2, $3) AS l(shard, alone)",
    (INT4, ARRAYS[INT4], ARRAYS[BOOL]),
)


class Written(NamedTuple):
    """What became of a record: its version in L3, and the columns of which L3 holds other values than were sent.

    These are columns that were not loaded, and AutoNowAdd columns of a row that was there before.
    """

    version: int
    values: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()


class Writes:
    """The writing statements of a table. Thread-safe: `_updates` is a cache, and losing a race costs one entry.

    Methods raise `psycopg.Error`, which the connection's context manager turns into Strata's errors, and
    `ConstraintError` where a trigger kept a row from being written, or deleted.
    """

    def __init__(self, layout: Layout, partials: Partials) -> None:
        self._layout = layout
        self._partials = partials
        self._upsert = self._upsert_statement()
        self._insert = self._insert_statement()
        key, node = layout.key, f"${layout.key.width + 1}"
        found = f"{key.of()} = {key.given()}"
        delete = f"DELETE FROM {layout.table} r WHERE {found}{own(layout.name)}"
        raised = f"RETURNING {layout.raised(f'r.{VERSION}', node)} AS version"
        self._delete = layout.statement(f"{delete} {raised}", *key.oids, INT8)
        # Where that deletes nothing. A row that is locked, and not deleted, was kept by a trigger and by nobody else.
        self._insist = layout.statement(
            f"WITH held AS (SELECT FROM {layout.table} WHERE {found} FOR UPDATE),"
            f" gone AS ({delete} AND EXISTS (SELECT FROM held) {raised})"
            f" SELECT version FROM held LEFT JOIN gone ON true",
            *key.oids,
            INT8,
        )
        self._there = Statement(
            f"SELECT k.* FROM {key.unnested('k')}"
            f" WHERE (SELECT true FROM {layout.table} r WHERE {key.same('r', 'k')} LIMIT 1) LIMIT 1",
            key.arrays,
        )
        self._bury = layout.statement(
            f"INSERT INTO {TOMBSTONES} AS d (schema, id, version) VALUES ({layout.schema}, $1, $2)"
            f" ON CONFLICT (schema, id) DO UPDATE SET deleted_at = now(),"
            f" version = GREATEST(EXCLUDED.version, {layout.raised('d.version', '$3')}) RETURNING version",
            TEXT,
            INT8,
            INT8,
        )
        self._updates: dict[tuple[int, tuple[str, ...]], Statement] = {}

    def lock_shards(self, conn: Connection, shards: Mapping[int, bool]) -> None:
        """Take the advisory locks of these shards until the transaction ends; true means: alone, as always by month."""
        numbers = sorted(shards)
        alone = [self._layout.monthly or shards[number] for number in numbers]
        _LOCK.rows(conn, (self._layout.lock_space, numbers, alone))

    def lock_keys(self, conn: Connection, key_texts: Iterable[str], *, alone: bool) -> None:
        """As `lock_shards`, for the shards of these keys; nothing where the table's writers take none."""
        if self._layout.locked:
            self.lock_shards(conn, dict.fromkeys(map(shard_of, key_texts), alone))

    def upsert(self, conn: Connection, values: Sequence[Any], version: int, node: int) -> Written:
        """Insert the row, or update it; `version` is the writer's stamp.

        UNLOADED columns keep what the row has. Raises `EncodeError` where there is no row to keep it from.
        """
        if self._layout.locked:
            self.lock_keys(conn, (self._text(values),), alone=False)
            return self.put(conn, values, version, node)
        return self.insisting(conn, lambda: self.put(conn, values, version, node))

    def put(self, conn: Connection, values: Sequence[Any], version: int, node: int) -> Written:
        """As `upsert`, where the shard's lock was taken before."""
        layout = self._layout
        values = layout.filled(values)
        if UNLOADED in values:
            loaded = self._loaded(values)
            if layout.deferred:
                self._note(conn, values, loaded, (version, node))
            return self._update(conn, values, loaded, (version, node))
        row = self._upsert.row(conn, self._sent(values, version, node))
        if row is None:
            raise diagnosis.suppressed(layout.name)
        return self.written(values, layout.kept, row)

    def change(self, conn: Connection, values: Sequence[Any], version: int, node: int) -> Written:
        """Give a row the values that are not UNLOADED, which were made of what it held when it was locked: increments
        that were not in it then go on top, whenever they come. The shard's lock was taken, where there is one."""
        loaded = self._loaded(values)
        if self._layout.deferred:
            self._note(conn, values, loaded, (version, node), changes=True)
        return self._update(conn, values, loaded, (version, node))

    def _note(
        self,
        conn: Connection,
        values: Sequence[Any],
        names: Sequence[str],
        stamp: tuple[int, int],
        *,
        changes: bool = False,
    ) -> None:
        named = {self._text(values): self._layout.key_of_row(values)}
        self._partials.note(conn, named, names, stamp, changes=changes)

    def insert(self, conn: Connection, values: Sequence[Any], version: int, node: int) -> Written:
        """Insert the row. The shard's lock was taken, where there is one. Raises `AlreadyExistsError`."""
        layout = self._layout
        row = self._insert.row(conn, self._sent(values, version, node))
        if row is not None:
            return self.written(values, layout.kept, row)
        raise self.uninserted(conn, [layout.key_of_row(values)])

    def uninserted(self, conn: Connection, keys: Sequence[Any]) -> StrataError:
        """The error of keys of which one was not inserted."""
        taken = self.taken(conn, keys)
        if taken is None:
            return diagnosis.suppressed(self._layout.name)
        return diagnosis.already_there(self._layout.schema_name, taken)

    def taken(self, conn: Connection, keys: Sequence[Any]) -> Any:
        """One of the keys that has a row, or None."""
        row = self._there.row(conn, self._layout.key.columns(keys))
        return None if row is None else self._layout.key.split(row)[0]

    def _sent(self, values: Sequence[Any], version: int, node: int) -> list[Any]:
        """What the statements that insert a row take."""
        return [*values, version, node, *((self._text(values),) if self._layout.deferred else ())]

    def _text(self, values: Sequence[Any]) -> str:
        return self._layout.plan.key_text(self._layout.key_of_row(values))

    def delete(self, conn: Connection, id: Any, version: int, node: int) -> int:
        """Delete the row, if there is one; returns the version of its deletion."""
        layout = self._layout
        key_text = layout.plan.key_text(id)
        self.lock_keys(conn, (key_text,), alone=True)
        given = (*layout.key.parts(id), node)
        gone = self._delete.row(conn, given) or self._insist.row(conn, given)
        if gone == (None,):
            raise diagnosis.suppressed(layout.name)
        if gone is not None:
            version = max(version, gone[0])
        if not layout.deferred:
            return version
        buried = self._bury.row(conn, (key_text, version, node))
        return version if buried is None else int(buried[0])

    def insisting(self, conn: Connection, write: Callable[[], T]) -> T:
        """What `write` returns, tried again where it met another insert of the same key.

        An upsert that finds its key being inserted just then goes on to the next UNIQUE index, where the other row is
        a violation, or ends in a deadlock, although the second try is a plain update. (Deferrable constraints, which
        write-behind schemas have, are not checked before the upsert knows better.)
        """
        inside = conn.in_transaction
        for left in (2, 1, 0):
            if inside:
                conn.command("SAVEPOINT strata_write")
            try:
                result = write()
            except (UniqueViolation, DeadlockDetected):
                if not left:
                    raise
                if inside:
                    conn.command("ROLLBACK TO strata_write")
                continue
            if inside:
                conn.command("RELEASE strata_write")
            return result
        raise AssertionError  # the last try returned or raised

    def written(self, values: Sequence[Any], names: tuple[str, ...], row: Sequence[Any]) -> Written:
        """From (version, *names) as returned: the names of which L3 holds something else than `values`."""
        if not names:
            return Written(row[0])
        places = self._layout.places
        other = self._layout.other(names, [values[places[name]] for name in names], row[1:])
        return Written(row[0], tuple([held for _, held in other]), tuple([name for name, _ in other]))

    def unwritten(self, conn: Connection, keys: Sequence[Any]) -> StrataError:
        """The error of records that were not loaded whole, and of which no row was updated."""
        if self.taken(conn, keys) is not None:
            return diagnosis.suppressed(self._layout.name)
        return diagnosis.NoRowError(
            f"a record of schema {self._layout.schema_name!r} has UNLOADED fields and there is no row to keep them "
            "from; read the whole record, or give every field a value"
        )

    def lay(self, conn: Connection, values: Sequence[Any], version: int) -> None:
        """Give a row, which is locked, the values that are not UNLOADED, and this version, without a note."""
        self._update(conn, values, self._loaded(values), (version,))

    def _loaded(self, values: Sequence[Any]) -> tuple[str, ...]:
        layout = self._layout
        return tuple(name for name in layout.settable if values[layout.places[name]] is not UNLOADED)

    def _update(
        self, conn: Connection, values: Sequence[Any], loaded: tuple[str, ...], stamp: tuple[int, ...]
    ) -> Written:
        """`stamp`: that of a writer, and its node, for a version that is above the row's; or the very version."""
        layout, kind = self._layout, (len(stamp), loaded)
        statement = self._updates.get(kind)
        if statement is None:
            if len(self._updates) >= _UPDATES:
                self._updates.clear()
            statement = self._updates[kind] = self._update_statement(loaded, raised=len(stamp) > 1)
        sent = [values[layout.places[name]] for name in loaded]
        id = layout.key_of_row(values)
        row = statement.row(conn, (*layout.key.parts(id), *stamp, *sent))
        if row is None:
            raise self.unwritten(conn, [id])
        return self.written(values, layout.unset(loaded), row)

    def _upsert_statement(self) -> Statement:
        layout = self._layout
        given, places, node, version, types = self._places()
        insert, overwrite = layout.insert, "" if layout.monthly else layout.overwrite(node)
        returning = f"RETURNING {layout.returned(layout.kept)}"
        if not layout.updates_first:
            return layout.statement(f"{insert} VALUES ({places}, {version}) {overwrite} {returning}", *types)
        sets = "".join(f"{quote(name)} = {given[name]}, " for name in layout.settable)
        raised = f"GREATEST({version}, {layout.raised(f'r.{VERSION}', node)})"
        found = " AND ".join(f"r.{quote(name)} = ${layout.places[name] + 1}" for name in layout.plan.key.names)
        update = f"UPDATE {layout.table} AS r SET {sets}{VERSION} = {raised} WHERE {found}"
        return layout.statement(
            layout.upserting(
                f"{update}{moving(layout)} {returning}",
                f"{insert} SELECT {places}, {version} WHERE NOT EXISTS (SELECT FROM u) {overwrite} {returning}",
            ),
            *types,
        )

    def _insert_statement(self) -> Statement:
        layout = self._layout
        _, places, _, version, types = self._places()
        unless = "" if layout.monthly else f"ON CONFLICT ({layout.key.listed}) DO NOTHING"
        returning = f"RETURNING {layout.returned(layout.kept)}"
        return layout.statement(f"{layout.insert} VALUES ({places}, {version}) {unless} {returning}", *types)

    def _places(self) -> tuple[dict[str, str], str, str, str, tuple[int, ...]]:
        """Where `_sent` stands in a statement: each column, those of an INSERT, the node, the version that it inserts;
        and the types."""
        layout = self._layout
        count = len(layout.names)
        given = {name: layout.given(name, f"${place}") for place, name in enumerate(layout.names, 1)}
        places = ", ".join(given[name] for name in layout.carried)
        node = f"${count + 2}"
        version = layout.inserted(f"${count + 1}", node, f"${count + 3}")
        return given, places, node, version, (*layout.oids, INT8, INT8, *((TEXT,) if layout.deferred else ()))

    def _update_statement(self, loaded: tuple[str, ...], *, raised: bool) -> Statement:
        layout = self._layout
        key = layout.key
        first = key.width + 1
        version = f"GREATEST(${first}, {layout.raised(f'r.{VERSION}', f'${first + 1}')})" if raised else f"${first}"
        stamp = [INT8, INT8] if raised else [INT8]
        sets = [f"{quote(n)} = {layout.given(n, f'${place}')}, " for place, n in enumerate(loaded, first + len(stamp))]
        return layout.statement(
            f"UPDATE {layout.table} AS r SET {''.join(sets)}{VERSION} = {version}"
            f" WHERE {key.of('r')} = {key.given()}{moving(layout)} RETURNING {layout.returned(layout.unset(loaded))}",
            *key.oids,
            *stamp,
            *(layout.oids[layout.places[name]] for name in loaded),
        )
