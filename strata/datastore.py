"""`DataStore`: the face of the library."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, overload

from strata import _compiled
from strata._wiring import Wiring
from strata.bound import Bound
from strata.collection import Collection
from strata.config import Config
from strata.contracts import Codec
from strata.durations import Duration, life, seconds
from strata.engine.calls import Caller, Making
from strata.engine.context import ABSENT
from strata.engine.hot import RAISE, Hot, StoreFields
from strata.engine.increment import Incrementer
from strata.engine.insert import Inserter
from strata.engine.invalidate import Invalidator
from strata.engine.many import ManyReader, named_by, pairs
from strata.engine.modify import Modifier
from strata.engine.observed import Observed, Observers
from strata.engine.read import Reader
from strata.engine.readings import numbers_of
from strata.engine.rows import Filler
from strata.engine.search import Searcher
from strata.engine.touch import Toucher
from strata.engine.tx import Tx
from strata.engine.where import WhereWriter
from strata.engine.write import Writer
from strata.engine.write_many import ManyWriter
from strata.errors import (
    InvalidConfigError,
    InvalidModelError,
    MigrationError,
    NotFoundError,
    SchemaDuplicateError,
    SchemaNotFoundError,
    shown,
)
from strata.forks.living import Living
from strata.jobs.fleet import Fleet
from strata.maintenance.audit import Auditor, AuditReport
from strata.maintenance.rotate_keys import KeyRotation, Rotator
from strata.maintenance.warm import Warmer
from strata.memo.cached import Caching, Terms, tags_of_results
from strata.model.fields import check_identifier
from strata.model.keys import KEYS
from strata.model.numbers import Number
from strata.observe.counters import Stats
from strata.observe.health import Health
from strata.paging import Page
from strata.policies import count, flag
from strata.query import Q, Query, as_query
from strata.schema import FieldNames, Key, Record, Schema, SchemaRef
from strata.waits.locks import memory_lock
from strata.waits.seats import Turn, Turns
from strata.writebehind.endings import install_sigterm
from strata.writebehind.ledger.lag import together

if TYPE_CHECKING:
    from strata.aio.store import AsyncDataStore
    from strata.jobs.job import Job
    from strata.l3.report import MigrationRecord, MigrationReport
    from strata.writebehind.persist.dead_letters import DeadLetters

T = TypeVar("T", bound=Record)
D = TypeVar("D")
K = TypeVar("K", bound=Key)

# Added to by whoever makes a store; read in the child of a fork, where nobody else is left.
_stores: Living[DataStore] = Living()


class DataStore(StoreFields):
    """Memory, Redis and PostgreSQL behind one set of calls.

    Thread-safe. Nothing is started or connected before it is needed. A store made before `fork` works in the child,
    with connections and threads of its own. `schema` is a schema's name or its model class; by class the result is
    statically typed.

    Whatever a call says of itself, it also raises `ClosedError` once the store is closed (but for `close` and `stats`),
    `SchemaNotFoundError` for a schema that is not registered, `InvalidConfigError` where an address that it needs is
    not set, `L2RefusedError` or `L3RefusedError` where a server refuses what it must do, and `StrataError` in a signal
    handler that has interrupted the store in the midst of a change. Each of them is a `StrataError`.

    >>> with DataStore(Config()) as ds:
    ...     players = ds.register(Schema(Player, l1=MemPolicy(ttl=60)))
    ...     players.set("p1", Player("p1", "andrew"))
    Player(id='p1', name='andrew')
    """

    _face: ClassVar[Any]  # set by `strata.aio.store`, which stands above
    _awaiting: ClassVar[Any]  # as above

    def __init__(self, config: Config) -> None:
        if not isinstance(config, Config):
            raise InvalidConfigError(f"DataStore takes a Config, not a {type(config).__name__}")
        self.config = config
        if config.flush_on_sigterm:
            install_sigterm()
        # `_schemas` and `_hot` are written under `_lock` by `register` and `close`, and read without
        # it: each write is one dict store, and whoever goes through them makes a list first, in one call
        # (`Wiring.schemas`). After fork `_after_fork` gives the child a lock that nobody holds.
        self._lock = memory_lock()
        self._closing = Turns()  # of those who close, one after the other
        self._schemas: dict[str, Bound] = {}
        self._hot = {}
        self._made_with = threading.Lock  # what it was when the parts were made: see `_patched`
        self._wiring = Wiring(config, self._schemas)
        self._observers = Observers(self._wiring.metrics, self._wiring.tracer).or_none()
        self._context = context = self._wiring.context
        filler = Filler(context)
        self._reader = Reader(context)
        self._many = ManyReader(context)
        self._writer = Writer(context)
        self._many_writer = ManyWriter(context, self._writer)
        self._invalidator = Invalidator(context)
        self._modifier = Modifier(context, self._writer)
        self._inserter = Inserter(context, self._writer, self._modifier)
        self._toucher = Toucher(context, self._reader)
        self._incrementer = Incrementer(context, self._reader, self._writer, self._modifier)
        self._caller = Caller(context, self._reader, self._writer, self._modifier)
        self._where = WhereWriter(context)
        self._searcher = Searcher(context, filler)
        self._warmer = Warmer(context, filler)
        self._auditor = Auditor(context, self._wiring.metrics)
        self._rotator = Rotator()
        self.fleet = Fleet(
            self._bound, self._wiring, self._warmer, self._wiring.migrator, lambda sample: self.audit(sample=sample)
        )
        self._aio: AsyncDataStore | None = None  # made by the first that asks; two of them do no harm
        _stores.add(self)

    def register(self, schema: Schema[T]) -> Collection[T, Any]:
        """Bind a schema to this store, once per name; the handle returned has the calls below without `schema`.

        Raises `SchemaDuplicateError`, `InvalidModelError`, `NoPrimaryKeyError`, or `InvalidConfigError` for a schema
        that cannot work. Nothing is connected yet, and addresses are needed at the first use only.
        """
        return self._register(schema)

    def _register(self, schema: Schema[T], *, remade: bool = False, codec: Codec | None = None) -> Collection[T, Any]:
        """`remade`: its records are results, which are made again. `codec`: in the place of that of the store."""
        if not isinstance(schema, Schema):
            raise InvalidModelError(f"register takes a Schema, not a {type(schema).__name__}; wrap the model in one")
        with self._lock:
            self._open()
            if check_identifier(schema.name, "schema name") in self._schemas:
                raise SchemaDuplicateError(
                    f"a schema {schema.name!r} is registered already; give this one another name"
                )
            bound = self._wiring.bind(schema, remade=remade, codec=codec or self.config.codec)
            self._schemas[schema.name] = bound
            self._hot[schema.name] = hot = Hot(bound)
            self._hot.setdefault(schema.model, hot)
        return Collection(self, schema.name, schema.model, hot)

    # -- reading ------------------------------------------------------------------------------------------------

    @overload
    def get(self, schema: type[T], id: Key, *, force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...) -> T: ...
    @overload
    def get(
        self, schema: type[T], id: Key, *, default: D, force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...
    ) -> T | D: ...
    @overload
    def get(
        self, schema: str, id: Key, *, default: Any = ..., force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...
    ) -> Any: ...
    @_compiled.hit("store_get")
    def get(
        self,
        schema: SchemaRef[Any],
        id: Key,
        *,
        default: Any = RAISE,
        force_l2: bool = False,
        force_l3: bool = False,
        whole: bool = False,
    ) -> Any:
        """The record, from L1, L2 or L3, filling upward; private to the caller.

        `force_l2` does not look into L1; `force_l3` returns L3's row and fills nothing. With `whole` no field is
        UNLOADED: of a record that a cache has without some, the row is read from L3, which fills nothing. Nothing is
        locked: by the time a change of it is `set`, another process may have written the key.

        Raises `NotFoundError` where no tier has it and no `default` was given, `EncodeError` or
        `MissingPrimaryKeyError` for an id that can be no key, `DecodeError` for a row that cannot be read, `HookError`
        where `before_get` raised, and `UnavailableError` where no tier could answer, whatever the `default`.
        """
        # The hit path, in this one frame (see `Hot`); everything else is behind `_get_slowly`.
        try:
            hot = self._hot[schema]
            entry = hot.lookup(id)
        except (TypeError, KeyError):
            pass  # a schema that is not there, or that has no hash
        except Exception:
            if type(id) in KEYS:
                raise  # from outside, and the caller's: a key of these has a hash
        else:
            if (
                entry is not None
                and not (force_l2 or force_l3 or whole)
                and (hot.exact is None or type(id) is hot.exact)
            ):
                now = monotonic()
                if now < entry.expires and now < hot.trust.until:
                    entry.used = now
                    entry.hits += 1
                    thaw = hot.thaw
                    return entry.value if thaw is None else thaw(entry.value)
        return self._get_slowly(schema, id, default, force_l2, force_l3, whole)

    def _get_slowly(self, schema: Any, id: Any, default: Any, force_l2: bool, force_l3: bool, whole: bool) -> Any:
        """`get` without a look at the hit path."""
        bound = self._bound(schema)
        with Observed(bound, self._observers, "get", id):
            record = self._reader.get(bound, id, force_l2=force_l2, force_l3=force_l3, whole=whole)
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
    def get_many(self, schema: type[T], ids: Iterable[K], *, whole: bool = ...) -> dict[K, T]: ...
    @overload
    def get_many(self, schema: str, ids: Iterable[K], *, whole: bool = ...) -> dict[K, Any]: ...
    def get_many(self, schema: SchemaRef[Any], ids: Iterable[Any], *, whole: bool = False) -> dict[Any, Any]:
        """Those of the records that exist, by id, with one round trip a tier.

        With `whole` no field is UNLOADED, as `get` has it.

        Raises `EncodeError`, `MissingPrimaryKeyError`, `DecodeError`, `HookError` and `UnavailableError` as `get` does.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "get_many"):
            return self._many.get_many(bound, ids, whole=whole)

    @overload
    def get_batch(self, wanted: Iterable[tuple[type[T], Key]], *, whole: bool = ...) -> list[T | None]: ...
    @overload
    def get_batch(self, wanted: Iterable[tuple[type[T], Key]], *, default: D, whole: bool = ...) -> list[T | D]: ...
    @overload
    def get_batch(
        self, wanted: Iterable[tuple[SchemaRef[Any], Key]], *, default: Any = ..., whole: bool = ...
    ) -> list[Any]: ...
    def get_batch(
        self, wanted: Iterable[tuple[SchemaRef[Any], Key]], *, default: Any = None, whole: bool = False
    ) -> list[Any]:
        """Records of several schemas, in the order asked for, with at most one round trip a tier for all of them.

        `wanted` are pairs of a schema and an id. At the place of what no tier has is `default`; what is asked for twice
        is the same record twice. Otherwise as `get_many`, `whole` too: where the caches are cold, Redis is asked once
        more for leases, and told once what was found, as for a single schema.

        Raises `EncodeError` also for what are no such pairs; otherwise as `get_many` does, where one of the schemas
        cannot be read.

        >>> p1 = store.set(Player, "p1", Player("p1", "andrew"))
        >>> store.get_batch([(Player, "p1"), ("scores", 404), ("players", "p1")])
        [Player(id='p1', name='andrew'), None, Player(id='p1', name='andrew')]
        """
        self._context.check_not_closed()
        asked = [(self._bound(schema), id) for schema, id in pairs(wanted)]
        with ExitStack() as counted:
            for bound in dict.fromkeys(bound for bound, _ in asked):
                counted.enter_context(Observed(bound, self._observers, "get_batch"))
            return self._many.get_batch(asked, default, whole=whole)

    @overload
    def prefetch(
        self, records: Iterable[Record], field: FieldNames, schema: type[T], *, whole: bool = ...
    ) -> dict[Any, T]: ...
    @overload
    def prefetch(
        self, records: Iterable[Record], field: FieldNames, schema: str, *, whole: bool = ...
    ) -> dict[Any, Any]: ...
    def prefetch(
        self, records: Iterable[Record], field: FieldNames, schema: SchemaRef[Any], *, whole: bool = False
    ) -> dict[Any, Any]:
        """The records that a field of others names, by id: those of a page at once, in the place of one `get` each.

        Each id is asked for once, as by `get_many`; None is skipped, and an id that no tier has is not in the result.
        Where the id is of several fields, `field` names a field for each, in their order.

        Raises `EncodeError` where a record has no such field, or holds UNLOADED in it; otherwise as `get_many` does.

        >>> p1 = store.set(Player, "p1", Player("p1", "andrew"))
        >>> store.prefetch([Player("p2", "p1"), Player("p3", "p404")], "name", Player)
        {'p1': Player(id='p1', name='andrew')}
        """
        self._bound(schema)
        return self.get_many(schema, named_by(records, field), whole=whole)

    @overload
    def get_or_set(self, schema: type[T], id: Key, factory: Callable[[], T], /, *, ttl: Duration | None = ...) -> T: ...
    @overload
    def get_or_set(self, schema: str, id: Key, factory: Callable[[], T], /, *, ttl: Duration | None = ...) -> T: ...
    def get_or_set(
        self, schema: SchemaRef[Any], id: Key, factory: Callable[[], Any], /, *, ttl: Duration | None = None
    ) -> Any:
        """The record; where no tier has it, `factory()` makes it, which is stored, and returned.

        Of those who ask for the same key at once, one calls `factory`, and all get the same record: in a process
        always, in the fleet where `RedisPolicy.lease_wait` is set. Stored as by `insert`, synchronously in every mode:
        where another process was quicker, its record is the one. An exception of `factory` reaches all who wait, and
        nothing is stored. What is written meanwhile wins; in a schema without L3, so does a deletion or an
        invalidation, and what was made is returned and not stored. `ttl` is the life of what is made, as in `set`.

        Raises what `factory` raises; `EncodeError` for what it returns that is no record of this key; `StrataError`
        where it asks for the record that it is to make; `InvalidConfigError` for a `ttl` that is none; otherwise as
        `get` and `insert` do.

        >>> store.delete(Player, "p8")
        >>> store.get_or_set(Player, "p8", lambda: Player("p8", "dora"))
        Player(id='p8', name='dora')
        >>> store.get_or_set(Player, "p8", lambda: Player("p8", "emil"))
        Player(id='p8', name='dora')
        """
        return self._get_made(schema, id, Making(factory, life=life(ttl)))

    def _get_made(self, schema: Any, id: Any, source: Making) -> Any:
        bound = self._bound(schema)
        with Observed(bound, self._observers, "get_or_set", id):
            return self._caller.get_or_set(bound, id, source)

    def cached(
        self,
        ttl: Duration | None = None,
        *,
        key: Callable[..., object] | None = None,
        name: str | None = None,
        lease_wait: Duration = 0,
        tags: Iterable[str] | Callable[..., Iterable[str]] | None = None,
    ) -> Caching:
        """A decorator: results of the function, or coroutine function, are kept in L1, and where the store has a Redis
        in L2, under a key made of the arguments (see docs/memoizing.md); returns a `Cached`, or an `AsyncCached`.

        They are of the type that the function's return annotation says, which is one that a field may have; None is a
        result as any other, where that says `| None`. One call a key is under way in a process; in the fleet too with
        `lease_wait`, the seconds for which others wait for a process's call. An exception reaches all who wait, and is
        not kept. While Redis is away results are kept in memory for a second.

        `ttl` is the age, in seconds, up to which a result is returned; 0 is without end, and None as the defaults of
        `Config` say of L1 and L2. `key` is a function of the same arguments: what it returns makes the key. `name` is
        that of the schema that holds the results: an identifier. Default: made of module and function. `tags` are those
        of every result, a list of texts, or a function of the same arguments that returns one: `invalidate_tag` then
        drops the results.

        Raises `InvalidModelError` for a function without a return annotation that a field may have,
        `SchemaDuplicateError` for a second one of a name, and `InvalidConfigError` for the other arguments; a call
        raises what the function raises, `EncodeError` for arguments that make no key and results of another type, and
        `HookError` where `tags` raises, or returns what are no tags.

        >>> @store.cached(ttl=60)
        ... def greeting(name: str) -> str:
        ...     return f"hello, {name}"
        >>> greeting("ann"), greeting.key("ann")
        ('hello, ann', 'name="ann"')
        """
        self._open()
        if callable(ttl):
            raise InvalidConfigError("cached was given a function as ttl; call it first: @store.cached(ttl=60)")
        if name is not None:
            check_identifier(name, "name of cached")
        wait = seconds(lease_wait, "lease_wait") or 0.0
        if key is not None and not callable(key):
            raise InvalidConfigError(f"key is {shown(key)}; it must be a function of the same arguments, or None")
        given = tags if tags is None or callable(tags) else tags_of_results(tags)
        return Caching(self, Terms(life(ttl), key, "" if name is None else name, wait, given))

    def exists(self, schema: SchemaRef[Any], id: Key) -> bool:
        """Whether any tier has the record; nothing is filled.

        Raises `EncodeError` or `MissingPrimaryKeyError` for an id that can be no key, and `UnavailableError` where no
        tier could answer.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "exists", id):
            return self._reader.exists(bound, id)

    @overload
    def search(self, schema: type[T], query: Q | Query | None = ...) -> list[T]: ...
    @overload
    def search(self, schema: str, query: Q | Query | None = ...) -> list[Any]: ...
    def search(self, schema: SchemaRef[Any], query: Q | Query | None = None) -> list[Any]:
        """The records that L3 (the replica where one is set) finds, at most 100 unless the query says otherwise.

        Whole records also fill L1 and L2. Raises `QueryError`, mostly before any tier is asked, `DecodeError` for a row
        that cannot be read, `HookError` where `before_get` raised, and `L3UnavailableError`.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "search"):
            return self._searcher.search(bound, as_query(query))

    @overload
    def search_page(self, schema: type[T], query: Q | Query | None = ..., *, after: str | None = ...) -> Page[T]: ...
    @overload
    def search_page(self, schema: str, query: Q | Query | None = ..., *, after: str | None = ...) -> Page[Any]: ...
    def search_page(
        self, schema: SchemaRef[Any], query: Q | Query | None = None, *, after: str | None = None
    ) -> Page[Any]:
        """The records of one page that L3 (the replica where one is set) finds, and where the next page begins.

        Pages are as large as the query's limit (0 is 100), and follow its order, which ends with the key: none repeats
        a row or loses one, whatever is inserted or deleted meanwhile; only a row whose own place changes may be met
        twice, or not at all. A page costs the same wherever it is, if there is an index in that order (`strata doctor`
        names one that is missing). `after` is `Page.next` of the page before, for the same condition and order; the
        arguments, the limit and the fields may be others.

        Whole records fill L1 and L2 as `search` has it. Raises `QueryError`, also for a query with an offset and for an
        `after` that is not of such a page, `DecodeError`, `HookError` and `L3UnavailableError` as `search` does.

        >>> stored = store.set_many(Player, {id: Player(id, "anna") for id in ("q1", "q2", "q3")})
        >>> query = Q().where("name = $1", "anna").order_by("id").desc().limit(2)
        >>> page = store.search_page(Player, query)
        >>> page.records
        [Player(id='q3', name='anna'), Player(id='q2', name='anna')]
        >>> store.search_page(Player, query, after=page.next)
        Page(records=[Player(id='q1', name='anna')], next=None)
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "search_page"):
            return self._searcher.search_page(bound, as_query(query), after)

    @overload
    def search_cached(self, schema: type[T], query: Q | Query | None = ...) -> list[T]: ...
    @overload
    def search_cached(self, schema: str, query: Q | Query | None = ...) -> list[Any]: ...
    def search_cached(self, schema: SchemaRef[Any], query: Q | Query | None = None) -> list[Any]:
        """As `search`; the whole result is kept in L2 under a key made from the query, until the L2 TTL.

        Raises `QueryError`, `DecodeError`, `HookError` and `L3UnavailableError` as `search` does.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "search_cached"):
            return self._searcher.search_cached(bound, as_query(query))

    @overload
    def search_iter(self, schema: type[T], query: Q | Query | None = ..., *, chunk: int = ...) -> Iterator[T]: ...
    @overload
    def search_iter(self, schema: str, query: Q | Query | None = ..., *, chunk: int = ...) -> Iterator[Any]: ...
    def search_iter(
        self, schema: SchemaRef[Any], query: Q | Query | None = None, *, chunk: int = 1000
    ) -> Iterator[Any]:
        """As `search`, for results too large for a list: all rows, `chunk` at a time; nothing is filled.

        Raises `QueryError` at once, also for a `chunk` that is no whole number of 1 or more; then, as it goes on,
        `DecodeError`, `HookError` and `L3UnavailableError` as `search` does.
        """
        bound = self._bound(schema)
        return self._searcher.iterate(bound, as_query(query), chunk)

    def count(self, schema: SchemaRef[Any], query: Q | Query | None = None) -> int:
        """How many rows L3 (the replica where one is set) has; order, limit and offset of the query do not matter.

        Raises `QueryError`, mostly before any tier is asked, and `L3UnavailableError`.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "count"):
            return self._searcher.count(bound, as_query(query))

    # -- writing ------------------------------------------------------------------------------------------------

    @overload
    def set(self, schema: type[T], id: Key, value: T, *, ttl: Duration | None = ...) -> T: ...
    @overload
    def set(self, schema: str, id: Key, value: T, *, ttl: Duration | None = ...) -> T: ...
    def set(self, schema: SchemaRef[Any], id: Key, value: Any, *, ttl: Duration | None = None) -> Any:
        """Store a record by the schema's write mode; returns it as stored. The caller's object is not changed.

        The last write of a key wins, whole, in every mode: what depends on a record that was read, such as a count, is
        safe only where nobody else writes the key (see docs/write-modes.md).

        `ttl`, in seconds or a `timedelta`, is a life of its own that this record has in L1 and L2, in the place of that
        of the policies, and longer perhaps; 0 is without end. In a schema without L3 the record ends with it; with L3
        it is read from there afterwards, and has the life of the policies, as after a write without `ttl`. `touch`
        gives it another one.

        Raises `EncodeError` or `MissingPrimaryKeyError` for a record or id that cannot be stored, `InvalidConfigError`
        for a `ttl` that is none, and `HookError` where `before_set` raised, before anything is written;
        `ConstraintError` where the database refuses the row; `L3UnavailableError`, or in a schema without L3
        `L2UnavailableError`, whose `outcome_unknown` says if it may have been written; `WriteBehindFullError` where a
        deferred write finds room nowhere.

        >>> store.set(Player, "p1", Player("p1", "andrew"), ttl=1200)
        Player(id='p1', name='andrew')
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "set", id):
            return self._writer.set(bound, id, value, life(ttl))

    def touch(self, schema: SchemaRef[Any], id: Key, /, ttl: Duration | None) -> None:
        """Give a record that is there another life in L1 and L2, from now on; nothing else of it changes.

        `ttl` is as in `set`, but that it must be said; None is the life that the policies give. It goes by no write
        mode: when it returns Redis knows of it, and every process that has a copy which would live longer drops it; a
        deferred write of this process is handed off for it, or has that life when it is. What is written or deleted
        meanwhile is not touched by it. What no cache has is loaded from L3 first. Without L2 it concerns the L1 of
        this process. Any thread may call it.

        Raises `NotFoundError` where there is no record, `InvalidConfigError` for a `ttl` that is none, `EncodeError` or
        `MissingPrimaryKeyError` for an id that can be no key, `L2UnavailableError` where Redis cannot be told, whose
        `outcome_unknown` says if it may have been, and `L3UnavailableError` where it has to be asked.

        >>> p1 = store.set(Player, "p1", Player("p1", "andrew"), ttl=1200)
        >>> store.touch(Player, "p1", 1200)
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "touch", id):
            self._toucher.touch(bound, id, life(ttl))

    @overload
    def insert(self, schema: type[T], record: T, /, *, ttl: Duration | None = ...) -> T: ...
    @overload
    def insert(self, schema: str, record: T, /, *, ttl: Duration | None = ...) -> T: ...
    def insert(self, schema: SchemaRef[Any], record: Any, /, *, ttl: Duration | None = None) -> Any:
        """Store a record whose key no record has yet, synchronously in every mode; returns it as stored.

        Deferred writes of the key that the ledger has count as there. A key that is marked `Generated` may be None: the
        database assigns it. `ttl` is a life of its own, as in `set`.

        Raises `AlreadyExistsError` where there is one, and nothing is written then; `MigrationError` where the table
        has nothing to make a key of; otherwise as `set_many` does. Of an `L3UnavailableError` whose `outcome_unknown`
        is true, `keys` has the record's key, also one that was assigned: inserted again with this key, it is refused
        where it was stored.

        >>> store.delete(Player, "p7")
        >>> store.insert(Player, Player("p7", "berta"))
        Player(id='p7', name='berta')
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "insert"):
            return self._inserter.insert(bound, record, life(ttl))

    @overload
    def insert_many(self, schema: type[T], records: Iterable[T], /) -> list[T]: ...
    @overload
    def insert_many(self, schema: str, records: Iterable[Any], /) -> list[Any]: ...
    def insert_many(self, schema: SchemaRef[Any], records: Iterable[Any], /) -> list[Any]:
        """Store records whose keys no record has yet, as `insert` does each; returns them as stored, in their order.

        Synchronous in every mode, and all or nothing in L3. In a schema without L3 they are inserted one by one, and
        those before one that is refused stay.

        Raises `AlreadyExistsError` where a key is there, or given twice: `key` is the first that was found; otherwise
        as `insert` does.

        >>> store.delete_many(Player, ["p7", "p9"])
        >>> store.insert_many(Player, [Player("p9", "emil"), Player("p7", "berta")])
        [Player(id='p9', name='emil'), Player(id='p7', name='berta')]
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "insert_many"):
            return self._inserter.insert_many(bound, records)

    @overload
    def update(self, schema: type[T], id: Key, /, *, expect: Mapping[str, Any] | None = ..., **fields: Any) -> T: ...
    @overload
    def update(self, schema: str, id: Key, /, *, expect: Mapping[str, Any] | None = ..., **fields: Any) -> Any: ...
    def update(
        self, schema: SchemaRef[Any], id: Key, /, *, expect: Mapping[str, Any] | None = None, **fields: Any
    ) -> Any:
        """Write these fields of a record and leave the others as they are; returns it as stored.

        By the schema's write mode, and in a write-behind schema the others are UNLOADED in what is returned. With
        `expect`, values that fields must have for anything to be written, it is synchronous in every mode: they are
        compared in the lowest tier, in one step with the write.

        Raises `EncodeError` for a field that is none, or a value that cannot be stored; `NotFoundError` where there is
        no record (what is deferred becomes a dead letter then); `ConflictError` where `expect` is not what is there;
        otherwise as `set` does.

        >>> p1 = store.set(Player, "p1", Player("p1", "andrew"))
        >>> store.update(Player, "p1", name="andrew II")
        Player(id='p1', name='andrew II')
        >>> store.update(Player, "p1", name="andrew", expect={"name": "andrew II"})
        Player(id='p1', name='andrew')
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "update", id):
            return self._modifier.update(bound, id, fields, expect)

    @overload
    def modify(self, schema: type[T], id: Key, function: Callable[[T], T | None], /) -> T: ...
    @overload
    def modify(self, schema: str, id: Key, function: Callable[[T], T | None], /) -> T: ...
    def modify(self, schema: SchemaRef[Any], id: Key, function: Callable[[Any], Any], /) -> Any:
        """Write what `function` makes of the record, in one step against every other writer of any process; returns it
        as stored.

        `function` gets a record of its own, which it may change and return; None is no change. It may be called more
        than once, while the row is locked, so it should be quick, and call nothing that waits for this record. It is
        synchronous in every mode: deferred writes that the ledger has are seen; what another process has not handed
        off yet is not, and loses in the fields that `function` changes.

        Raises `NotFoundError` where there is no record, what `function` raises, and otherwise as `set_many` does.

        >>> def rename(player: Player) -> Player:
        ...     player.name = player.name.title()
        ...     return player
        >>> store.modify(Player, "p1", rename)
        Player(id='p1', name='Andrew')
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "modify", id):
            return self._modifier.modify(bound, id, function)

    @overload
    def increment(self, schema: type[T], id: Key, /, *, default: T | None = ..., **deltas: Number) -> T: ...
    @overload
    def increment(self, schema: str, id: Key, /, *, default: Any = ..., **deltas: Number) -> Any: ...
    def increment(self, schema: SchemaRef[Any], id: Key, /, *, default: Any = None, **deltas: Number) -> Any:
        """Add to fields of a record, as in `increment(Post, 7, likes=1)`; returns it as far as it is known then.

        By the schema's write mode. What is written behind is counted exactly once, whatever fails on the way: the
        process adds up what it has added, and so do ledger and PostgreSQL with what several processes have; a `set` of
        the field takes the place of what was added before it, and what is added after it is on top. Then the record
        that is returned is what this process knows: others' increments may not be in it, and a field that is not known
        here is UNLOADED. `default` is the record that is made, and added to, where there is none.

        int goes with int, float with int and float, Decimal with int and Decimal; a field that is None counts from 0.

        Raises `EncodeError` for a field that is no number, and for what cannot be added to it; `NotFoundError` where
        there is no record, and no default (written behind, that is known where the record was read, and otherwise
        becomes a dead letter, as does a sum that BIGINT cannot hold); otherwise as `set` does.

        >>> scored = store.set("scores", 1, Score(1))
        >>> store.increment("scores", 1, points=5)
        Score(id=1, points=5)
        >>> store.increment("scores", 2, points=1, default=Score(2)).id
        2
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "increment", id):
            return self._incrementer.increment(bound, id, deltas, default)

    @overload
    def set_many(self, schema: type[T], values: Mapping[K, T], *, ttl: Duration | None = ...) -> dict[K, T]: ...
    @overload
    def set_many(self, schema: str, values: Mapping[K, T], *, ttl: Duration | None = ...) -> dict[K, T]: ...
    def set_many(
        self, schema: SchemaRef[Any], values: Mapping[Any, Any], *, ttl: Duration | None = None
    ) -> dict[Any, Any]:
        """Store records by id, synchronously in every mode and all or nothing in L3; returns them as stored.

        `ttl` is a life of its own for each, as in `set`. Raises `EncodeError`, `MissingPrimaryKeyError`,
        `InvalidConfigError`, `HookError`, `ConstraintError`, `L3UnavailableError` and `L2UnavailableError` as `set`
        does.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "set_many"):
            return self._many_writer.set_many(bound, values, life(ttl))

    def delete(self, schema: SchemaRef[Any], id: Key) -> None:
        """Remove the record from all tiers, by the schema's write mode; deleting what is not there is no error.

        Raises `EncodeError` or `MissingPrimaryKeyError` for an id that can be no key, `ConstraintError`,
        `L3UnavailableError`, `L2UnavailableError` and `WriteBehindFullError` as `set` does.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "delete", id):
            self._writer.delete(bound, id)

    def delete_many(self, schema: SchemaRef[Any], ids: Iterable[Key]) -> None:
        """Remove records; write-through schemas in one transaction. Those that are not there are no error.

        Raises `EncodeError`, `MissingPrimaryKeyError`, `ConstraintError`, `L3UnavailableError`, `L2UnavailableError`
        and `WriteBehindFullError` as `delete` does.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "delete_many"):
            self._many_writer.delete_many(bound, ids)

    def update_where(
        self,
        schema: SchemaRef[Any],
        query: Q | Query,
        progress: Callable[[int], object] | None = None,
        /,
        **fields: Any,
    ) -> int:
        """Write these fields of all rows that L3 finds, synchronously in every mode; returns how many rows they are.

        One statement in PostgreSQL, and every changed key leaves the caches of every process. `Q()` means all rows. Of
        a query with a limit so many are written, the first ones by its order, else by key. Up to 5,000 rows are
        changed all or none; more are changed in steps of so many, by themselves each, and `progress` is told the number
        so far after each. An error says how many were changed before; the call may be repeated. Hooks are for single
        records, and do not run. Deferred writes that PostgreSQL does not have yet are not found; a row that is found is
        judged with what this process and the ledger have of it, and they are in order with this write, by their
        versions and columns.

        Raises `EncodeError` for a field that is none, or a value that cannot be stored, and `QueryError`, also for a
        query with an offset or fields, before anything is written; `ConstraintError`, and `L3UnavailableError`, whose
        `outcome_unknown` says if the step may have been written.

        >>> stored = store.set_many(Player, {id: Player(id, "otto") for id in ("o1", "o2")})
        >>> store.update_where(Player, Q().where("name = $1", "otto"), name="olga")
        2
        >>> store.get(Player, "o1").name
        'olga'
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "update_where"):
            return self._where.update(bound, query, fields, progress)

    def delete_where(
        self, schema: SchemaRef[Any], query: Q | Query, progress: Callable[[int], object] | None = None, /
    ) -> int:
        """Delete all rows that L3 finds, synchronously in every mode; returns how many they were.

        One statement in PostgreSQL, and every deleted key leaves the caches of every process. `Q()` means all rows, and
        a limit, an order, steps, `progress` and deferred writes are as `update_where` has them: one that was deferred
        before does not bring a deleted row back.

        Raises `QueryError`, also for a query with an offset or fields, before anything is written; `ConstraintError`
        and `L3UnavailableError` as `update_where` does.

        >>> stored = store.set_many(Player, {id: Player(id, "ida") for id in ("i1", "i2")})
        >>> store.delete_where(Player, Q().where("name = $1", "ida").limit(1))
        1
        >>> store.count(Player, Q().where("name = $1", "ida"))
        1
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "delete_where"):
            return self._where.delete(bound, query, progress)

    def tx(self, timeout: Duration | None = None) -> Tx:
        """A transaction over several schemas; `timeout`, in seconds or a `timedelta`, is enforced by the database.

        Raises `InvalidConfigError` for a `timeout` that is none.
        """
        self._open()
        return Tx(self._bound, self._context, self._writer, seconds(timeout, "timeout"))

    # -- caches and write-behind --------------------------------------------------------------------------------

    def invalidate(self, schema: SchemaRef[Any], id: Key) -> None:
        """Drop the record from L1 and L2 of every instance; L3 and pending writes stay.

        Call it after the statement that changed the row, or after its commit: where transactions are under way in L3,
        the record is dropped once more as each of them ends.

        Raises `EncodeError` or `MissingPrimaryKeyError` for an id that can be no key, and `L2UnavailableError` where
        Redis cannot be told.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "invalidate", id):
            self._invalidator.one(bound, id)

    def invalidate_many(self, schema: SchemaRef[Any], ids: Iterable[Key]) -> None:
        """As `invalidate`, for many records, in one round trip; an empty list is no error.

        Raises `EncodeError` for `ids` that are no iterable of ids, and otherwise as `invalidate` does.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "invalidate_many"):
            self._invalidator.many(bound, ids)

    def invalidate_all(self, schema: SchemaRef[Any]) -> None:
        """Drop all of the schema from L1 and L2 of every instance, and its kept results; L3 and pending writes stay.

        It is one write to Redis, a marker, however many records there are. Where L2 is the lowest tier, L1 alone is
        dropped; where L1 is, nothing. What is said of transactions under way at `invalidate` holds too.

        Raises `L2UnavailableError` where Redis cannot be told.
        """
        bound = self._bound(schema)
        with Observed(bound, self._observers, "invalidate_all"):
            self._invalidator.all(bound)

    def invalidate_tag(self, tag: str) -> None:
        """Drop what has the tag from L1 and L2 of every instance, in all schemas with `tags`, and their kept results.

        It is one write to Redis, however many records have the tag. Pending writes stay, and so does the lowest tier of
        a schema; only results of functions that are `cached` with tags go from every tier. What is said of transactions
        under way at `invalidate` holds too (see docs/tags.md).

        Raises `EncodeError` for what is no tag, a text of 1 to 256 characters, and `L2UnavailableError` where Redis
        cannot be told.

        >>> @store.cached(ttl=60, tags=lambda team: [f"team:{team}"])
        ... def points(team: int) -> int:
        ...     print("counting")
        ...     return 6 * team
        >>> points(7)
        counting
        42
        >>> store.invalidate_tag("team:7")
        >>> points(7)
        counting
        42
        """
        self._open()
        bounds = self._wiring.schemas
        self._context.check_whole(*bounds)
        self._invalidator.tag(tag, bounds)

    @overload
    def warm_cache(
        self,
        schema: SchemaRef[Any],
        limit: int = ...,
        *,
        background: Literal[False] = ...,
        progress: Callable[[int], object] | None = ...,
    ) -> int: ...
    @overload
    def warm_cache(self, schema: SchemaRef[Any], limit: int = ..., *, background: Literal[True]) -> Job: ...
    def warm_cache(
        self,
        schema: SchemaRef[Any],
        limit: int = 0,
        *,
        background: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> int | Job:
        """Load up to `limit` records (0 = all) into L1 and L2; returns how many, or a job of the fleet.

        `progress` is told the number so far, after each chunk. Rows that cannot be read are left out and told of.

        Raises `InvalidConfigError` for a limit or a `progress` that is none, and `L3UnavailableError`, also for a
        schema without L3; with `background` `L2UnavailableError` where the job cannot be handed over.
        """
        bound = self._bound(schema)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise InvalidConfigError(f"limit is {shown(limit)}; it must be a whole number, 0 or more (0 = all)")
        if progress is not None and not callable(progress):
            raise InvalidConfigError(f"progress is {shown(progress)}; it must be a function, or None")
        if flag(background, "background"):
            return self.fleet.start_warm(bound, limit)
        with Observed(bound, self._observers, "warm_cache"):
            return self._warmer.warm(bound, limit, progress)

    def flush_dirty(self, timeout: Duration | None = None) -> None:
        """Return when L3 has every pending write of this process; works without any worker.

        Raises `FlushTimeoutError` with the number left after `timeout` seconds (default 30), and `InvalidConfigError`
        for a `timeout` that is none.
        """
        self._open()
        self._context.check_whole(*self._wiring.schemas)
        deferred, limit = self._context.writebehind, seconds(timeout, "timeout")
        if deferred is not None:
            deferred.flush(30.0 if limit is None else limit)

    @property
    def dead_letters(self) -> DeadLetters:
        """What could not be written behind: `list`, `show`, `retry`, `discard`.

        Raises `InvalidConfigError` where no Redis is set that could hold them.
        """
        self._open()
        with self._lock:
            return self._wiring.writebehind().dead_letters

    # -- migration ----------------------------------------------------------------------------------------------

    @overload
    def migrate(self, *, background: Literal[False] = ...) -> MigrationReport: ...
    @overload
    def migrate(self, *, background: Literal[True]) -> Job: ...
    def migrate(self, *, background: bool = False) -> MigrationReport | Job:
        """Bring PostgreSQL to the registered schemas, by additions only; the rest is in the report, in words.

        Any number of processes may call it at once. Raises `MigrationError` where a statement fails or another process
        holds it up too long, `InvalidModelError` for schemas that no database can have, and `L3UnavailableError`; with
        `background` `L2UnavailableError` where the job cannot be handed over.
        """
        self._open()
        return self.fleet.start_migrate() if flag(background, "background") else self._wiring.migrator().migrate()

    def migrate_from(self, directory: str | Path) -> list[str]:
        """Apply the `NNN_description.sql` files that were not applied yet, by number; returns their names.

        Raises `MigrationError` for a bad name, a number used twice, a file that changed after it was applied, or a
        statement that fails, of whose file nothing is applied then; and `L3UnavailableError`.
        """
        self._open()
        if not isinstance(directory, str | Path):
            raise MigrationError(f"migrate_from takes the path of a directory, not a {type(directory).__name__}")
        return list(self._wiring.migrator().migrate_from(Path(directory)))

    def migration_status(self) -> list[MigrationRecord]:
        """What was applied, in order; nothing where nothing ever was. Raises `L3UnavailableError`."""
        self._open()
        return list(self._wiring.migrator().migration_status())

    # -- encryption ---------------------------------------------------------------------------------------------

    def rotate_keys(
        self, schema: SchemaRef[Any] | None = None, *, progress: Callable[[str, int], object] | None = None
    ) -> list[KeyRotation]:
        """Encrypt anew, under the current key, what is under another one: in one schema, or in all that have L3.

        In short transactions, while others read and write: no value and no version changes, and no newer write is
        touched. Interrupted, it goes on where it was when called again. `progress` is told the schema and the number
        of rows looked at so far. What no key opens is left as it is and told in the result, by column and key id.

        Raises `InvalidConfigError` where there is no key, or for a `progress` that is none, and `L3UnavailableError`.

        >>> store.rotate_keys()
        [KeyRotation(schema='accounts', rows=2, left=())]
        """
        self._open()
        if progress is not None and not callable(progress):
            raise InvalidConfigError(f"progress is {shown(progress)}; it must be a function, or None")
        every = [bound for bound in self._wiring.schemas if bound.plan.has_encrypted and bound.l3 is not None]
        chosen = every if schema is None else [self._bound(schema)]
        rotations = []
        for bound in chosen:
            with Observed(bound, self._observers, "rotate_keys"):
                told = None if progress is None else partial(progress, bound.name)
                rotations.append(self._rotator.rotate(bound, told))
        return rotations

    def audit(
        self, schema: SchemaRef[Any] | None = None, *, sample: int = 1000, pause: Duration | None = 1.0
    ) -> AuditReport:
        """How many of the copies in L1 (of this process) and in L2 agree with L3, and which do not.

        Looks at up to `sample` keys of each cache, in one schema or in all. What differs is looked at again after
        `pause` seconds, since a write under way is no staleness; nor are writes that are pending. Nothing is changed:
        `invalidate` drops a stale key. Rows that cannot be read are left out and told of.

        Raises `InvalidConfigError` for a `sample` or a `pause` that is none, and `L2UnavailableError` or
        `L3UnavailableError`, since nothing can be said without them.

        >>> store.audit(sample=500).stale
        ()
        """
        self._open()
        count(sample, "sample", 1)
        wait = seconds(pause, "pause") or 0.0
        chosen = self._wiring.schemas if schema is None else [self._bound(schema)]
        audits = [self._auditor.audit(bound, sample, wait) for bound in chosen if bound.l3 is not None]
        return AuditReport(tuple(audits))

    @property
    def aio(self) -> AsyncDataStore:
        """The same store for asyncio: its calls are awaited, and it shares everything with this one.

        Its calls raise `InvalidConfigError` where greenlet is not installed.
        """
        face = self._aio
        if face is None:
            face = self._aio = self._face(self)
        return face

    # -- life ---------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """A snapshot of the counters; nothing is asked for it. Works on a closed store as well, and raises nothing.

        What the ledger holds was seen by a thread, `ledger_age` seconds ago, which looks once a second while somebody
        wants to know; None is unknown: nobody has looked yet. Thread-safe.
        """
        by_schema: dict[str, dict[str, Any]] = {bound.name: numbers_of(bound) for bound in self._wiring.schemas}
        totals: dict[str, Any] = {}
        for numbers in by_schema.values():
            for name, value in numbers.items():
                totals[name] = totals.get(name, 0) + value
        deferred = self._context.writebehind
        if deferred is not None:
            waiting = {name: deferred.lag.fields(name) for name in by_schema if self._schemas[name].deferred}
            for name, fields in waiting.items():
                by_schema[name] |= fields
            totals |= together(list(waiting.values()))
            totals["dirty_count"] = deferred.dirty_count()
            totals["dirty_age"] = deferred.dirty_age()
        return Stats(
            **totals,
            **self._wiring.numbers(),
            by_schema=MappingProxyType({name: MappingProxyType(numbers) for name, numbers in by_schema.items()}),
        )

    def health(self) -> Health:
        """What is known, without asking anybody, of tiers, bus, fleet and what waits; in well under a millisecond.

        A tier is `down` once calls of this process have found it so, and `up` once it answered; where nothing was asked
        of it, its state is None. Thread-safe. Raises `ClosedError`, and nothing else.

        >>> store.health().l3.state
        <TierState.UP: 'up'>
        """
        self._open()
        return self._wiring.health()

    def close(self, timeout: Duration = 30) -> None:
        """Flush what is written behind, stop the threads, close the pools; idempotent.

        Where another thread is at it, this waits for that one, for `timeout` seconds at most. Raises
        `FlushTimeoutError` where something is neither in L3 nor safe in the ledger after `timeout` seconds; the store
        is closed all the same. It is not where a signal's handler calls this that has interrupted the store in the
        midst of a change: that raises `StrataError`, and does nothing. Nor where the `timeout` is none:
        `InvalidConfigError`.
        """
        patience = seconds(timeout, "timeout") or 0.0
        self._context.check_whole(*self._wiring.schemas)
        turn = Turn()
        try:
            if not self._closing.take(turn, patience):
                return
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
            self._closing.leave(turn)

    def __enter__(self) -> Self:
        self._context.check_not_closed()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DataStore(schemas={list(self._schemas)!r}{', closed' if self._context.closed else ''})"

    def _remove(self, schema: str, id: Key, fits: Callable[[Any], bool]) -> bool:
        """Delete a record of a schema without L3 if there is one, and it fits; whether that was so."""
        bound = self._bound(schema)
        with Observed(bound, self._observers, "remove", id):
            return self._modifier.remove(bound, id, fits)

    def _committed(self, schema: str, ids: Iterable[Key] | None) -> None:
        """Invalidate records, or all, whose rows somebody has committed: where Redis cannot be told, it is later."""
        bound = self._bound(schema)
        with Observed(bound, self._observers, "committed"):
            self._invalidator.committed(bound, ids)

    @property
    def _has_redis(self) -> bool:
        return self._wiring.server is not None

    def _bound(self, schema: Any) -> Bound:
        self._context.check_not_closed()
        if threading.Lock is not self._made_with:
            self._patched()
        try:
            bound: Bound = self._hot[schema].bound
        except Exception:  # noqa: BLE001 what is no schema may raise anything when it is hashed
            raise self._not_found(schema) from None
        if bound.lacking:
            raise InvalidConfigError(bound.lacking)
        self._context.check_whole(bound)
        return bound

    def _not_found(self, schema: Any) -> SchemaNotFoundError:
        known = f"registered: {', '.join(map(repr, list(self._schemas))) or 'none'}"
        if not isinstance(schema, str | type):
            kind = type(schema).__name__
            return SchemaNotFoundError(f"a schema is told by its name or its class, not by a value of {kind}; {known}")
        name = shown(schema) if isinstance(schema, str) else schema.__name__
        return SchemaNotFoundError(f"no schema {name} is registered with this store; {known}")

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
        self._lock, self._closing = memory_lock(), Turns()
        self._wiring.after_fork()
        self._modifier.after_fork()


def _after_fork_in_child() -> None:
    for store in _stores.all():
        store._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
