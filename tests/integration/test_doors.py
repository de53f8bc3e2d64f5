"""Every public door, given every kind of wrong argument, with every tier up, down and closed: a StrataError or nothing.

A wrong number of arguments is Python's own `TypeError`, and what the user's own code raises is the user's.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import inspect
import json
import math
import re
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any, cast

import msgspec
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import strata
from strata import (
    UNLOADED,
    Config,
    DataStore,
    Encrypted,
    Index,
    L1PoolConfig,
    L2PoolConfig,
    L3PoolConfig,
    MemPolicy,
    PostgresPolicy,
    PrimaryKey,
    Q,
    Query,
    RedisPolicy,
    Schema,
    SchemaHooks,
    StrataError,
    WriteMode,
)
from strata.embedded import (
    EmbeddedCluster,
    EmbeddedPostgres,
    EmbeddedSentinel,
    EmbeddedServers,
    EmbeddedStandby,
    EmbeddedValkey,
)
from strata.integrations.prometheus import PrometheusRecorder
from strata.testing import Proxy, observe
from strata.testing import inspect as behind
from strata.writebehind.persist.dead_letters import DeadLetters
from tests.stores import MakeStore, schema, stores

SHORT = L2PoolConfig(dial_timeout=0.2, read_timeout=0.5, write_timeout=0.5)


@dataclass
class Named:
    id: Annotated[str, PrimaryKey]
    text: str | None = None
    size: int = 0
    free: dict[str, Any] = field(default_factory=dict)
    secret: Annotated[str | None, Encrypted] = None


@dataclass
class Numbered:
    id: Annotated[int, PrimaryKey]
    real: float = 0.0
    when: datetime.datetime | None = None
    many: list[int] = field(default_factory=list)


class Loose(msgspec.Struct):
    id: Annotated[uuid.UUID, PrimaryKey]
    amount: decimal.Decimal | None = None
    span: datetime.timedelta | None = None


class Colour(enum.Enum):
    RED = 1


class Shy:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


class Moody:
    """Can be compared with nothing, and has no hash."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


class Wide(int):
    """An int of a class of its own."""


def itself(kind: type) -> Any:
    made: Any = kind()
    if kind is dict:
        made["me"] = made
    else:
        made.append(made)
    return made


def deep(levels: int) -> Any:
    made: Any = []
    for _ in range(levels):
        made = [made]
    return made


def wrong() -> dict[str, Any]:
    """Fresh ones, since some can be used once."""
    return {
        "None": None, "True": True, "0": 0, "-1": -1, "1": 1, "2**63": 2**63, "10**5000": 10**5000, "1.5": 1.5,
        "NaN": math.nan, "inf": math.inf, "1e400": decimal.Decimal("1e400"), "sNaN": decimal.Decimal("sNaN"),
        "''": "", "'a'": "a", "a long text": "x" * 5_000, "a surrogate": "\ud800", "a NUL": "a\0b", "b'a'": b"a",
        "b'\\xff'": b"\xff", "a bytearray": bytearray(b"a"), "a memoryview": memoryview(b"a"), "object()": object(),
        "a class": Named, "int": int, "a module": json, "a function": deep, "a lambda": lambda *args: 1 / 0,
        "a generator": (x for x in "ab"), "an iterator": iter([1]), "a lock": threading.Lock(), "[]": [], "{}": {},
        "()": (), "{1, 'a'}": {1, "a"}, "['a', 1]": ["a", 1], "{'a': 1}": {"a": 1}, "[[]]": [[]], "{1: object()}":
        {1: object()}, "[None]": [None], "a list in itself": itself(list), "a dict in itself": itself(dict),
        "a deep list": deep(5000), "a range": range(3), "a naive datetime": datetime.datetime(2026, 1, 1),
        "a date": datetime.date(1, 1, 1), "timedelta.max": datetime.timedelta.max, "timedelta.min":
        datetime.timedelta.min, "a UUID": uuid.UUID(int=1), "an enum": Colour.RED, "an enum's class": Colour,
        "UNLOADED": UNLOADED, "Ellipsis": ..., "NotImplemented": NotImplemented, "what is shy": Shy(), "what is moody":
        Moody(), "a wide int": Wide(3), "an exception": ValueError("x"), "a complex":
        1j, "Q()": Q(), "a Query": Query(), "a record": Named("a"), "another record": Numbered(1), "a slice": slice(1),
        "a namespace": types.SimpleNamespace(id="a"), "a record with nothing": Named.__new__(Named),
        "a record in itself": Named("a", free=itself(dict)), "a schema": Schema(Named, l1=MemPolicy()), "a type":
        list[int], "a proxy": types.MappingProxyType({"a": 1}),
    }  # fmt: skip


