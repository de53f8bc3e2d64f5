"""The table of mistakes, row by row; and wrong arguments at every door."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import (
    UNLOADED,
    Config,
    DataStore,
    DecodeError,
    EncodeError,
    Index,
    InvalidConfigError,
    InvalidModelError,
    MemPolicy,
    PostgresPolicy,
    Q,
    Query,
    QueryError,
    RedisPolicy,
    Schema,
    WriteMode,
)
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.testing import inspect
from tests.behind import client, run
from tests.models import Account, Note, Player, Point
from tests.stores import MakeStore, schema, stores, sure

SYNCHRONOUS = [WriteMode.WRITE_THROUGH, WriteMode.WRITE_THROUGH_L1_ASYNC]


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    store = make()
    store.register(schema(Note, name="notes"))
    store.register(schema(Player, name="players"))
    store.register(Schema(Point, name="points", l1=MemPolicy()))
    store.migrate()
    return store


# -- unsupported type or marker, bad schema or column name, not a model class: InvalidModelError ---------------------

Key = Annotated[str, strata.PrimaryKey]


@dataclass
class OddType:
    id: Key
    value: complex = 0j


@dataclass
class OddMarker:
    id: Key
    value: Annotated[int, strata.Encrypted] = 0


@dataclass
class OddName:
    id: Key
    _strata_version: int = 0


@dataclass
class GeneratedInPart:
    other: Key
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None


@dataclass
class FloatKey:
    id: Annotated[float, strata.PrimaryKey]


@dataclass
class NullKey:
    id: Annotated[str | None, strata.PrimaryKey]


@dataclass
class Keyless:
    id: str


class Plain:
    id: Key


MODELS: list[Any] = [
    OddType,
    OddMarker,
    OddName,
    GeneratedInPart,
    FloatKey,
    NullKey,
    Plain,
    Note(1),
    5,
    None,
    "Note",
    dict,
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_what_cannot_be_a_model_is_an_invalid_model(store: DataStore, model: Any) -> None:
    with pytest.raises(InvalidModelError) as caught:
        store.register(Schema(model, name="odd", l1=MemPolicy(), l3=PostgresPolicy()))
    assert ";" in str(caught.value) or "must" in str(caught.value) or "is not" in str(caught.value), caught.value
    assert "odd" not in store.stats().by_schema


@pytest.mark.parametrize("thing", [Note, "notes", None, RedisPolicy()], ids=str)
def test_register_takes_a_schema(store: DataStore, thing: Any) -> None:
    with pytest.raises(InvalidModelError, match="Schema"):
        store.register(thing)


def test_an_index_over_no_column_of_the_model_is_refused(store: DataStore) -> None:
    with pytest.raises(InvalidModelError, match="nope"):
        store.register(schema(Point, name="more", indexes=[Index(["nope"])]))
        store.migrate()


@pytest.mark.parametrize(
    "make_policy",
    [
        lambda: MemPolicy(ttl=-1),
        lambda: MemPolicy(ttl="60"),  # type: ignore[arg-type]
        lambda: MemPolicy(max_entries=-1),
        lambda: MemPolicy(max_entries=1.5),  # type: ignore[arg-type]
        lambda: MemPolicy(eviction="lru"),  # type: ignore[arg-type]
        lambda: RedisPolicy(ttl=float("inf")),
        lambda: Index([]),
        lambda: Index("name"),
        lambda: Index([1]),  # type: ignore[list-item]
    ],
)
def test_a_policy_that_cannot_work_is_refused_when_it_is_made(make_policy: Callable[[], Any]) -> None:
    with pytest.raises(InvalidConfigError):
        make_policy()


@pytest.mark.parametrize("prefix", ["has space", "a:b", "{slot}", "1st"])
def test_a_key_prefix_is_an_identifier(store: DataStore, prefix: str) -> None:
    with pytest.raises((InvalidModelError, InvalidConfigError)):
        store.register(Schema(Point, name="more", l2=RedisPolicy(key_prefix=prefix)))


def test_two_schemas_never_share_keys_of_redis(store: DataStore) -> None:
    with pytest.raises(InvalidConfigError, match="key_prefix"):
        store.register(Schema(Point, name="more", l2=RedisPolicy(key_prefix="notes")))


# -- no key field / empty key ----------------------------------------------------------------------------------------


def test_a_model_without_a_key_field_has_no_primary_key(store: DataStore) -> None:
    with pytest.raises(strata.NoPrimaryKeyError, match="Keyless"):
        store.register(schema(Keyless))


DOORS: dict[str, Callable[[DataStore, str, Any], Any]] = {
    "get": lambda store, name, id: store.get(name, id),
    "get with a default": lambda store, name, id: store.get(name, id, default=None),
    "get from L3": lambda store, name, id: store.get(name, id, force_l3=True),
    "get_many": lambda store, name, id: store.get_many(name, [id]),
    "exists": lambda store, name, id: store.exists(name, id),
    "delete": lambda store, name, id: store.delete(name, id),
    "delete_many": lambda store, name, id: store.delete_many(name, [id]),
    "invalidate": lambda store, name, id: store.invalidate(name, id),
    "tx.delete": lambda store, name, id: store.tx().delete(name, id),
}


@pytest.mark.parametrize("door", DOORS)
def test_an_empty_key_is_missing_at_every_door(store: DataStore, door: str) -> None:
    with pytest.raises(strata.MissingPrimaryKeyError):
        DOORS[door](store, "players", "")


@pytest.mark.parametrize("door", DOORS)
def test_an_id_of_the_wrong_type_is_an_encode_error_at_every_door(store: DataStore, door: str) -> None:
    for id in (1, None, b"a", 1.5, True, ("a",), "nul\0", "\ud800"):
        with pytest.raises(EncodeError) as caught:
            DOORS[door](store, "players", id)
        assert "nul" not in str(caught.value).replace("NUL", "").lower()


@pytest.mark.parametrize("door", DOORS)
def test_an_id_that_its_column_cannot_hold_is_an_encode_error_at_every_door(store: DataStore, door: str) -> None:
    store.set("notes", 1, Note(1))
    store.set("notes", 0, Note(0))
    for id in ("1", 2**63, -(2**63) - 1, 1.0, False):
        with pytest.raises(EncodeError):
            DOORS[door](store, "notes", id)


@pytest.mark.parametrize("door", DOORS)
def test_an_unknown_schema_is_named_at_every_door(store: DataStore, door: str) -> None:
    with pytest.raises(strata.SchemaNotFoundError, match="nowhere"):
        DOORS[door](store, "nowhere", "a")


@pytest.mark.parametrize("door", DOORS)
def test_what_can_be_no_schema_is_told_as_that(store: DataStore, door: str) -> None:
    with pytest.raises(strata.SchemaNotFoundError, match=r"by its name or its class, not by a value of int; .*'notes'"):
        DOORS[door](store, 3, "a")  # type: ignore[arg-type]


def test_an_empty_key_in_a_record_is_missing(store: DataStore) -> None:
    for write in (
        lambda: store.set("players", "", Player("", "x")),
        lambda: store.set("players", "a", Player("", "x")),
        lambda: store.set_many("players", {"": Player("", "x")}),
        lambda: store.tx().set("players", "", Player("", "x")),
    ):
        with pytest.raises(strata.MissingPrimaryKeyError):
            write()


# -- a record that cannot be stored: EncodeError ---------------------------------------------------------------------


class Mood(enum.Enum):
    GOOD = "good"


def test_one_wrong_record_stops_set_many_before_any_tier_is_touched(store: DataStore, redis_addr: str) -> None:
    wrong: list[Any] = [Player("1", "x"), Note(3), Note(2, text=5), Note(2, tags=[{1}]), None]  # type: ignore[list-item, arg-type]
    for record in wrong:
        with pytest.raises(EncodeError):
            store.set_many("notes", {1: Note(1), 2: record})
    assert store.count("notes") == 0 and store.get_many("notes", [1, 2]) == {}
    assert store.stats().l1_entries == 0


@pytest.mark.parametrize("value", [5, None, [Note(1)], "notes"], ids=str)
def test_set_many_takes_a_mapping(store: DataStore, value: Any) -> None:
    with pytest.raises(EncodeError, match="mapping"):
        store.set_many("notes", value)


@pytest.mark.parametrize("ids", [5, None], ids=str)
def test_many_ids_are_an_iterable(store: DataStore, ids: Any) -> None:
    for call in (store.get_many, store.delete_many):
        with pytest.raises(EncodeError, match="iterable"):
            call("notes", ids)


def test_nothing_at_all_is_no_mistake(store: DataStore) -> None:
    assert store.set_many("notes", {}) == {} and store.get_many("notes", []) == {}
    store.delete_many("notes", [])
    store.tx().commit()
    assert store.get_many("notes", iter([1, 1, 2])) == {}


def test_an_encrypted_field_without_a_key_or_with_the_wrong_one(make: MakeStore) -> None:
    right, wrong, none = make(encryption_key=b"r" * 32), make(encryption_key=b"w" * 32), make()
    for one in (right, wrong, none):
        one.register(schema(Account, name="accounts"))
    right.migrate()
    right.set("accounts", "a", Account("a", "Ann", token="sesame"))
    with pytest.raises(EncodeError, match="encryption_key"):
        none.set("accounts", "b", Account("b", "Bob", token="sesame"))
    for one in (wrong, none):
        with pytest.raises(DecodeError, match="token") as got:
            one.get("accounts", "a", force_l3=True)
        with pytest.raises(DecodeError, match="token") as searched:
            one.search("accounts")
        assert "sesame" not in f"{got.value}{searched.value}"
    assert none.get("accounts", "a").token == "sesame"  # L2 holds plaintext, as the seed says


# -- constraints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", SYNCHRONOUS, ids=lambda mode: mode.value)
def test_what_the_database_refuses_is_a_constraint_error_and_in_a_transaction_tx_failed(
    make: MakeStore, dsn: str, mode: WriteMode
) -> None:
    store = make()
    players = store.register(schema(Player, name="players", write_mode=mode))
    store.migrate()
    run(dsn, "ALTER TABLE players ADD CONSTRAINT positive CHECK (level >= 0)")
    run(dsn, "CREATE TABLE pets (owner TEXT CONSTRAINT owned REFERENCES players)")
    run(dsn, "ALTER TABLE players ADD COLUMN must TEXT CONSTRAINT needed NOT NULL DEFAULT 'x'")
    run(dsn, "ALTER TABLE players ALTER COLUMN must DROP DEFAULT")
    with pytest.raises(strata.ConstraintError) as missing:
        players.set("z", Player("z", "zoe"))
    assert missing.value.sqlstate == "23502"
    run(dsn, "ALTER TABLE players ALTER COLUMN must SET DEFAULT 'x'")
    players.set("a", Player("a", "ann"))
    run(dsn, "INSERT INTO pets VALUES ('a')")
    refused: dict[str, tuple[Callable[[], Any], Callable[[strata.Tx], Any], str]] = {
        "UNIQUE": (
            lambda: players.set("b", Player("b", "ann")),
            lambda tx: tx.set("players", "b", Player("b", "ann")),
            "23505",
        ),
        "CHECK": (
            lambda: players.set_many({"b": Player("b", "bob", level=-1)}),
            lambda tx: tx.set("players", "b", Player("b", "bob", level=-1)),
            "23514",
        ),
        "FOREIGN KEY": (lambda: players.delete("a"), lambda tx: tx.delete("players", "a"), "23503"),
        "FOREIGN KEY, many": (lambda: players.delete_many(["a"]), lambda tx: tx.delete("players", "a"), "23503"),
    }
    for name, (call, queue, sqlstate) in refused.items():
        with pytest.raises(strata.ConstraintError) as alone:
            call()
        with pytest.raises(strata.TxFailedError) as together:
            queue(store.tx()).commit()
        for caught in (alone.value, together.value):
            assert (caught.sqlstate, bool(caught.constraint)) == (sqlstate, True), name
            assert "ann" not in str(caught) and "bob" not in str(caught)
        assert players.get("a", force_l2=True).username == "ann"
        assert players.get("b", default=None) is None


# -- queries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda: Q().limit(-1),
        lambda: Q().offset(-1),
        lambda: Q().limit(2**63),
        lambda: Q().limit("5"),  # type: ignore[arg-type]
        lambda: Q().limit(True),
        lambda: Q().where(""),
        lambda: Q().where("id = $1"),
        lambda: Q().where("id = $1", 1, 2),
        lambda: Q().where("id = $2", 1),
        lambda: Q().where("id = 1; DROP TABLE notes"),
        lambda: Q().where("id = 1) OR (1 = 1"),
        lambda: Q().where("id = 'open"),
        lambda: Q().where("id = 1 /* open"),
        lambda: Q().where("nul\0"),
        lambda: Q().where("id = 1").where("id = 2"),
        lambda: Q().where(5),  # type: ignore[arg-type]
        lambda: Query(where="id = $1"),
        lambda: Query(limit=-1),
        lambda: Query(fields="id"),  # type: ignore[arg-type]
    ],
)
def test_a_query_that_cannot_be_sent_is_refused_when_it_is_built(build: Callable[[], Any]) -> None:
    with pytest.raises(QueryError):
        build()


SEARCHES: dict[str, Callable[[DataStore, Any], Any]] = {
    "search": lambda store, query: store.search("notes", query),
    "search_cached": lambda store, query: store.search_cached("notes", query),
    "search_iter": lambda store, query: store.search_iter("notes", query),
    "count": lambda store, query: store.count("notes", query),
}


@pytest.mark.parametrize("call", SEARCHES)
@pytest.mark.parametrize("query", ["id = 1", 5, {"where": "id = 1"}, Note(1)], ids=str)
def test_what_is_no_query_is_refused(store: DataStore, call: str, query: Any) -> None:
    with pytest.raises(QueryError):
        SEARCHES[call](store, query)


@pytest.mark.parametrize("call", SEARCHES)
def test_columns_that_are_not_the_schemas_are_refused_before_any_tier_is_asked(call: str) -> None:
    with DataStore(Config(postgres_dsn="postgres://nobody@127.0.0.1:1/x", redis_addr="127.0.0.1:1")) as store:
        store.register(schema(Note, name="notes"))
        for query in (Q().order_by("nope"), Q().fields("nope"), Q().order_by("_strata_version"), Q().order_by('id"')):
            with pytest.raises(QueryError):
                SEARCHES[call](store, query)


@pytest.mark.parametrize("chunk", [0, -1, 1.5, "10", True])
def test_a_chunk_is_a_whole_number_above_zero(store: DataStore, chunk: Any) -> None:
    with pytest.raises(QueryError, match="chunk"):
        store.search_iter("notes", chunk=chunk)


def test_an_argument_that_postgresql_cannot_take_is_a_query_error_that_does_not_show_it(store: DataStore) -> None:
    for where, argument in (("id = $1", "hunter2"), ("text = $1", object()), ("text = $1", "nul\0hunter2")):
        for call in ("search", "count", "search_cached"):
            with pytest.raises(QueryError) as caught:
                SEARCHES[call](store, Q().where(where, argument))
            assert "hunter2" not in str(caught.value)


def test_searches_need_an_l3(store: DataStore) -> None:
    for call in (store.search, store.search_cached, store.search_iter, store.count, store.warm_cache):
        with pytest.raises(strata.L3UnavailableError, match="PostgresPolicy"):
            call("points")
    with pytest.raises(strata.L3UnavailableError, match="force_l3"):
        store.get("points", "a", force_l3=True)


# -- other doors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [-1, 1.5, "10", True])
def test_a_limit_of_warming_is_a_whole_number(store: DataStore, limit: Any) -> None:
    with pytest.raises(InvalidConfigError, match="limit"):
        store.warm_cache("notes", limit)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "soon", True])
def test_a_timeout_is_seconds(store: DataStore, timeout: Any) -> None:
    for call in (store.tx, store.flush_dirty):
        with pytest.raises(InvalidConfigError, match="timeout"):
            call(timeout)


def test_a_data_store_takes_a_config() -> None:
    with pytest.raises(InvalidConfigError, match="Config"):
        DataStore({"redis_addr": "x"})  # type: ignore[arg-type]


# -- a tier that is down ---------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_tier_that_is_down_is_stood_in_for_or_named(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    with stores(own_postgres.dsn, own_valkey.addr) as make:
        store = make()
        store.register(schema(Note, name="notes"))
        store.register(schema(Note, name="behind", write_mode=WriteMode.WRITE_BEHIND))
        store.register(Schema(Point, name="shared", l1=MemPolicy(), l2=RedisPolicy()))
        store.register(Schema(Point, name="local", l1=MemPolicy()))
        store.migrate()
        sure(store)
        store.set("notes", 1, Note(1, "one"))
        own_valkey.stop()
        assert store.get("notes", 1).text == "one"
        store.set("notes", 1, Note(1, "two"))
        assert store.get("notes", 1).text == "two" and store.get_many("notes", [1])[1].text == "two"
        with pytest.raises(strata.L2UnavailableError):
            store.set("shared", "a", Point("a"))
        with pytest.raises(strata.L2UnavailableError):
            store.get("shared", "a", default=None)
        own_postgres.stop()
        with pytest.raises(strata.L3UnavailableError):
            store.set("notes", 2, Note(2))
        with pytest.raises(strata.UnavailableError):
            store.get("notes", 9, default=None)
        with pytest.raises(strata.UnavailableError):
            store.get_many("notes", [9])
        with pytest.raises(strata.L3UnavailableError):
            store.search("notes")
        store.set("local", "a", Point("a", 1))
        assert store.get("local", "a").x == 1


def test_every_error_is_of_one_family_and_has_its_own_name() -> None:
    errors = [getattr(strata, name) for name in strata.__all__ if name.endswith("Error")]
    assert len(errors) == 32 and all(issubclass(error, strata.StrataError) for error in errors)
    assert issubclass(strata.NotFoundError, LookupError)
    for tier in (strata.L1UnavailableError, strata.L2UnavailableError, strata.L3UnavailableError):
        assert issubclass(tier, strata.UnavailableError)


def test_a_record_that_is_not_there_is_told_without_its_key(store: DataStore) -> None:
    for force_l3 in (False, True):
        with pytest.raises(strata.NotFoundError, match="players") as caught:
            store.get("players", "somebody@example.com", force_l3=force_l3)
        assert "somebody" not in str(caught.value)
        assert (caught.value.schema, caught.value.key) == ("players", "somebody@example.com")


def test_unloaded_is_no_key(store: DataStore) -> None:
    with pytest.raises((EncodeError, strata.MissingPrimaryKeyError)):
        store.get("players", UNLOADED)
    with pytest.raises((EncodeError, strata.MissingPrimaryKeyError)):
        store.set("players", "a", Player(UNLOADED, "x"))


def test_errors_of_the_server_are_causes_without_rows(store: DataStore, dsn: str) -> None:
    store.set("players", "a", Player("a", "secret-name"))
    with pytest.raises(strata.ConstraintError) as caught:
        store.set("players", "b", Player("b", "secret-name"))
    cause = caught.value.__cause__
    assert isinstance(cause, psycopg.Error)
    assert "secret-name" not in f"{caught.value} {caught.value!r} {cause} {cause!r} {cause.diag.message_detail}"


def test_a_key_of_another_type_in_redis_does_not_take_redis_away(store: DataStore, redis_addr: str) -> None:
    store.set("notes", 1, Note(1, "one"))
    store.set("notes", 2, Note(2, "two"))
    for bound in inspect(store).schemas.values():
        bound.l1.clear()
    client(redis_addr).delete("strata:notes:1")
    client(redis_addr).rpush("strata:notes:1", "a", "list")
    assert store.get("notes", 1).text == "one"
    assert store.get("notes", 2).text == "two"
    assert store.get_many("notes", [1, 2])[1].text == "one"
