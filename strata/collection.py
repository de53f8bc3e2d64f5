"""`Collection`: one schema of a store, with the store's calls without `schema`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, overload

from strata import _compiled
from strata.durations import Duration
from strata.engine.hot import RAISE, HandleFields, Hot
from strata.jobs.job import Job
from strata.model.keys import KEYS
from strata.model.numbers import Number
from strata.paging import Page
from strata.query import Q, Query
from strata.schema import Key, Record

T = TypeVar("T", bound=Record)
D = TypeVar("D")
if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault  # of `typing` from Python 3.13 on

    from strata.aio.collection import AsyncCollection
    from strata.datastore import DataStore  # which makes collections; only its type is needed here

    K = WithDefault("K", bound=Key, default=Any)
else:
    K = TypeVar("K", bound=Key)


class Collection(HandleFields, Generic[T, K]):
    """One schema of a store: its calls, without `schema`. `DataStore.register` returns it.

    Thread-safe, and as long-lived as its store. `Collection[Player, str]` says that the ids are texts;
    `Collection[Player]` leaves open what they are.

    Whatever a call says of itself, it also raises `ClosedError` once the store is closed, `InvalidConfigError` where an
    address that it needs is not set, `L2RefusedError` or `L3RefusedError` where a server refuses what it must do, and
    `StrataError` in a signal handler that has interrupted the store in the midst of a change.

    >>> players: Collection[Player, str] = DataStore(Config()).register(Schema(Player, l1=MemPolicy(ttl=60)))
    >>> players.set("p1", Player("p1", "andrew"))
    Player(id='p1', name='andrew')

    Attributes:
        name: The schema's name.
        model: The class of its records.
    """

    if not TYPE_CHECKING:

        def __class_getitem__(cls, parts: Any) -> Any:
            return super().__class_getitem__(parts if isinstance(parts, tuple) else (parts, Any))

    __slots__ = ("_store", "model", "name")

    def __init__(self, store: DataStore, name: str, model: type[T], hot: Hot) -> None:
        self._store = store
        self._hot = hot
        self.name = name
        self.model = model

    _face: ClassVar[Any]  # set by `strata.aio.store`, which stands above

    @property
    def aio(self) -> AsyncCollection[T, K]:
        """The same schema for asyncio: its calls are awaited."""
        return self._face()  # type: ignore[no-any-return]

    @overload
    def get(self, id: K, *, force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...) -> T: ...
    @overload
    def get(self, id: K, *, default: D, force_l2: bool = ..., force_l3: bool = ..., whole: bool = ...) -> T | D: ...
    @_compiled.hit("handle_get")
    def get(
        self, id: K, *, default: Any = RAISE, force_l2: bool = False, force_l3: bool = False, whole: bool = False
    ) -> Any:
        """The record, from L1, L2 or L3, filling upward; private to the caller.

        `force_l2` does not look into L1; `force_l3` returns L3's row and fills nothing. With `whole` no field is
        UNLOADED: of a record that a cache has without some, the row is read from L3, which fills nothing. Nothing is
        locked: by the time a change of it is `set`, another process may have written the key.

        Raises `NotFoundError` where no tier has it and no `default` was given, `EncodeError` or
        `MissingPrimaryKeyError` for an id that can be no key, `DecodeError` for a row that cannot be read, `HookError`
        where `before_get` raised, and `UnavailableError` where no tier could answer, whatever the `default`.
        """
        hot = self._hot  # the hit path once more, for the sake of its one frame
        try:
            entry = hot.lookup(id)
        except Exception:
            if type(id) in KEYS:
                raise  # from outside, and the caller's: a key of these has a hash
            entry = None
        if entry is not None and not (force_l2 or force_l3 or whole) and (hot.exact is None or type(id) is hot.exact):
            now = monotonic()
            if now < entry.expires and now < hot.trust.until:
                entry.used = now
                entry.hits += 1
                thaw = hot.thaw
                return entry.value if thaw is None else thaw(entry.value)
        return self._store._get_slowly(self.name, id, default, force_l2, force_l3, whole)

    def get_many(self, ids: Iterable[K], *, whole: bool = False) -> dict[K, T]:
        """Those of the records that exist, by id, with one round trip a tier.

        With `whole` no field is UNLOADED, as `get` has it.

        Raises `EncodeError`, `MissingPrimaryKeyError`, `DecodeError`, `HookError` and `UnavailableError` as `get` does.
        """
        return self._store.get_many(self.name, ids, whole=whole)

    def get_or_set(self, id: K, factory: Callable[[], T], /, *, ttl: Duration | None = None) -> T:
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
        return self._store.get_or_set(self.name, id, factory, ttl=ttl)

    def set(self, id: K, value: T, *, ttl: Duration | None = None) -> T:
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
        return self._store.set(self.name, id, value, ttl=ttl)

    def touch(self, id: K, /, ttl: Duration | None) -> None:
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
        self._store.touch(self.name, id, ttl)

    def insert(self, record: T, /, *, ttl: Duration | None = None) -> T:
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
        return self._store.insert(self.name, record, ttl=ttl)

    def insert_many(self, records: Iterable[T], /) -> list[T]:
        """Store records whose keys no record has yet, as `insert` does each; returns them as stored, in their order.

        Synchronous in every mode, and all or nothing in L3. In a schema without L3 they are inserted one by one, and
        those before one that is refused stay.

        Raises `AlreadyExistsError` where a key is there, or given twice: `key` is the first that was found; otherwise
        as `insert` does.

        >>> store.delete_many(Player, ["p7", "p9"])
        >>> store.insert_many(Player, [Player("p9", "emil"), Player("p7", "berta")])
        [Player(id='p9', name='emil'), Player(id='p7', name='berta')]
        """
        return self._store.insert_many(self.name, records)

    def update(self, id: K, /, *, expect: Mapping[str, Any] | None = None, **fields: Any) -> T:
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
        return self._store.update(self.name, id, expect=expect, **fields)  # type: ignore[no-any-return]

    def modify(self, id: K, function: Callable[[T], T | None], /) -> T:
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
        return self._store.modify(self.name, id, function)

    def increment(self, id: K, /, *, default: T | None = None, **deltas: Number) -> T:
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
        return self._store.increment(self.name, id, default=default, **deltas)  # type: ignore[no-any-return]

    def set_many(self, values: Mapping[K, T], *, ttl: Duration | None = None) -> dict[K, T]:
        """Store records by id, synchronously in every mode and all or nothing in L3; returns them as stored.

        `ttl` is a life of its own for each, as in `set`. Raises `EncodeError`, `MissingPrimaryKeyError`,
        `InvalidConfigError`, `HookError`, `ConstraintError`, `L3UnavailableError` and `L2UnavailableError` as `set`
        does.
        """
        return self._store.set_many(self.name, values, ttl=ttl)

    def delete(self, id: K) -> None:
        """Remove the record from all tiers, by the schema's write mode; deleting what is not there is no error.

        Raises `EncodeError` or `MissingPrimaryKeyError` for an id that can be no key, `ConstraintError`,
        `L3UnavailableError`, `L2UnavailableError` and `WriteBehindFullError` as `set` does.
        """
        self._store.delete(self.name, id)

    def delete_many(self, ids: Iterable[K]) -> None:
        """Remove records; write-through schemas in one transaction. Those that are not there are no error.

        Raises `EncodeError`, `MissingPrimaryKeyError`, `ConstraintError`, `L3UnavailableError`, `L2UnavailableError`
        and `WriteBehindFullError` as `delete` does.
        """
        self._store.delete_many(self.name, ids)

    def update_where(self, query: Q | Query, progress: Callable[[int], object] | None = None, /, **fields: Any) -> int:
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
        return self._store.update_where(self.name, query, progress, **fields)

    def delete_where(self, query: Q | Query, progress: Callable[[int], object] | None = None, /) -> int:
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
        return self._store.delete_where(self.name, query, progress)

    def search(self, query: Q | Query | None = None) -> list[T]:
        """The records that L3 (the replica where one is set) finds, at most 100 unless the query says otherwise.

        Whole records also fill L1 and L2. Raises `QueryError`, mostly before any tier is asked, `DecodeError` for a row
        that cannot be read, `HookError` where `before_get` raised, and `L3UnavailableError`.
        """
        return self._store.search(self.name, query)

    def search_page(self, query: Q | Query | None = None, *, after: str | None = None) -> Page[T]:
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
        return self._store.search_page(self.name, query, after=after)

    def search_cached(self, query: Q | Query | None = None) -> list[T]:
        """As `search`; the whole result is kept in L2 under a key made from the query, until the L2 TTL.

        Raises `QueryError`, `DecodeError`, `HookError` and `L3UnavailableError` as `search` does.
        """
        return self._store.search_cached(self.name, query)

    def search_iter(self, query: Q | Query | None = None, *, chunk: int = 1000) -> Iterator[T]:
        """As `search`, for results too large for a list: all rows, `chunk` at a time; nothing is filled.

        Raises `QueryError` at once, also for a `chunk` that is no whole number of 1 or more; then, as it goes on,
        `DecodeError`, `HookError` and `L3UnavailableError` as `search` does.
        """
        return self._store.search_iter(self.name, query, chunk=chunk)

    def exists(self, id: K) -> bool:
        """Whether any tier has the record; nothing is filled.

        Raises `EncodeError` or `MissingPrimaryKeyError` for an id that can be no key, and `UnavailableError` where no
        tier could answer.
        """
        return self._store.exists(self.name, id)

    def count(self, query: Q | Query | None = None) -> int:
        """How many rows L3 (the replica where one is set) has; order, limit and offset of the query do not matter.

        Raises `QueryError`, mostly before any tier is asked, and `L3UnavailableError`.
        """
        return self._store.count(self.name, query)

    def invalidate(self, id: K) -> None:
        """Drop the record from L1 and L2 of every instance; L3 and pending writes stay.

        Call it after the statement that changed the row, or after its commit: where transactions are under way in L3,
        the record is dropped once more as each of them ends.

        Raises `EncodeError` or `MissingPrimaryKeyError` for an id that can be no key, and `L2UnavailableError` where
        Redis cannot be told.
        """
        self._store.invalidate(self.name, id)

    def invalidate_many(self, ids: Iterable[K]) -> None:
        """As `invalidate`, for many records, in one round trip; an empty list is no error.

        Raises `EncodeError` for `ids` that are no iterable of ids, and otherwise as `invalidate` does.
        """
        self._store.invalidate_many(self.name, ids)

    def invalidate_all(self) -> None:
        """Drop all of the schema from L1 and L2 of every instance, and its kept results; L3 and pending writes stay.

        It is one write to Redis, a marker, however many records there are. Where L2 is the lowest tier, L1 alone is
        dropped; where L1 is, nothing. What is said of transactions under way at `invalidate` holds too.

        Raises `L2UnavailableError` where Redis cannot be told.
        """
        self._store.invalidate_all(self.name)

    @overload
    def warm_cache(
        self, limit: int = ..., *, background: Literal[False] = ..., progress: Callable[[int], object] | None = ...
    ) -> int: ...
    @overload
    def warm_cache(self, limit: int = ..., *, background: Literal[True]) -> Job: ...
    def warm_cache(
        self, limit: int = 0, *, background: bool = False, progress: Callable[[int], object] | None = None
    ) -> int | Job:
        """Load up to `limit` records (0 = all) into L1 and L2; returns how many, or a job of the fleet.

        `progress` is told the number so far, after each chunk. Rows that cannot be read are left out and told of.

        Raises `InvalidConfigError` for a limit or a `progress` that is none, and `L3UnavailableError`, also for a
        schema without L3; with `background` `L2UnavailableError` where the job cannot be handed over.
        """
        warm: Any = self._store.warm_cache  # its overloads know True and False, not what may be either
        warmed: int | Job = warm(self.name, limit, background=background, progress=progress)
        return warmed

    def __repr__(self) -> str:
        return f"Collection({self.name!r}, {self.model.__name__})"