FEW = {"a text": "a", "a number": 1, "a record": Named("a"), "None": None, "a UUID": uuid.UUID(int=1)}
Door = Callable[[Any], object]


def keyword(make: Callable[..., object], name: str, **others: Any) -> Door:
    """A call of which this argument may be anything."""
    return lambda x: make(**(others | {name: x}))


def key_doors(store: DataStore, name: str, id: Any) -> dict[str, Door]:
    """The calls about one key of a schema, each with one argument that may be anything."""
    model = behind(store).schemas[name].plan.model

    def changed(column: str) -> Door:
        return lambda x: store.set(name, id, model(**({"id": id} | {column: x})))

    other: Any = {str: "none", int: 99}.get(type(id), uuid.UUID(int=99))
    columns = fields(model) if not issubclass(model, msgspec.Struct) else msgspec.structs.fields(model)
    new_record: Any = None
    new: dict[str, Any] = {next(column.name for column in columns if column.name != "id"): "new"}
    one: dict[str, int] = dict.fromkeys(new, 1)
    doors: dict[str, Door] = {
        "get": lambda x: store.get(name, x),
        "get force_l3": lambda x: store.get(name, x, default=None, force_l3=True),
        "get_many": lambda x: store.get_many(name, x),
        "get_batch": lambda x: store.get_batch(x),
        "get_batch pair": lambda x: store.get_batch([x]),
        "get_batch schema": lambda x: store.get_batch([(x, other)]),
        "get_batch id": lambda x: store.get_batch([(name, x), (name, other)]),
        "prefetch records": lambda x: store.prefetch(x, "id", name),
        "prefetch record": lambda x: store.prefetch([x], "id", name),
        "prefetch field": lambda x: store.prefetch([new_record], x, name),
        "prefetch schema": lambda x: store.prefetch([new_record], "id", x),
        "get_many of one": lambda x: store.get_many(name, [x]),
        "exists": lambda x: store.exists(name, x),
        "insert": lambda x: store.insert(name, x),
        "insert_many": lambda x: store.insert_many(name, x),
        "insert_many of one": lambda x: store.insert_many(name, [x]),
        "get_or_set": lambda x: store.get_or_set(name, x, lambda: new_record),
        "get_or_set factory": lambda x: callable(x) or store.get_or_set(name, other, x),
        "get_or_set made": lambda x: store.get_or_set(name, other, lambda: x),
        "update": lambda x: store.update(name, x, **new),
        "update value": lambda x: store.update(name, id, **dict.fromkeys(new, x)),
        "update expect": keyword(partial(store.update, name, id), "expect", **new),
        "modify": lambda x: store.modify(name, x, lambda record: None),
        "increment": lambda x: store.increment(name, x, default=None, **one),
        "increment value": lambda x: store.increment(name, id, **cast(dict[str, Any], dict.fromkeys(new, x))),
        "increment default": lambda x: store.increment(name, id, default=x, **one),
        "modify value": lambda x: store.modify(name, id, lambda record: x),
        "set id": lambda x: store.set(name, x, Named("a")),
        "set value": lambda x: store.set(name, id, x),
        "set_many": lambda x: store.set_many(name, x),
        "set_many of one": lambda x: store.set_many(name, {id: x}),
        "set ttl": lambda x: store.set(name, id, model(id), ttl=x),
        "set_many ttl": lambda x: store.set_many(name, {id: model(id)}, ttl=x),
        "get_or_set ttl": lambda x: store.get_or_set(name, other, lambda: model(other), ttl=x),
        "touch": lambda x: store.touch(name, x, 60),
        "touch ttl": lambda x: store.touch(name, id, x),
        "delete": lambda x: store.delete(name, x),
        "delete_many": lambda x: store.delete_many(name, x),
        "delete_many of one": lambda x: store.delete_many(name, [x]),
        "invalidate": lambda x: store.invalidate(name, x),
        "invalidate_many": lambda x: store.invalidate_many(name, x),
        "invalidate_many of one": lambda x: store.invalidate_many(name, [x]),
        "tx set": lambda x: store.tx().set(name, id, x).commit(),
        "tx delete": lambda x: store.tx().delete(name, x).commit(),
    }
    return doors | {f"set {column.name}": changed(column.name) for column in columns}


