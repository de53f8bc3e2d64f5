"""`update_where` and `delete_where`: rows that a query finds are changed in L3, and leave the caches.

In steps of some thousand rows, in the order of the query or of the keys, each of which is a commit as any other
(`strata.engine.commit`). The keys are found first, while nothing is locked; so their intents stand in L2, and everybody
has dropped them, before anything is changed, and a process that is killed anywhere leaves nothing stale. In the
transaction what is pending of these rows is brought to L3; those that fit then are locked, and one statement changes
them. The intents of the others are taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from strata import waits
from strata.bound import Bound
from strata.engine.changes import UNDECIDED, KeyChange, SchemaChanges
from strata.engine.commit import Commit
from strata.engine.context import Context
from strata.engine.modify import check_written
from strata.engine.rows import text_of
from strata.engine.search import rows_of
from strata.errors import WITHOUT_L2, EncodeError, InvalidConfigError, QueryError, StrataError, shown
from strata.l3.values import Assigned, Held
from strata.model import UNLOADED
from strata.protocol.versions import ROW_NODE
from strata.query import Q, Query, as_query

STEP = 5_000  # rows that are changed, and told of, together
Progress = Callable[[int], object] | None


class RowsChange(Protocol):
    """What becomes of rows that are locked. `leaves` is what is known of the records afterwards."""

    @property
    def leaves(self) -> Any: ...

    def __call__(self, conn: Any, bound: Bound, held: Held, version: int, /) -> dict[Any, int]:
        """Run the statement; returns the new versions, by key."""
        ...


class WhereWriter:
    """Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def update(self, bound: Bound, query: Q | Query, fields: Mapping[str, Any], progress: Progress) -> int:
        """Give the rows that are found these values; returns how many they are."""
        rows_of(bound)
        change = _Assign.of(self._context, bound, fields)
        found = _checked(bound, query, progress)
        for order in found.order:
            if change.writes(order.column) and not 0 < found.limit <= STEP:
                raise QueryError(
                    f"order_by names {order.column!r}, which is written, so that rows change their places meanwhile; "
                    f"give a limit, {STEP:,} at most, or another order"
                )
        done = 0
        for count in self._steps(bound, found, change, progress):
            bound.counters.sets += count
            done += count
        return done

    def delete(self, bound: Bound, query: Q | Query, progress: Progress) -> int:
        """Delete the rows that are found; returns how many they were."""
        rows_of(bound)
        found = _checked(bound, query, progress)
        done = 0
        for count in self._steps(bound, found, _Remove(), progress):
            bound.counters.deletes += count
            done += count
        return done

    def _steps(self, bound: Bound, query: Query, change: RowsChange, progress: Progress) -> Iterator[int]:
        """The numbers of rows that were changed, step by step."""
        context, plan = self._context, bound.plan
        context.listen()
        done, after = 0, None
        try:
            while True:
                context.check_open()
                size = min(STEP, query.limit - done) if query.limit else STEP
                with bound.rows.primary.session() as conn:
                    wanted = replace(query, fields=plan.key.names, limit=size)
                    page = bound.rows.table.search_page(conn, wanted, after)
                if not page.rows:
                    return
                step = _Step(context, bound, query, change, plan.restored_keys(row.values for row in page.rows))
                step.run()
                done, after = done + step.count, page.last
                yield step.count
                if progress is not None:
                    progress(done)
                if after is None or done == query.limit > 0:
                    return
        except StrataError as error:
            if done:
                error.args = (f"{error}; {done:,} rows were changed before, in steps of {STEP:,}", *error.args[1:])
            raise


