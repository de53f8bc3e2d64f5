"""Fields that a tier leaves out, entries of L2 that cannot be read, and codecs of a user's own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

import strata
from strata import UNLOADED, DataStore, Default, Q, Schema, WriteMode
from strata.testing import inspect
from tests.behind import client, hand_off, idle, paced, persist, rows, run
from tests.models import Account, Note
from tests.stores import MakeStore, schema
from tests.support import wait_until

SLOW = {"write_behind_flush_interval": 3600.0, "write_behind_flush_threshold": 10**9}
WHOLE = Account("a", "Ann", secret="hush", biography="long", token="t0ken")


@pytest.fixture(params=list(WriteMode), ids=lambda mode: mode.value)
def accounts(request: pytest.FixtureRequest, make: MakeStore) -> DataStore:
    """A store whose deferred writes move only by hand, with one whole account in L3."""
    store = make(encryption_key=b"k" * 32, **SLOW)
    paced(store)
    store.register(schema(Account, name="accounts", write_mode=request.param))
    store.migrate()
    idle(store)
    store.set_many("accounts", {"a": WHOLE})
    return store


def l1_lost(store: DataStore) -> None:
    for bound in inspect(store).schemas.values():
        bound.l1.clear()


def test_each_tier_leaves_out_what_the_markers_say(accounts: DataStore) -> None:
    l1_lost(accounts)
    from_l2 = accounts.get("accounts", "a", force_l2=True)
    assert from_l2 == dataclasses.replace(WHOLE, secret=UNLOADED)
    l1_lost(accounts)
    accounts.get("accounts", "a")
    from_l1 = accounts.get("accounts", "a")
    assert from_l1 == dataclasses.replace(WHOLE, secret=UNLOADED, biography=UNLOADED)
    assert accounts.get("accounts", "a", force_l3=True) == WHOLE


READS: dict[str, Callable[[DataStore], Account]] = {
    "L1": lambda store: (store.get("accounts", "a"), store.get("accounts", "a"))[1],
    "L2": lambda store: store.get("accounts", "a", force_l2=True),
    "a projection": lambda store: store.search("accounts", Q().fields("id", "name"))[0],
    "a kept search": lambda store: (store.search_cached("accounts"), store.search_cached("accounts"))[1][0],
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("write", ["set", "set_many", "tx"])
def test_a_record_read_in_part_and_written_back_loses_nothing(accounts: DataStore, read: str, write: str) -> None:
    l1_lost(accounts)
    partial = READS[read](accounts)
    partial.name = "Anna"
    if write == "set":
        accounts.set("accounts", "a", partial)
    elif write == "set_many":
        accounts.set_many("accounts", {"a": partial})
    else:
        accounts.tx().set("accounts", "a", partial).commit()
    expected = dataclasses.replace(WHOLE, name="Anna")
    assert accounts.get("accounts", "a").name == "Anna"
    accounts.flush_dirty()
    assert accounts.get("accounts", "a", force_l3=True) == expected
    for options in ({"force_l2": True}, {}):
        found = accounts.get("accounts", "a", **options)
        assert found.name == "Anna"
        assert found.biography in ("long", UNLOADED) and found.token == "t0ken"
    assert accounts.get("accounts", "a", force_l2=True).biography == "long"


def test_partial_deferred_writes_that_coalesce_keep_each_others_columns(make: MakeStore) -> None:
    store = make(encryption_key=b"k" * 32, **SLOW)
    paced(store)
    store.register(schema(Account, name="accounts", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    idle(store)
    store.set("accounts", "a", WHOLE)
    store.set("accounts", "a", Account("a", "Anna", UNLOADED, UNLOADED, UNLOADED))
    store.set("accounts", "a", Account("a", "Annabel", "new secret", UNLOADED, UNLOADED))
    hand_off(store)
    store.set("accounts", "a", Account("a", "Bella", UNLOADED, "new life", UNLOADED))
    hand_off(store)
    assert persist(store, "accounts") == 1
    found = store.get("accounts", "a", force_l3=True)
    assert found == Account("a", "Bella", "new secret", "new life", "t0ken")


@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
def test_what_is_not_loaded_and_has_no_row_fails(make: MakeStore, mode: WriteMode) -> None:
    failed: list[Any] = []
    store = make(encryption_key=b"k" * 32)
    hooks = strata.SchemaHooks(on_write_error=lambda key, error: failed.append((key, type(error))))
    store.register(schema(Account, name="accounts", write_mode=mode, hooks=hooks))
    store.migrate()
    partial = dataclasses.replace(WHOLE, biography=UNLOADED)
    with pytest.raises(strata.EncodeError, match="UNLOADED"):
        store.set_many("accounts", {"a": partial})
    with pytest.raises((strata.EncodeError, strata.TxFailedError), match="UNLOADED"):
        store.tx().set("accounts", "a", partial).commit()
    if mode is WriteMode.WRITE_BEHIND:
        store.set("accounts", "a", partial)
        store.flush_dirty()
        assert failed == [("a", strata.WriteBehindMaxRetryError)]
    else:
        with pytest.raises(strata.EncodeError, match="UNLOADED"):
            store.set("accounts", "a", partial)
    assert store.get("accounts", "a", default=None) is None and store.count("accounts") == 0


@pytest.mark.parametrize("tiers", ["l1", "l2", "l1 l2"])
def test_where_the_lowest_tier_is_a_cache_an_unloaded_field_cannot_be_written(make: MakeStore, tiers: str) -> None:
    policies: dict[str, Any] = {"l1": strata.MemPolicy(), "l2": strata.RedisPolicy()}
    store = make()
    notes = store.register(Schema(Note, name="notes", **{name: policies[name] for name in tiers.split()}))
    with pytest.raises(strata.EncodeError, match="UNLOADED"):
        notes.set(1, Note(1, text=UNLOADED))
    assert not notes.exists(1)


def test_an_ignored_field_is_neither_a_column_nor_cached(accounts: DataStore, dsn: str) -> None:
    accounts.set("accounts", "a", dataclasses.replace(WHOLE, scratch=5))
    accounts.flush_dirty()
    columns = rows(dsn, "SELECT column_name FROM information_schema.columns WHERE table_name = 'accounts'")
    assert ("scratch",) not in columns
    for options in ({}, {"force_l2": True}, {"force_l3": True}):
        assert accounts.get("accounts", "a", **options).scratch == 0


def test_no_tier_below_l2_and_no_message_has_the_plaintext(accounts: DataStore, dsn: str, redis_addr: str) -> None:
    server = client(redis_addr)
    secret = "sesame-in-plaintext"
    with server.pubsub() as heard:
        heard.subscribe("strata:invalidate")
        accounts.set("accounts", "a", dataclasses.replace(WHOLE, token=secret))
        accounts.search_cached("accounts")
        hand_off(accounts)
        held: list[bytes] = []
        for key in server.keys("strata:*"):
            if not key.startswith(b"strata:accounts:"):
                held.append(server.dump(key) or b"")
        accounts.flush_dirty()
        while (message := heard.get_message(timeout=0.2)) is not None:
            held.append(str(message).encode())
    held.append(str(rows(dsn, "SELECT * FROM accounts")).encode())
    assert not any(secret.encode() in data for data in held)
    assert accounts.get("accounts", "a", force_l3=True).token == secret


# -- entries of L2 that cannot be read ------------------------------------------------------------------------------

UNREADABLE = {
    "of another key": b'V1:0000000000000000001:s:{"id":2,"text":"other","tags":[],"meta":{}}',
    "garbage": b"\xff\xfe garbage",
    "empty": b"",
    "an older format": b"V0:0000000000000000001:s:{}",
    "a newer format": b"V9:0000000000000000001:s:{}",
    "no version": b"V1:not-a-version-at-all:s:{}",
    "a cut value": b'V1:0000000000000000001:s:{"id":1,"te',
    "another model's value": b'V1:0000000000000000001:s:{"other":1}',
    "a field of another type": b'V1:0000000000000000001:s:{"id":1,"text":5,"tags":[],"meta":{}}',
    "a value without a column that came later": b'V1:0000000000000000001:s:{"id":1,"text":"old","tags":[]}',
    "another codec's": b"V1:0000000000000000001:s:\x84\xa2id\x01",
    "what another library left": b'{"id":1,"text":"go"}',
}


@pytest.mark.parametrize("damage", UNREADABLE)
@pytest.mark.parametrize("way", ["get", "get_many"])
def test_an_entry_that_cannot_be_read_is_a_miss_counted_and_repaired(
    make: MakeStore, redis_addr: str, damage: str, way: str
) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(1, Note(1, "whole"))

    def read() -> Note:
        l1_lost(store)
        found: Note = notes.get(1) if way == "get" else notes.get_many([1])[1]
        return found

    client(redis_addr).set("strata:notes:1", UNREADABLE[damage])
    assert read().text == "whole"
    assert store.stats().corrupt == 1
    assert read().text == "whole"
    assert (store.stats().corrupt, store.stats().l2_hits) == (1, 1)
    assert json.loads(client(redis_addr).get("strata:notes:1")[25:])["text"] == "whole"


@pytest.mark.parametrize("write", ["set", "delete", "invalidate", "set_many"])
def test_a_write_over_an_entry_that_cannot_be_read_just_works(make: MakeStore, redis_addr: str, write: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(1, Note(1, "old"))
    client(redis_addr).set("strata:notes:1", b"\xff garbage")
    writes: dict[str, Callable[[], object]] = {
        "set": lambda: notes.set(1, Note(1, "new")),
        "set_many": lambda: notes.set_many({1: Note(1, "new")}),
        "delete": lambda: notes.delete(1),
        "invalidate": lambda: notes.invalidate(1),
    }
    writes[write]()
    l1_lost(store)
    found = notes.get(1, default=None)
    assert (found.text if found else None) == {"delete": None, "invalidate": "old"}.get(write, "new")


def test_a_value_of_a_wider_model_is_read_without_what_is_not_known(make: MakeStore, redis_addr: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(1, Note(1, "x"))
    header = client(redis_addr).get("strata:notes:1")[:25]
    wider = b'{"id":1,"text":"y","tags":[],"meta":{},"column_of_tomorrow":3}'
    client(redis_addr).set("strata:notes:1", header + wider)
    l1_lost(store)
    assert notes.get(1) == Note(1, "y")


def test_an_entry_is_a_header_and_json_that_a_person_can_read(make: MakeStore, redis_addr: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(1, Note(1, "grüße 🦊"))
    entry = client(redis_addr).get("strata:notes:1").decode()
    assert entry.startswith("V1:") and entry[:25].isascii()
    assert json.loads(entry[25:]) == {"id": 1, "text": "grüße 🦊", "tags": [], "meta": {}}


# -- what users plug in ---------------------------------------------------------------------------------------------


class Backwards:
    """A codec of a user's own."""

    def encode(self, record: Any, model: type[Any]) -> bytes:
        shown = {key: value for key, value in vars(record).items() if value is not UNLOADED}
        return json.dumps(shown).encode()[::-1]

    def decode(self, data: bytes, model: type[Any]) -> Any:
        values = json.loads(data[::-1])
        names = [item.name for item in dataclasses.fields(model)]
        return model(**{name: values.get(name, UNLOADED) for name in names})