NOBODY = Q().where("false")


def never(query: Any) -> Any:
    """A query that finds nothing in the place of one that is right: the rows are for the other doors."""
    return NOBODY if isinstance(query, Q | Query) else query


def query_doors(store: DataStore, name: str) -> dict[str, Door]:
    """The calls about many records of a schema, as above."""
    return {
        "search": lambda x: store.search(name, x),
        "search_page": lambda x: store.search_page(name, x),
        "search_page after": lambda x: store.search_page(name, Q().order_by("text").limit(1), after=x),
        "search_page argument": lambda x: store.search_page(name, Q().where("text = $1", x).order_by("size")),
        "search_cached": lambda x: store.search_cached(name, x),
        "search_iter": lambda x: list(store.search_iter(name, x)),
        "search_iter chunk": lambda x: list(store.search_iter(name, chunk=x)),
        "count": lambda x: store.count(name, x),
        "update_where": lambda x: store.update_where(name, never(x), text="new"),
        "update_where progress": lambda x: callable(x) or store.update_where(name, NOBODY, x, text="new"),
        "update_where value": lambda x: store.update_where(name, NOBODY, text=x),
        "update_where argument": lambda x: store.update_where(name, Q().where("text = $1", x).limit(1), size=1),
        "delete_where": lambda x: store.delete_where(name, never(x)),
        "delete_where progress": lambda x: callable(x) or store.delete_where(name, NOBODY, x),
        "delete_where argument": lambda x: store.delete_where(name, Q().where("text = $1 AND false", x)),
        "search argument": lambda x: store.search(name, Q().where("text = $1", x)),
        "search_cached argument": lambda x: store.search_cached(name, Q().where("text = $1", x)),
        "count list": lambda x: store.count(name, Q().where("text = ANY($1)", [x])),
        "search_iter argument": lambda x: list(store.search_iter(name, Q().where("size > $1", x))),
        "search fields": lambda x: store.search(name, Q().fields(x)),
        "search order_by": lambda x: store.search(name, Q().order_by(x)),
        "search where": lambda x: store.search(name, Q().where(x)),
        "search limit": lambda x: store.search(name, Q().limit(x)),
        "search offset": lambda x: store.search(name, Q().offset(x)),
        "warm_cache": lambda x: store.warm_cache(name, x),
        "warm_cache progress": lambda x: callable(x) or store.warm_cache(name, progress=x),
    }


def made_of(x: object) -> int:
    return 1


def call_cached(store: DataStore) -> Door:
    """A function whose results are kept, and of which its argument may be anything."""
    name = "made_of_anything"
    memo: dict[str, Any] = {}

    def call(x: Any) -> None:
        if not memo:
            memo[name] = store.cached(name=name)(made_of)
        for call in (memo[name], memo[name].key, memo[name].refresh, memo[name].invalidate):
            call(x)

    return call


