"""`DataStore`: the face of the library."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from strata._wiring import Wiring
from strata.bound import Bound
from strata.collection import RAISE, Collection
from strata.config import Config
from strata.engine.audit import Auditor, AuditReport
from strata.engine.context import ABSENT
from strata.engine.hot import Hot
from strata.engine.jobs import Job
from strata.engine.many import ManyReader
from strata.engine.read import Reader
from strata.engine.readings import bus_numbers, numbers_of
from strata.engine.rotate import KeyRotation, Rotator
from strata.engine.rows import Filler
from strata.engine.search import Searcher
from strata.engine.tx import Tx
from strata.engine.warm import Warmer
from strata.engine.write import Writer
from strata.engine.write_many import ManyWriter
from strata.errors import (
    InvalidConfigError,
    InvalidModelError,
    NotFoundError,
    SchemaDuplicateError,
    SchemaNotFoundError,
)
from strata.fleet import Fleet
from strata.l3.migrations import MigrationRecord, MigrationReport, Migrator
from strata.observe.counters import Stats
from strata.observe.metrics import SafeMetrics
from strata.policies import count, seconds
from strata.query import Q, Query, as_query
from strata.schema import Schema
from strata.writebehind.deadletters import DeadLetters
from strata.writebehind.endings import install_sigterm
from strata.writebehind.facade import PendingStats

T = TypeVar("T")
D = TypeVar("D")
Timeout = float | timedelta | None

_stores: weakref.WeakSet[DataStore] = weakref.WeakSet()


class DataStore:
    """Memory, Redis and PostgreSQL behind one set of calls.

    Thread-safe. Nothing is started or connected before it is needed. A store made before `fork` works in the child,
    with connections and threads of its own. `schema` is a schema's name or its model class; by class the result is
    statically typed.

    >>> with DataStore(Config()) as ds:                            # doctest: +SKIP
    ...     players = ds.register(Schema(Player, l1=MemPolicy(ttl=60)))
    ...     players.set("p1", Player("p1", "andrew"))
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config, Config):
            raise InvalidConfigError(f"DataStore takes a Config, not a {type(config).__name__}")
        self.config = config
        if config.flush_on_sigterm:
            install_sigterm()
        # `_schemas`, `_by_class` and `_hot` are written under `_lock` by `register` and `close`, and read without
        # it: each write is one dict store. After fork `_after_fork` gives the child a lock that nobody holds.
        self._lock = threading.RLock()
        self._closing = threading.RLock()  # held while one thread closes, which others that close wait for
        self._schemas: dict[str, Bound] = {}
        self._by_class: dict[type, Bound] = {}
        self._hot: dict[Any, Hot] = {}
        self._made_with = threading.Lock  # what it was when the parts were made: see `_patched`
        self._wiring = Wiring(config, self._schemas)
        self._metrics = self._wiring.metrics if self._wiring.metrics.enabled else None
        self._context = context = self._wiring.context
        filler = Filler(context)
        self._reader = Reader(context)
        self._many = ManyReader(context)
        self._writer = Writer(context)
        self._many_writer = ManyWriter(context, self._writer)
        self._searcher = Searcher(context, filler)
        self._warmer = Warmer(context, filler)
        self._auditor = Auditor(context, self._wiring.metrics)
        self._rotator = Rotator()
        self.fleet = Fleet(
            self._bound, self._wiring, self._warmer, self._migrator, lambda sample: self.audit(sample=sample)
        )
        _stores.add(self)

    def register(self, schema: Schema[T]) -> Collection[T]:
        """Bind a schema to this store, once per name; the handle returned has the calls below without `schema`.

        Raises `SchemaDuplicateError`, `InvalidModelError`, `NoPrimaryKeyError`, or `InvalidConfigError` for a schema
        that cannot work. Nothing is connected yet, and addresses are needed at the first use only.
        """
        if not isinstance(schema, Schema):
            raise InvalidModelError(f"register takes a Schema, not a {type(schema).__name__}; wrap the model in one")
        with self._lock:
            self._open()
            if schema.name in self._schemas:
                raise SchemaDuplicateError(
                    f"a schema {schema.name!r} is registered already; give this one another name"
                )
            bound = self._wiring.bind(schema)
            self._schemas[schema.name] = bound
            self._hot[schema.name] = hot = Hot(bound)
            if self._by_class.setdefault(schema.model, bound) is bound:
                self._hot[schema.model] = hot
        return Collection(self, schema.name, schema.model, hot)

    # -- reading ------------------------------------------------------------------------------------------------

    @overload
    def get(self, schema: type[T], id: Any, *, force_l2: bool = ..., force_l3: bool = ...) -> T: ...
    @overload
    def get(self, schema: type[T], id: Any, *, default: D, force_l2: bool = ..., force_l3: bool = ...) -> T | D: ...
    @overload
    def get(self, schema: str, id: Any, *, default: Any = ..., force_l2: bool = ..., force_l3: bool = ...) -> Any: ...
    def get(
        self,
        schema: Any,
        id: Any,
        *,
        default: Any = RAISE,
        force_l2: bool = False,
        force_l3: bool = False,
    ) -> Any:
        """The record, from L1, L2 or L3, filling upward; private to the caller.

        `force_l2` does not look into L1; `force_l3` returns L3's row and fills nothing. Nothing is locked: by the time
        a change of it is `set`, another process may have written the key. Raises `NotFoundError` where no tier has it
        and no `default` was given; an outage of the tiers that could answer always raises.
        """
        # The hit path, in this one frame (see `Hot`); everything else is behind `get_slowly`.
        try:
            hot = self._hot[schema]
            entry = hot.lookup(id)
        except (KeyError, TypeError):
            pass
        else:
            if entry is not None and not (force_l2 or force_l3) and (hot.exact is None or type(id) is hot.exact):
                now = monotonic()
                if now < entry.expires and now < hot.certainty.until:
                    entry.used = now
                    entry.hits += 1
                    thaw = hot.thaw
                    return entry.value if thaw is None else thaw(entry.value)
        return self.get_slowly(schema, id, default, force_l2, force_l3)

    def get_slowly(self, schema: Any, id: Any, default: Any, force_l2: bool, force_l3: bool) -> Any:
        """`get` without a look at the hit path."""
        bound = self._bound(schema)
        with _Counted(bound, self._metrics, "strata_get_seconds"):
            record = self._reader.get(bound, id, force_l2=force_l2, force_l3=force_l3)
        if record is not ABSENT:
            return record
        if default is RAISE:
            raise NotFoundError(
                f"schema {bound.name!r} has no record of this key; give a default if that is no error",
                schema=bound.name,
                key=id,
            )
        return default

    @overload
    def get_many(self, schema: type[T], ids: Iterable[Any]) -> dict[Any, T]: ...
    @overload
    def get_many(self, schema: str, ids: Iterable[Any]) -> dict[Any, Any]: ...
    def get_many(self, schema: Any, ids: Iterable[Any]) -> dict[Any, Any]:
        """Those of the records that exist, by id, with one round trip a tier."""
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            return self._many.get_many(bound, ids)

    def exists(self, schema: Any, id: Any) -> bool:
        """Whether any tier has the record. Nothing is filled."""
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            return self._reader.exists(bound, id)

    @overload
    def search(self, schema: type[T], query: Q | Query | None = ...) -> list[T]: ...
    @overload
    def search(self, schema: str, query: Q | Query | None = ...) -> list[Any]: ...
    def search(self, schema: Any, query: Q | Query | None = None) -> list[Any]:
        """The records that L3 (the replica where one is set) finds, at most 100 unless the query says otherwise.

        Whole records also fill L1 and L2. Raises `QueryError` before any tier is asked.
        """
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            return self._searcher.search(bound, as_query(query))

    @overload
    def search_cached(self, schema: type[T], query: Q | Query | None = ...) -> list[T]: ...
    @overload
    def search_cached(self, schema: str, query: Q | Query | None = ...) -> list[Any]: ...
    def search_cached(self, schema: Any, query: Q | Query | None = None) -> list[Any]:
        """As `search`; the whole result is kept in L2 under a key made from the query, until the L2 TTL."""
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            return self._searcher.search_cached(bound, as_query(query))

    @overload
    def search_iter(self, schema: type[T], query: Q | Query | None = ..., *, chunk: int = ...) -> Iterator[T]: ...
    @overload
    def search_iter(self, schema: str, query: Q | Query | None = ..., *, chunk: int = ...) -> Iterator[Any]: ...
    def search_iter(self, schema: Any, query: Q | Query | None = None, *, chunk: int = 1000) -> Iterator[Any]:
        """As `search`, for results too large for a list: all rows, `chunk` at a time; nothing is filled."""
        bound = self._bound(schema)
        return self._searcher.iterate(bound, as_query(query), chunk)

    def count(self, schema: Any, query: Q | Query | None = None) -> int:
        """How many rows L3 has; order, limit and offset of the query do not matter."""
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            return self._searcher.count(bound, as_query(query))

    # -- writing ------------------------------------------------------------------------------------------------

    @overload
    def set(self, schema: type[T], id: Any, value: T) -> T: ...
    @overload
    def set(self, schema: str, id: Any, value: T) -> T: ...
    def set(self, schema: Any, id: Any, value: Any) -> Any:
        """Store a record by the schema's write mode; returns it as stored. The caller's object is not changed.

        The last write of a key wins, whole, in every mode: what depends on a record that was read, such as a count, is
        safe only where nobody else writes the key (see docs/write-modes.md).
        """
        bound = self._bound(schema)
        with _Counted(bound, self._metrics, "strata_set_seconds"):
            return self._writer.set(bound, id, value)

    def set_many(self, schema: Any, values: Mapping[Any, Any]) -> dict[Any, Any]:
        """Store records by id, synchronously in every mode and all or nothing in L3; returns them as stored."""
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            return self._many_writer.set_many(bound, values)

    def delete(self, schema: Any, id: Any) -> None:
        """Remove the record from all tiers; deleting what is not there is no error."""
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            self._writer.delete(bound, id)

    def delete_many(self, schema: Any, ids: Iterable[Any]) -> None:
        """Remove records; write-through schemas in one transaction."""
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            self._many_writer.delete_many(bound, ids)

    def tx(self, timeout: Timeout = None) -> Tx:
        """A transaction over several schemas; `timeout` in seconds is enforced by the database."""
        self._open()
        return Tx(self._bound, self._context, self._writer, seconds(timeout, "timeout"))

    # -- caches and write-behind --------------------------------------------------------------------------------

    def invalidate(self, schema: Any, id: Any) -> None:
        """Drop the record from L1 and L2 of every instance; L3 and pending writes stay.

        Call it after the statement that changed the row, or after its commit: where transactions are under way in L3,
        the record is dropped once more as each of them ends.
        """
        bound = self._bound(schema)
        with _Counted(bound, self._metrics):
            self._writer.invalidate(bound, id)

    @overload
    def warm_cache(
        self,
        schema: Any,
        limit: int = ...,
        *,
        background: Literal[False] = ...,
        progress: Callable[[int], None] | None = ...,
    ) -> int: ...
    @overload
    def warm_cache(self, schema: Any, limit: int = ..., *, background: Literal[True]) -> Job: ...
    def warm_cache(
        self,
        schema: Any,
        limit: int = 0,
        *,
        background: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int | Job:
        """Load up to `limit` records (0 = all) into L1 and L2; returns how many, or a job of the fleet.

        `progress` is told the number so far, after each chunk.
        """
        bound = self._bound(schema)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise InvalidConfigError(f"limit is {limit!r}; it must be a whole number, 0 or more (0 = all)")
        if background:
            return self.fleet.start_warm(bound, limit)
        with _Counted(bound, self._metrics):
            return self._warmer.warm(bound, limit, progress)

    def flush_dirty(self, timeout: Timeout = None) -> None:
        """Return when L3 has every pending write of this process; works without any worker.

        Raises `FlushTimeoutError` with the number left after `timeout` seconds (default 30).
        """
        self._open()
        deferred, limit = self._context.writebehind, seconds(timeout, "timeout")
        if deferred is not None:
            deferred.flush(30.0 if limit is None else limit)

    @property
    def dead_letters(self) -> DeadLetters:
        """What could not be written behind: `list`, `show`, `retry`, `discard`."""
        self._open()
        with self._lock:
            return self._wiring.writebehind().dead_letters

    # -- migration ----------------------------------------------------------------------------------------------

    @overload
    def migrate(self, *, background: Literal[False] = ...) -> MigrationReport: ...
    @overload
    def migrate(self, *, background: Literal[True]) -> Job: ...
    def migrate(self, *, background: bool = False) -> MigrationReport | Job:
        """Bring PostgreSQL to the registered schemas, by additions only; the rest is in the report, in words."""
        self._open()
        return self.fleet.start_migrate() if background else self._migrator().migrate()

    def migrate_from(self, directory: str | Path) -> list[str]:
        """Apply the `NNN_description.sql` files that were not applied yet; returns their names."""
        self._open()
        return list(self._migrator().migrate_from(Path(directory)))

    def migration_status(self) -> list[MigrationRecord]:
        """What was applied, in order."""
        self._open()
        return list(self._migrator().migration_status())

    def _migrator(self) -> Migrator:
        if not self.config.postgres_dsn:
            raise InvalidConfigError("migrations need a database; set postgres_dsn (STRATA_POSTGRES_DSN)")
        database = self._wiring.database(self.config.postgres_direct_dsn or self.config.postgres_dsn)
        return Migrator(
            database, [(bound.table, bound.schema) for bound in self._schemas.values() if bound.table is not None]
        )

    # -- encryption ---------------------------------------------------------------------------------------------

    def rotate_keys(
        self, schema: Any = None, *, progress: Callable[[str, int], None] | None = None
    ) -> list[KeyRotation]:
        """Encrypt anew, under the current key, what is under another one: in one schema, or in all that have L3.

        In short transactions, while others read and write: no value and no version changes, and no newer write is
        touched. Interrupted, it goes on where it was when called again. `progress` is told the schema and the number
        of rows looked at so far. What no key opens is left as it is and told in the result, by column and key id.
        Raises `InvalidConfigError` where there is no key.

        >>> store.rotate_keys()                                    # doctest: +SKIP
        [KeyRotation(schema='accounts', rows=812, left=())]
        """
        self._open()
        every = [bound for bound in self._schemas.values() if bound.plan.has_encrypted and bound.table is not None]
        chosen = every if schema is None else [self._bound(schema)]
        rotations = []
        for bound in chosen:
            with _Counted(bound, self._metrics):
                told = None if progress is None else partial(progress, bound.name)
                rotations.append(self._rotator.rotate(bound, told))
        return rotations

    def audit(self, schema: Any = None, *, sample: int = 1000, pause: Timeout = 1.0) -> AuditReport:
        """How many of the copies in L1 (of this process) and in L2 agree with L3, and which do not.

        Looks at up to `sample` keys of each cache, in one schema or in all. What differs is looked at again after
        `pause` seconds, since a write under way is no staleness; nor are writes that are pending. Nothing is changed:
        `invalidate` drops a stale key. Raises `L2UnavailableError` or `L3UnavailableError`.

        >>> store.audit(sample=500).nines                          # doctest: +SKIP
        2.7
        """
        self._open()
        count(sample, "sample", 1)
        wait = seconds(pause, "pause") or 0.0
        chosen = list(self._schemas.values()) if schema is None else [self._bound(schema)]
        audits = [self._auditor.audit(bound, sample, wait) for bound in chosen if bound.table is not None]
        return AuditReport(tuple(audits))

    # -- life ---------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """A snapshot of the counters; works on a closed store as well.

        With write-behind schemas it asks the ledger what is pending, at most once a second; where the ledger does not
        answer, the numbers are the last known ones.
        """
        by_schema: dict[str, dict[str, Any]] = {name: numbers_of(b) for name, b in list(self._schemas.items())}
        totals: dict[str, Any] = {}
        for numbers in by_schema.values():
            for name, value in numbers.items():
                totals[name] = totals.get(name, 0) + value
        deferred = self._context.writebehind
        if deferred is not None:
            lag = deferred.lag(ask=not self._context.closed)
            for name, waiting in lag.items():
                by_schema[name] |= waiting.fields()
            totals |= PendingStats.together(lag.values()).fields()
            totals["dirty_count"] = deferred.dirty_count()
            totals["dirty_age"] = deferred.dirty_age()
        return Stats(
            **totals,
            **bus_numbers(self._context, self._wiring.inbox),
            by_schema=MappingProxyType({name: MappingProxyType(numbers) for name, numbers in by_schema.items()}),
        )

    def close(self, timeout: float | timedelta = 30) -> None:
        """Flush what is written behind, stop the threads, close the pools; idempotent.

        Where another thread is at it, this waits for that one, for `timeout` seconds at most. Raises
        `FlushTimeoutError` where something is neither in L3 nor safe in the ledger after `timeout` seconds; the store
        is closed all the same.
        """
        patience = seconds(timeout, "timeout") or 0.0
        if not self._closing.acquire(timeout=patience):
            return
        try:
            with self._lock:
                if self._context.closed:
                    return
                self._context.closed = True
                for hot in self._hot.values():
                    hot.close()
            try:
                if self._context.writebehind is not None:
                    self._context.writebehind.close(patience)
            finally:
                self._wiring.close()
        finally:
            self._closing.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DataStore(schemas={list(self._schemas)!r}{', closed' if self._context.closed else ''})"

    def _bound(self, schema: Any) -> Bound:
        self._open()
        try:
            bound = self._schemas.get(schema) if isinstance(schema, str) else self._by_class.get(schema)
        except TypeError:
            bound = None
        if bound is None:
            name = repr(schema) if isinstance(schema, str) else getattr(schema, "__name__", type(schema).__name__)
            known = ", ".join(map(repr, self._schemas)) or "none"
            raise SchemaNotFoundError(f"no schema {name} is registered with this store; registered: {known}")
        if bound.lacking:
            raise InvalidConfigError(bound.lacking)
        return bound

    def _open(self) -> None:
        self._context.check_open()
        if threading.Lock is not self._made_with:
            self._patched()

    def _patched(self) -> None:
        """gevent or eventlet has put locks and threads of its own in the place of the system's since the parts were
        made, as in a worker of `gunicorn -k gevent --preload`. Who waits for one of the system's stops every greenlet.

        So the parts are made anew, as after a fork, where nothing has begun in this process.
        """
        if self._wiring.begun:
            raise InvalidConfigError(
                "gevent or eventlet was patched in after this store was used in this process; patch first, before "
                "anything else is imported, or use the store in the forked workers only"
            )
        self._wiring.disconnect()
        self._after_fork()

    def _after_fork(self) -> None:
        self._made_with = threading.Lock
        self._lock, self._closing = threading.RLock(), threading.RLock()
        self._wiring.after_fork()


class _Counted:
    """Counts an operation that raises, and tells the recorder, where there is one, of it and of the time it took."""

    __slots__ = ("_began", "_bound", "_metrics", "_timed")

    def __init__(self, bound: Bound, metrics: SafeMetrics | None, timed: str = "") -> None:
        self._bound = bound
        self._metrics = metrics
        self._timed = timed

    def __enter__(self) -> None:
        if self._metrics is not None:
            self._began = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is not None:
            self._bound.counters.errors += 1
        if self._metrics is not None:
            if self._timed:
                self._metrics.observe(self._timed, perf_counter() - self._began, schema=self._bound.name)
            if kind is not None:
                self._metrics.count("strata_errors", schema=self._bound.name, error=kind.__name__)


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