class _Step(Commit):
    """One commit, of those rows among some keys that fit the condition still. `count`: how many were changed."""

    def __init__(self, context: Context, bound: Bound, query: Query, change: RowsChange, keys: Sequence[Any]) -> None:
        super().__init__(context)
        self._query = query
        self._change = change
        self._keys = keys
        self.count = 0
        part = self.parts[bound.name] = SchemaChanges(bound)
        for key in waits.in_turns(keys):
            if text := text_of(bound, key):
                part.changes[text] = KeyChange(key, text, UNDECIDED)

    def _is_one_statement(self, parts: Sequence[SchemaChanges]) -> bool:
        return False

    def _write_part(self, conn: Any, part: SchemaChanges) -> None:
        bound, table = part.bound, part.bound.rows.table
        self._write_beneath(conn, part)
        keys = table.lock_fitting(conn, self._query, self._keys)
        fitting = set(keys)
        held = Held(keys, {text: change.id for text, change in part.changes.items() if change.id in fitting})
        versions = self._change(conn, bound, held, self._context.stamp()) if keys else {}
        self.count = len(versions)
        brought: dict[str, int] = {}
        for (text, _), version in part.brought.items():
            brought[text] = max(version, brought.get(text, 0))
        for text, change in waits.in_turns(part.changes.items()):
            changed = change.id in versions
            change.version = versions[change.id] if changed else brought.get(text, 0)
            change.record = self._change.leaves if changed else UNDECIDED
            (part.partial.discard if change.record is None else part.partial.add)(text)
        if self._untold(part):
            self._record_repairs(conn, part)

    def _put(self, part: SchemaChanges, began: float) -> None:
        same = [text for text, change in part.changes.items() if not change.version]
        if len(same) == len(part.changes):
            self._abandon([part])
            return
        if same and part.intended and part.bound.l2 is not None:
            try:
                part.bound.l2.abandon(part.token, same)
            except WITHOUT_L2:
                pass  # they expire
        for text in same:
            del part.changes[text]
        super()._put(part, began)


@dataclass(frozen=True, slots=True, repr=False)
class _Assign:
    """Values for columns: `row` has UNLOADED in the others, `secrets` are the plain texts of encrypted ones."""

    row: Sequence[Any]
    secrets: Mapping[str, str]
    names: frozenset[str]
    leaves: Any = UNDECIDED

    @staticmethod
    def of(context: Context, bound: Bound, fields: Mapping[str, Any]) -> _Assign:
        """Checked, and stamped. Raises `EncodeError`."""
        plan = bound.plan
        check_written(bound, fields, "update_where")
        for name, value in fields.items():
            if value is UNLOADED:
                raise EncodeError(f"{plan.model.__name__}.{name} is UNLOADED; leave out what is not to be written")
        record = plan.prepare(plan.check(plan.part(fields)), context.now() if plan.stamped else None)
        row = {column.field.name: column.to_row(getattr(record, column.field.name)) for column in plan.forms}
        encrypted = [field.name for field in plan.columns if field.encrypted and row[field.name] is not UNLOADED]
        secrets = {name: row[name] for name in encrypted if row[name] is not None}
        if secrets and bound.cipher is None:
            raise EncodeError(
                f"{plan.model.__name__} has Encrypted fields ({', '.join(secrets)}) and no key; set "
                "Config.encryption_key"
            )
        names = frozenset(name for name, value in row.items() if value is not UNLOADED)
        return _Assign(tuple((row | dict.fromkeys(secrets)).values()), secrets, names)

    def writes(self, column: str) -> bool:
        """Whether rows have another value in it afterwards."""
        return column in self.names

    def __call__(self, conn: Any, bound: Bound, held: Held, version: int, /) -> dict[Any, int]:
        sealed: dict[str, list[str]] = {}
        if self.secrets:
            texts = [bound.plan.key_text(key) for key in held.keys]
            for name, secret in self.secrets.items():
                sealed[name] = [bound.cipher.encrypt(name, text, secret) for text in waits.in_turns(texts)]
        return bound.rows.table.update_held(conn, held, Assigned(self.row, sealed), version, ROW_NODE)


@dataclass(frozen=True, slots=True)
class _Remove:
    leaves: Any = None

    def __call__(self, conn: Any, bound: Bound, held: Held, version: int, /) -> dict[Any, int]:
        return bound.rows.table.delete_held(conn, held, version, ROW_NODE)


def _checked(bound: Bound, query: Q | Query, progress: Progress) -> Query:
    """The query. Raises `QueryError` where it could not say which rows are meant, before anything is done."""
    if query is None:
        raise QueryError("the query is None; give Q() where all rows are meant")
    found = as_query(query)
    for what, given in (("offset", found.offset), ("fields", found.fields)):
        if given:
            raise QueryError(f"the query has {what}, which means nothing here; leave it out")
    bound.rows.table.check(found, len(bound.rows.table.order(found)))
    if progress is not None and not callable(progress):
        raise InvalidConfigError(f"progress is {shown(progress)}; it must be a function, or None")
    return found