def store_doors(store: DataStore) -> dict[str, Door]:
    """The calls of a store and of its collections, as above."""
    doors: dict[str, Door] = {}
    every = {"named": "a", "numbered": 1, "loose": uuid.UUID(int=1), "behind": "a", "l1_only": "a", "l2_only": "a"}
    for name, id in every.items():
        doors |= {f"{name}.{door}": call for door, call in key_doors(store, name, id).items()}
    for name in ("named", "l1_only"):
        doors |= {f"{name}.{door}": call for door, call in query_doors(store, name).items()}

    def flush(timeout: Any) -> None:
        if timeout is not None:
            store.flush_dirty(timeout)

    named = strata.Collection(store, "named", Named, store._hot["named"])
    doors |= {
        "collection.get": named.get,
        "collection.get default": lambda x: named.get("none", default=x),
        "collection.get_many": named.get_many,
        "collection.set": lambda x: named.set("a", x),
        "collection.set_many": named.set_many,
        "collection.touch": lambda x: named.touch("a", x),
        "collection.delete": named.delete,
        "collection.delete_many": named.delete_many,
        "collection.search": named.search,
        "collection.search_page": lambda x: named.search_page(after=x),
        "collection.search_cached": named.search_cached,
        "collection.search_iter": lambda x: list(named.search_iter(x)),
        "collection.exists": named.exists,
        "collection.insert": named.insert,
        "collection.insert_many": named.insert_many,
        "collection.update": lambda x: named.update("a", expect=x),
        "collection.modify": lambda x: named.modify("a", lambda record: x),
        "collection.increment": lambda x: named.increment("a", default=x, n=1),
        "collection.get_or_set": lambda x: named.get_or_set("none", lambda: x),
        "collection.count": named.count,
        "collection.update_where": lambda x: named.update_where(NOBODY, None, text=x),
        "collection.delete_where": lambda x: named.delete_where(NOBODY, None if callable(x) else x),
        "cached ttl": lambda x: store.cached(x)(made_of),
        "cached key": lambda x: store.cached(key=x)(made_of),
        "cached name": lambda x: store.cached(name=x)(made_of),
        "cached lease_wait": lambda x: store.cached(lease_wait=x)(made_of),
        "cached function": lambda x: store.cached()(x),
        "cached argument": call_cached(store),
        "collection.invalidate": named.invalidate,
        "collection.invalidate_many": named.invalidate_many,
        "invalidate_tag": lambda x: store.invalidate_tag(x),
        "cached tags": lambda x: store.cached(tags=x)(made_of),
        "cached tags made": lambda x: store.cached(tags=lambda y: x)(made_of)(1),
        "collection.warm_cache": named.warm_cache,
        "schema of get": lambda x: store.get(x, "a"),
        "schema of get_many": lambda x: store.get_many(x, ["a"]),
        "schema of set": lambda x: store.set(x, "a", Named("a")),
        "schema of search": store.search,
        "schema of count": store.count,
        "schema of delete": lambda x: store.delete(x, "a"),
        "schema of invalidate": lambda x: store.invalidate(x, "a"),
        "schema of invalidate_many": lambda x: store.invalidate_many(x, ["a"]),
        "schema of invalidate_all": lambda x: store.invalidate_all(x),
        "schema of warm_cache": store.warm_cache,
        "schema of tx": lambda x: store.tx().set(x, "a", Named("a")),
        "schema of audit": lambda x: x is None or store.audit(x, pause=0),
        "rotate_keys progress": lambda x: callable(x) or store.rotate_keys(progress=x),
        "schema of rotate_keys": lambda x: x is None or store.rotate_keys(x),
        "audit sample": lambda x: store.audit("named", sample=x, pause=0),
        "audit pause": lambda x: isinstance(x, int | float | datetime.timedelta) or store.audit("named", pause=x),
        "tx timeout": lambda x: store.tx(x).set("named", "a", Named("a")).commit(),
        "flush_dirty": flush,
        "migrate_from": lambda x: store.migrate_from(x),
        "register": lambda x: store.register(x),
        "dead_letters.list": lambda x: store.dead_letters.list(x),
        "dead_letters.list limit": lambda x: store.dead_letters.list(limit=x),
        "dead_letters.count": lambda x: store.dead_letters.count(x),
        "dead_letters.show": lambda x: store.dead_letters.show(x),
        "dead_letters.retry": lambda x: store.dead_letters.retry(x),
        "dead_letters.discard": lambda x: store.dead_letters.discard(x),
        "dead_letters.waiting": lambda x: store.dead_letters.waiting(x),
        "dead_letters.waiting limit": lambda x: store.dead_letters.waiting(limit=x),
        "health": lambda x: x is None and store.health(),
        "migrate": lambda x: x is None and store.migrate(),
        "migrate background": lambda x: store.migrate(background=x),
        "migration_status": lambda x: x is None and store.migration_status(),
        "warm_cache background": lambda x: store.warm_cache("named", background=x),
        "_get_slowly": lambda x: store._get_slowly("named", x, None, False, False, False),
        "tx rollback": lambda x: store.tx().set("named", "a", Named("a")).rollback(),
    }
    return doors