@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
def test_a_codec_of_the_users_own_makes_the_bytes_of_l2(make: MakeStore, redis_addr: str, mode: WriteMode) -> None:
    assert isinstance(Backwards(), strata.Codec)
    store = make(codec=Backwards(), encryption_key=b"k" * 32)
    accounts = store.register(schema(Account, name="accounts", write_mode=mode))
    store.migrate()
    accounts.set("a", WHOLE)
    store.flush_dirty()
    l1_lost(store)
    assert accounts.get("a", force_l2=True) == dataclasses.replace(WHOLE, secret=UNLOADED)
    assert json.loads(client(redis_addr).get("strata:accounts:a")[25:][::-1])["name"] == "Ann"

    def met() -> bool:  # what is persisted may be settled just after it was planted
        client(redis_addr).set("strata:accounts:a", b"V1:0000000000000000001:s:nonsense")
        l1_lost(store)
        assert accounts.get("a").name == "Ann"
        return store.stats().corrupt > 0

    wait_until(met)


class Refusing:
    """Raises whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*args: Any, **fields: Any) -> None:
            raise RuntimeError("hunter2")

        return refuse

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        raise RuntimeError

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        raise RuntimeError

    def gauge(self, name: str, value: float, **labels: str) -> None:
        raise RuntimeError

    def debug(self, msg: str, **fields: Any) -> None:
        raise RuntimeError

    info = warning = error = debug


@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
def test_a_recorder_and_a_logger_that_raise_break_nothing(make: MakeStore, redis_addr: str, mode: WriteMode) -> None:
    def after_set(note: Note) -> None:
        raise ZeroDivisionError

    store = make(metrics=Refusing(), logger=Refusing())
    hooks = strata.SchemaHooks(after_set=after_set)
    notes = store.register(schema(Note, name="notes", write_mode=mode, hooks=hooks))
    store.migrate()
    notes.set(1, Note(1, "x"))
    notes.set_many({2: Note(2)})
    store.flush_dirty()
    l1_lost(store)
    client(redis_addr).set("strata:notes:1", b"garbage")
    assert notes.get(1).text == "x"
    assert len(notes.search()) == 2 and notes.count() == 2
    store.warm_cache("notes")
    notes.delete_many([1, 2])
    store.close()


@dataclass
class Ticket:
    id: Annotated[int, strata.PrimaryKey]
    title: str
    state: Annotated[str, Default("o'pen\\")] = "given"
    number: Annotated[int, Default(sql="40 + 2")] = 0


def test_defaults_stand_in_the_table_quoted_or_as_an_expression(make: MakeStore, dsn: str) -> None:
    store = make()
    tickets = store.register(schema(Ticket, name="tickets"))
    store.migrate()
    run(dsn, "INSERT INTO tickets (id, title) VALUES (1, 'by hand')")
    assert tickets.get(1) == Ticket(1, "by hand", "o'pen\\", 42)
    tickets.set(2, Ticket(2, "by us"))
    assert tickets.get(2, force_l3=True) == Ticket(2, "by us", "given", 0)
    assert not store.migrate().applied