def fleet_doors(store: DataStore) -> dict[str, Door]:
    """What workers call, with what stood in a message."""
    fleet = store.fleet
    return {
        "fleet.admit": lambda x: fleet.admit(),
        "fleet.persist schema": lambda x: fleet.persist(x, 1),
        "fleet.persist shard": lambda x: fleet.persist("behind", x),
        "fleet.redrive": lambda x: fleet.redrive(),
        "fleet.make_partitions": lambda x: fleet.make_partitions(),
        "fleet.keep_house": lambda x: fleet.keep_house(),
        "fleet.warm job": lambda x: fleet.warm(x, "named", 0),
        "fleet.warm schema": lambda x: fleet.warm("j", x, 0),
        "fleet.warm limit": lambda x: fleet.warm("j", "named", x),
        "fleet.migrate": lambda x: fleet.migrate(x),
        "fleet.look_after_jobs": lambda x: fleet.look_after_jobs({"strata.warm"}),
        "fleet.audit_due": lambda x: fleet.audit_due(),
        "fleet.ring_for_audit": lambda x: fleet.ring_for_audit(),
        "fleet.wants_round": lambda x: fleet.wants_round(),
        "fleet.begin_round": lambda x: fleet.begin_round(),
        "fleet.audit": lambda x: fleet.audit(),
    }


def registered(store: DataStore) -> DataStore:
    for model, name, options in (
        (Named, "named", {}), (Numbered, "numbered", {}), (Loose, "loose", {}),
        (Named, "behind", {"write_mode": WriteMode.WRITE_BEHIND}),
        (Named, "l1_only", {"l2": None, "l3": None}), (Named, "l2_only", {"l1": None, "l3": None}),
    ):  # fmt: skip
        store.register(schema(model, name=name, **options))
    return store


def tried(doors: dict[str, Door], values: Callable[[], dict[str, Any]] = wrong) -> list[str]:
    """What was raised and is no StrataError, with door and value."""
    bare = []
    for door, call in doors.items():
        for what, value in values().items():
            try:
                call(value)
            except StrataError as error:
                try:
                    str(error), repr(error)
                except Exception as unshown:
                    bare.append(f"{door}({what}): the error cannot be shown: {unshown!r}")
            except Exception as error:
                bare.append(f"{door}({what}): {type(error).__name__}: {str(error)[:100]}")
    return bare


@pytest.fixture
def open_store(make: MakeStore) -> Iterator[DataStore]:
    store = registered(make(encryption_key=b"k" * 32, broker_url="memory://"))
    store.migrate()
    yield store


def test_every_public_call_is_among_the_doors(open_store: DataStore) -> None:
    words = set(re.findall(r"\w+", " ".join([*store_doors(open_store), *fleet_doors(open_store)])))
    closing = {"close", "stats", "commit"}  # see below
    started = {"start_warm", "start_migrate"}  # by `warm_cache` and `migrate`
    for kind in (DataStore, strata.Collection, strata.Tx, DeadLetters, type(open_store.fleet)):
        calls = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        assert calls - words - closing - started == set(), kind


def test_the_doors_of_a_store(open_store: DataStore) -> None:
    assert tried(store_doors(open_store)) == []


def test_the_doors_that_workers_use(open_store: DataStore) -> None:
    assert tried(fleet_doors(open_store), lambda: FEW) == []


def test_the_doors_of_a_store_whose_servers_hang(dsn: str, redis_addr: str) -> None:
    place = conninfo_to_dict(dsn)
    with (
        Proxy(f"{place['host']}:{place['port']}") as database,
        Proxy(redis_addr) as redis,
        stores(make_conninfo(dsn, port=database.port), redis.addr) as make,
    ):
        quick = L3PoolConfig(acquire_timeout=0.3, connect_timeout=1, statement_timeout=0.3, lock_timeout=0.2)
        store = registered(make(l2_pool=SHORT, l3_pool=quick, broker_url="memory://", encryption_key=b"k" * 32))
        store.migrate()
        database.stall()
        redis.stall()
        doors = store_doors(store) | fleet_doors(store)
        slow = {"flush_dirty", "behind.set id", "schema of audit"}
        assert tried({name: door for name, door in doors.items() if name not in slow}, lambda: {"a text": "a"}) == []


def test_the_doors_of_a_store_whose_servers_are_away() -> None:
    with stores("postgres://nobody@127.0.0.1:1/nothing", "127.0.0.1:1") as make:
        store = make(l2_pool=SHORT, broker_url="memory://", encryption_key=b"k" * 32)
        doors = store_doors(registered(store)) | fleet_doors(store)
        doors = {name: door for name, door in doors.items() if "flush" not in name and "behind.set" not in name}
        assert tried(doors, lambda: FEW) == []


def test_the_doors_of_a_closed_store(make: MakeStore) -> None:
    store = registered(make(broker_url="memory://", encryption_key=b"k" * 32))
    doors = store_doors(store)
    store.close()
    assert tried(doors) == []
    assert tried(fleet_doors(store), lambda: FEW) == []
    for server in (behind(store).redis, behind(store).database):
        server.close()  # which the fleet's calls have opened anew
    assert tried({"close": store.close}) == []
    for again in (store.close, store.stats, lambda: store.close(5)):
        again()


def test_the_doors_of_a_transaction(open_store: DataStore) -> None:
    tx = open_store.tx()
    assert tried({"set": lambda x: tx.set("named", x, Named("a")), "delete": lambda x: tx.delete("named", x)}) == []
    tx.rollback()
    assert tried({"set": lambda x: tx.set("named", "a", x), "commit": lambda x: tx.commit()}) == []


def test_the_doors_of_a_query() -> None:
    parts = {item.name: keyword(Query, item.name) for item in fields(Query)}
    parts |= {
        "Q().where": lambda x: Q().where(x),
        "Q().where argument": lambda x: Q().where("a = $1", x),
        "Q().order_by": lambda x: Q().order_by(x),
        "Q().limit": lambda x: Q().limit(x),
        "Q().offset": lambda x: Q().offset(x),
        "Q().fields": lambda x: Q().fields(x),
        "Query args": lambda x: Query(where="a = $1", args=(x,)),
        "fingerprint": lambda x: Query(where="a = $1", args=(x,)).fingerprint(),
    }
    assert tried(parts) == []


def test_the_doors_of_the_settings() -> None:
    def shown(kind: type, **options: Any) -> str:
        return repr(kind(**options))

    makers: dict[str, Door] = {}
    for kind in (Config, MemPolicy, RedisPolicy, PostgresPolicy, L1PoolConfig, L2PoolConfig, L3PoolConfig):
        for item in fields(kind):
            if item.init:
                makers[f"{kind.__name__}({item.name})"] = keyword(partial(shown, kind), item.name)
    for item in fields(Index):
        makers[f"Index({item.name})"] = keyword(Index, item.name, fields=["a"])
    makers |= {
        "EncryptionKeys(current)": lambda x: strata.EncryptionKeys(current=x, keys={"k1": b"k" * 32}),
        "EncryptionKeys(keys)": lambda x: strata.EncryptionKeys(current="k1", keys=x),
        "EncryptionKeys(key)": lambda x: strata.EncryptionKeys(current="k1", keys={"k1": x}),
        "DataStore": lambda x: DataStore(x),
        "Config.from_env": lambda x: Config.from_env(redis_db=x),
    }
    assert tried(makers) == []


def test_the_doors_of_a_schema(open_store: DataStore) -> None:
    def register(**options: Any) -> None:
        store = DataStore(Config(postgres_dsn="postgres://nobody@127.0.0.1:1/x", redis_addr="127.0.0.1:1"))
        try:
            given: dict[str, Any] = {"model": Named, "name": "named", "l1": MemPolicy()}
            store.register(Schema(**(given | options)))
        finally:
            store.close(0)

    def part(tier: str, kind: type, name: str) -> Door:
        return lambda x: register(**{tier: kind(**{name: x})})

    doors = {f"Schema({item.name})": keyword(register, item.name) for item in fields(Schema) if item.init}
    parts: dict[str, Any] = {"l1": MemPolicy, "l2": RedisPolicy, "l3": PostgresPolicy, "hooks": SchemaHooks}
    for tier, kind in parts.items():
        for item in fields(kind):
            if item.init:
                doors[f"{kind.__name__}({item.name}) of a schema"] = part(tier, kind, item.name)
    doors["Schema(indexes) of one"] = lambda x: register(l3=PostgresPolicy(), indexes=[x])
    doors["Index(name) of a schema"] = lambda x: register(l3=PostgresPolicy(), indexes=[Index(["size"], name=x)])
    assert tried(doors) == []


def test_the_doors_of_the_markers() -> None:
    def typed(hint: Any) -> None:
        try:
            annotations = {"id": Annotated[str, PrimaryKey], "x": hint}
            made: Any = dataclass(type("Made", (), {"__annotations__": annotations}))
        except Exception:
            return  # Python itself does not make such a class
        with DataStore(Config()) as store:
            store.register(Schema(made, l1=MemPolicy()))

    def model(marker: Any) -> None:
        typed(Annotated[str, marker])

    def default(sql: Any) -> None:
        if sql is not None:
            model(strata.Default(sql=sql))

    doors: dict[str, Door] = {
        "Default": lambda x: model(strata.Default(x)),
        "Default(sql)": default,
        "a marker": model,
        "a hint": typed,
    }
    assert tried(doors) == []


def test_the_doors_of_a_process_that_gets_no_more_threads(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = registered(make(broker_url="memory://", encryption_key=b"k" * 32))
    store.migrate()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        assert tried(store_doors(store) | fleet_doors(store), lambda: FEW) == []


def test_the_doors_of_what_starts_servers_and_stands_in_front_of_them() -> None:
    valkey, postgres = EmbeddedValkey(), EmbeddedPostgres()
    doors: dict[str, Door] = {
        "EmbeddedServers(postgres)": lambda x: EmbeddedServers(x),
        "EmbeddedServers(valkey)": lambda x: EmbeddedServers(valkey=x),
        "EmbeddedStandby(primary)": lambda x: EmbeddedStandby(x),
        "EmbeddedStandby(delay)": lambda x: EmbeddedStandby(postgres, delay=x),
        "Proxy": lambda x: Proxy(x),
        "Proxy(tls)": lambda x: Proxy("127.0.0.1:1", tls=x),
        "Proxy.delay": lambda x: Proxy("127.0.0.1:1").delay(x),
        "observe stores": lambda x: observe(x, 0),
        "observe seconds": lambda x: observe([], x),
        "StandardLogger": lambda x: strata.StandardLogger(x),
        "PrometheusRecorder(registry)": lambda x: PrometheusRecorder(x),
        "PrometheusRecorder(prefix)": lambda x: PrometheusRecorder(prefix=x),
    }
    kinds: tuple[Any, ...] = (EmbeddedValkey, EmbeddedPostgres, EmbeddedCluster, EmbeddedSentinel)
    for kind in kinds:
        for name in inspect.signature(kind).parameters:
            doors[f"{kind.__name__}({name})"] = keyword(kind, name)

    def called(server: EmbeddedValkey | EmbeddedPostgres, name: str) -> Door:
        return lambda x: getattr(server, name)()

    def asked(server: EmbeddedValkey | EmbeddedPostgres, name: str) -> Door:
        return lambda x: getattr(server, name)

    for server in (valkey, postgres):
        for call in ("kill", "restart", "freeze", "thaw", "stop"):
            doors[f"{call} of {type(server).__name__}"] = called(server, call)
        for part in ("pid", "addr"):
            doors[f"{part} of {type(server).__name__}"] = asked(server, part)
        doors[f"wait_ready of {type(server).__name__}"] = server.wait_ready
    doors |= {
        "dsn": lambda x: postgres.dsn, "dsn_of": postgres.dsn_of, "create_database": postgres.create_database,
        "drop_database": postgres.drop_database, "url": lambda x: valkey.url,
    }  # fmt: skip
    assert tried(doors) == []


def test_the_doors_of_a_job(make: MakeStore, redis_addr: str) -> None:
    store = registered(make(broker_url="memory://"))
    store.migrate()
    job = store.warm_cache("named", background=True)
    may_wait = int | float | datetime.timedelta | None
    assert tried({"wait": lambda x: isinstance(x, may_wait) or job.wait(x)}) == []
    redis_client: Any = redis.Redis.from_url(f"redis://{redis_addr}")
    key = behind(store).ledger_redis.keys.own("job", job.id)
    assert redis_client.type(key) == b"hash"
    doors: dict[str, Door] = {
        "state": lambda x: job.state, "progress": lambda x: job.progress, "wait": lambda x: job.wait(0), "repr":
        lambda x: repr(job),
    }  # fmt: skip
    for fields_ in ({"state": "nonsense"}, {"state": b"\xff"}, {"state": "done", "result": "x", "done": "\u00b2"}):
        redis_client.hset(key, mapping=fields_)
        assert tried(doors, lambda: {"nothing": None}) == []
    redis_client.set(key, "of another type")
    assert tried(doors, lambda: {"nothing": None}) == []
