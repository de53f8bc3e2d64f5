"""What somebody else left in Redis, or damaged there, costs only itself: the good entries, letters, outcomes and keys
beside it go on, an operator sees it and can remove it, and it heals when it is overwritten."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings

import strata
from strata import DataStore, DecodeError, InvalidConfigError, NotFoundError, Query, RedisPolicy, SearchExpiry
from strata.embedded import EmbeddedValkey
from strata.model.plan import UnknownColumnError
from strata.protocol.entry import Entry, EntryOp, decode, version_of
from strata.protocol.versions import text
from strata.testing import inspect
from strata.writebehind.ledger.ledger import _KINDS
from strata.writebehind.ledger.shard import Shard, home_of, shards_of
from strata.writebehind.persist.outcomes import Failed, OutcomeReport, Persisted
from tests import nonsense
from tests.behind import Errors, client, deferred, hand_off, idle, paced, persist, rows, run, sound
from tests.garbage import garbage
from tests.models import Note
from tests.nonsense import newer, soon
from tests.stores import MakeStore, schema, stores
from tests.support import wait_until

HOUR = 3600.0
SHARD = home_of("note", "1")
MATES = [id for id in range(1, 400) if home_of("note", str(id)) == SHARD]  # notes of one shard
STRANGER = next(id for id in range(1, 100) if home_of("note", str(id)) != SHARD)


class Lines:
    """What was logged."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda msg, **fields: self.said.append((level, msg, fields))

    def about(self, words: str) -> list[dict[str, Any]]:
        return [fields for _, msg, fields in self.said if words in msg]


def quiet(make: MakeStore, *schemas: Any, timing: Any = None, **config: Any) -> DataStore:
    """A store whose write-behind does nothing by itself."""
    store = make(**{"write_behind_flush_interval": HOUR, "write_behind_flush_threshold": 10**9} | config)
    paced(store, **(timing or {}))
    for one in schemas or (deferred(),):
        store.register(one)
    store.migrate()
    idle(store)
    return store


def place(part: str, shard: Shard = SHARD) -> str:
    return f"strata:{{{shard.tag}}}:{part}"


def plant(addr: str, field: Any, value: bytes, shard: Shard = SHARD) -> None:
    """Something in the ledger, due since long."""
    client(addr).hset(place("dirty", shard), field, value)
    client(addr).zadd(place("due", shard), {field: 1})


def packed(store: DataStore, name: str, **values: Any) -> bytes:
    row: bytes = inspect(store).schemas[name].plan.pack_row(tuple(values.values()), tuple(values))
    return row


def pending(store: DataStore) -> int:
    return inspect(store).writebehind.pending_stats()["note"].pending


def due_now(addr: str) -> list[bytes]:
    found: list[bytes] = client(addr).zrangebyscore(place("due"), "-inf", time.time() * 1000)
    return found


# -- entries --------------------------------------------------------------------------------------------------------

NONSENSE = [
    *((str(number).encode(), raw) for number, raw in enumerate(nonsense.NO_ENTRIES, 1)),
    *((name, nonsense.DELETION) for name in nonsense.NO_KEYS),
]


def test_what_is_no_entry_becomes_a_dead_letter_and_the_good_ones_are_written(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    log = Lines()
    store = quiet(make, logger=log)
    for field, value in NONSENSE:
        plant(redis_addr, field, value)
    good = MATES[-20:]
    for id in good:
        store.set(Note, id, Note(id, "good"))
    hand_off(store)
    assert pending(store) == len(NONSENSE) + len(good)
    persist(store, "note")
    assert rows(dsn, "SELECT count(*) FROM note") == [(len(good),)]
    assert client(redis_addr).exists(place("dirty"), place("due"), place("claims")) == 0
    letters = store.dead_letters.list("note")
    assert len(letters) == store.dead_letters.count() == len(NONSENSE)
    assert len({letter.id for letter in letters}) == len(NONSENSE)
    assert all(letter.op == "unreadable" or letter.key == "not a number" or letter.error for letter in letters)
    assert len(log.about("cannot be read; it is a dead letter")) < len(NONSENSE)
    unreadable = next(letter for letter in letters if letter.op == "unreadable")
    assert store.dead_letters.show(unreadable.id).id == unreadable.id
    with pytest.raises(DecodeError):
        store.dead_letters.retry(unreadable.id)
    assert store.dead_letters.discard(unreadable.id) == 1
    with pytest.raises(NotFoundError):
        store.dead_letters.show(unreadable.id)
    assert store.dead_letters.discard(all=True) == len(NONSENSE) - 1
    assert store.dead_letters.count() == 0


def test_what_is_no_entry_gives_way_to_a_write(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    for number, (_, value) in enumerate(NONSENSE):
        id = MATES[number]
        store.set(Note, id, Note(id, "mine"))
        plant(redis_addr, str(id), value)
        assert store.get(Note, id).text == "mine"
    store.set_many(Note, {MATES[0]: Note(MATES[0], "synchronous")})
    hand_off(store)
    persist(store, "note")
    store.flush_dirty(10)
    assert rows(dsn, "SELECT count(*) FROM note WHERE text = 'mine'") == [(len(NONSENSE) - 1,)]


def test_a_write_whose_entry_was_damaged_is_handed_off_again(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    store.set(Note, 1, Note(1, "mine"))
    hand_off(store)
    plant(redis_addr, "1", b"damaged")
    persist(store, "note")
    store.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note") == [("mine",)]


def test_an_entry_of_a_newer_release_waits_alone_and_is_not_tried_at_once(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    log = Lines()
    store = quiet(make, timing={"outage_first": 10.0, "outage_longest": 10.0}, logger=log)
    first, second = MATES[:2]
    plant(redis_addr, str(first), newer(soon()))
    store.set(Note, second, Note(second, "good"))
    store.set(Note, STRANGER, Note(STRANGER, "good"))
    hand_off(store)
    persist(store, "note")
    assert due_now(redis_addr) == []
    assert rows(dsn, "SELECT count(*) FROM note") == [(2,)]
    assert pending(store) == 1 and store.dead_letters.list() == []
    assert store.get(Note, first, default=None) is None and store.get_many(Note, [first, second]).keys() == {second}
    store.flush_dirty(5)
    [waits] = store.dead_letters.waiting("note")
    assert waits.schema == "note" and waits.op == "unreadable" and "newer" in waits.error
    assert len(log.about("waits for a newer release")) == 1
    assert store.dead_letters.discard(waits.id) == 1
    assert client(redis_addr).exists(place("dirty"), place("dead"), place("deaths")) == 0
    assert store.dead_letters.waiting() == [] and pending(store) == 0


def test_an_entry_of_a_newer_release_that_was_discarded_does_not_come_back(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    store = quiet(make)
    store.set(Note, 1, Note(1, "mine"))
    hand_off(store)
    [[raw]] = inspect(store).ledger.read([(SHARD, ["1"])])
    assert raw is not None
    plant(redis_addr, "1", newer(version_of(raw)))
    persist(store, "note")
    [waits] = store.dead_letters.waiting()
    store.dead_letters.discard(waits.id)
    wait_until(lambda: inspect(store).buffer.peek("note", 1) is None)
    store.flush_dirty(10)
    assert rows(dsn, "SELECT * FROM note") == []


def test_a_write_takes_the_place_of_an_entry_of_a_newer_release(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    plant(redis_addr, "1", newer(soon(-10)))
    persist(store, "note")
    store.set(Note, 1, Note(1, "mine"))
    store.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note") == [("mine",)] and store.dead_letters.waiting() == []


# -- entries that do not fit the schema -----------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    id: Annotated[str, strata.PrimaryKey]
    n: int = 0
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    secret: Annotated[str | None, strata.Encrypted] = None


GOOD = {"n": 1, "kind": "a", "colour": "red", "secret": None}
FORGED: dict[str, dict[str, Any]] = {
    "kind": {"kind": "c"},
    "colour": {"colour": "green"},
    "secret": {"secret": "plain text"},
    "id": {"id": "other"},
    "n": {"n": 1 << 63},
    "text": {"id": "text\0"},
}


def forge(store: DataStore, addr: str, key: str, values: dict[str, Any], op: EntryOp = EntryOp.SET) -> None:
    """An entry of the item with these values, beside those that are good."""
    whole = {"id": key} | GOOD | values
    plant(addr, key, nonsense.forged(inspect(store).stamp(), whole, op), home_of("item", key))


@pytest.fixture
def items(make: MakeStore) -> DataStore:
    return quiet(make, deferred(Item), encryption_key=bytes(32), write_behind_max_retry=2)


def test_write_access_to_redis_is_not_write_access_to_every_column(items: DataStore, redis_addr: str, dsn: str) -> None:
    for op in (EntryOp.SET, EntryOp.PARTIAL):
        for key, wrong in FORGED.items():
            forge(items, redis_addr, key, wrong, op)
            assert items.get(Item, key, default=None) is None
        forge(items, redis_addr, "good", {}, op)
        wait_until(lambda: (persist(items, "item"), items.dead_letters.count() == len(FORGED))[1])
        letters = {letter.key: letter for letter in items.dead_letters.list()}
        assert letters.keys() == FORGED.keys()
        for key, letter in letters.items():
            column = next(iter(FORGED[key]))
            assert column in letter.error and "does not fit" in letter.error and letter.attempts == 3
            assert "plain text" not in letter.error and "green" not in letter.error
            with pytest.raises(DecodeError):
                items.dead_letters.retry(letter.id)
        assert items.dead_letters.retry(all=True) == 0
        assert items.dead_letters.discard(all=True) == len(FORGED)
    assert rows(dsn, "SELECT id FROM item") == [("good",)]


def projected_beside_a_forged_entry(items: DataStore, redis_addr: str) -> Item:
    """A record that was loaded in part and changed, while the ledger holds a forged write of its key."""
    items.set_many(Item, {"1": Item("1", 1)})
    projected = items.search(Item, strata.Q().fields("id", "n"))[0]
    forge(items, redis_addr, "1", {"secret": "plain text"})
    projected.n = 5
    return projected


def test_a_synchronous_write_of_some_columns_takes_none_from_a_forged_entry(
    items: DataStore, redis_addr: str, dsn: str
) -> None:
    projected = projected_beside_a_forged_entry(items, redis_addr)
    items.set_many(Item, {"1": projected})
    assert rows(dsn, "SELECT n, secret FROM item") == [(5, None)]


def test_a_write_of_some_columns_is_not_lost_with_the_forged_entry_that_it_meets(
    items: DataStore, redis_addr: str, dsn: str
) -> None:
    projected = projected_beside_a_forged_entry(items, redis_addr)
    items.set(Item, "1", projected)
    items.flush_dirty(10)
    assert rows(dsn, "SELECT n, secret FROM item") == [(5, None)]
    assert items.dead_letters.list() == []


def test_a_choice_that_a_newer_release_knows_is_left_to_it_for_some_tries(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    @dataclass
    class Newer:
        id: Annotated[str, strata.PrimaryKey]
        kind: Literal["a", "b", "c"] = "a"

    @dataclass
    class Older:
        id: Annotated[str, strata.PrimaryKey]
        kind: Literal["a", "b"] = "a"

    newest, older = (quiet(make, deferred(model, name="things")) for model in (Newer, Older))
    newest.set(Newer, "1", Newer("1", "c"))
    hand_off(newest)
    assert persist(older, "things") == 0 and older.dead_letters.list() == []
    newest.flush_dirty(10)
    assert rows(dsn, "SELECT kind FROM things") == [("c",)]


# -- dead letters ---------------------------------------------------------------------------------------------------


def test_a_letter_that_cannot_be_read_is_seen_and_removed_and_the_others_are_retried(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    errors = Errors()
    store = quiet(make, deferred(hooks=errors.hooks()), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CONSTRAINT odd CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.flush_dirty(10)
    [good] = store.dead_letters.list()
    bad = dict(zip((*map(text, range(5, 9)), "no version-%/ \u00e9"), nonsense.LETTERS, strict=True))
    redis = client(redis_addr)
    for name, raw in bad.items():
        redis.hset(place("dead"), name, raw)
        redis.zadd(place("deaths"), {name: 1})
        redis.hset(place("untold"), name, "1")
    letters = store.dead_letters.list()
    assert len(letters) == store.dead_letters.count() == len(bad) + 1
    assert all(store.dead_letters.show(letter.id).op == letter.op for letter in letters)
    assert inspect(store).giving_up.finish() == 0
    run(dsn, "ALTER TABLE note DROP CONSTRAINT odd")
    assert store.dead_letters.retry(all=True) == 1
    store.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note") == [("poison",)]
    left = store.dead_letters.list()
    assert len(left) == len(bad) and good.id not in {letter.id for letter in left}
    assert {letter.op for letter in left} == {"unreadable"}
    assert store.dead_letters.discard(*(letter.id for letter in left[:2])) == 2
    assert store.dead_letters.discard(all=True) == len(bad) - 2
    assert redis.exists(place("dead"), place("deaths")) == 0
    assert errors.keys == [1]


def test_letters_of_any_name_and_content_are_dropped_when_they_are_too_many(make: MakeStore, redis_addr: str) -> None:
    store, redis = quiet(make), client(redis_addr)
    names = [b"%", b"(", b"[", text(5).encode(), b"\xff", b""]
    for score, name in enumerate(names):
        redis.hset(place("dead"), name, (b"\xc1", b"\x91" * 1000, b"", msgspec.msgpack.encode(["1"]))[score % 4])
        redis.zadd(place("deaths"), {name: score})
    redis.hset(place("graves"), "1", b"% ( " + text(5).encode() + b" ")
    parts = inspect(store)
    assert parts.ledger.wither([SHARD], 0.0, 1) == len(names) - 1
    assert store.dead_letters.count() == 1


def test_the_others_are_retried_before_it_is_said_that_one_cannot_be(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    store = quiet(make, write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CONSTRAINT odd CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.flush_dirty(10)
    client(redis_addr).hset(place("dead"), text(5), b"no letter")
    client(redis_addr).zadd(place("deaths"), {text(5): 10**13})
    run(dsn, "ALTER TABLE note DROP CONSTRAINT odd")
    ids = [letter.id for letter in store.dead_letters.list()]
    assert len(ids) == 2
    with pytest.raises(DecodeError):
        store.dead_letters.retry(*ids)
    store.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note") == [("poison",)]
    assert [letter.version for letter in store.dead_letters.list()] == [5]


# -- outcomes -------------------------------------------------------------------------------------------------------


def test_an_outcome_that_cannot_be_read_is_left_out_and_the_next_ones_are_heard(
    make: MakeStore, redis_addr: str
) -> None:
    errors = Errors()
    store = quiet(make, deferred(hooks=errors.hooks()))
    store.set(Note, 1, Note(1, "one"))
    store.set(Note, 2, Note(2, "two"))
    parts = inspect(store)
    versions = {slot.key: item.version for slot, item in parts.buffer.pending()}
    good = msgspec.msgpack.encode(OutcomeReport("note", [Persisted("no key", 5), Persisted("1", versions[1])]))
    ended = OutcomeReport("note", [], [Failed("x", 5, "", "", 1, True), Failed("2", versions[2], "", "", 1, True)])
    redis, outcomes = client(redis_addr), f"strata:{{{inspect(store).instance}}}:outcomes"
    said = [*nonsense.outcomes("note", "1"), *nonsense.outcomes("note", "2"), good, msgspec.msgpack.encode(ended)]
    redis.rpush(outcomes, *said)
    assert parts.outcomes.collect() == len(said)
    wait_until(lambda: len(parts.buffer) == 0 and errors.keys == [2])
    assert redis.exists(outcomes) == 0


def test_lists_and_marks_of_another_type_are_put_aside(make: MakeStore, redis_addr: str, dsn: str) -> None:
    log = Lines()
    store = quiet(make, logger=log)
    redis, instance = client(redis_addr), inspect(store).instance
    outcomes, alive = f"strata:{{{instance}}}:outcomes", f"strata:{{{instance}}}:alive"
    redis.set(outcomes, "x")
    redis.rpush(alive, "x")
    for name in ("strata:{fleet}:alive", "strata:{fleet}:pulse", "strata:{fleet}:sweep"):
        redis.rpush(name, "x")
    redis.set("strata:{outcomes}:waiting", "x")
    parts = inspect(store)
    parts.outcomes.beat()
    assert parts.outcomes.collect() == 0
    assert parts.outcomes.adopt() == 0
    parts.writebehind.redrive()
    assert redis.type(alive) == b"string" and redis.type(outcomes + ":stray") == b"string"
    store.set(Note, 1, Note(1, "mine"))
    hand_off(store)
    persist(store, "note")
    assert store.stats().dirty_count == 0
    assert rows(dsn, "SELECT text FROM note") == [("mine",)]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=garbage(Entry(1 << 60, EntryOp.DELETE, 1, "me", b"").encode(), newer(1 << 60)))
def test_redis_and_python_agree_on_what_an_entry_is(redis_addr: str, ledger_store: DataStore, raw: bytes) -> None:
    ledger = inspect(ledger_store).ledger
    client(redis_addr).hset(place("dirty"), "1", raw)
    [fate] = sound(ledger.probe([(SHARD, ["1"])])[0])
    try:
        version = decode(raw).version
    except UnknownColumnError:
        version = version_of(raw)
    except DecodeError:
        version = 0
    assert fate.pending == (version if version <= soon(60) else 0)


@pytest.fixture
def ledger_store(make: MakeStore) -> DataStore:
    return quiet(make)


# -- nothing is tried at once again -------------------------------------------------------------------------------


def test_what_cannot_be_persisted_keeps_nobody_busy(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = make(write_behind_flush_interval=0.02)
    paced(store, lease=15.0, outage_first=0.5, outage_longest=30.0)
    store.register(deferred(Item))
    store.register(deferred())
    store.migrate()
    for id, (field, value) in zip(MATES, NONSENSE, strict=False):
        plant(redis_addr, field, value)
        plant(redis_addr, str(1000 + id), newer(soon()))
    forge(store, redis_addr, "1", {"kind": "c"})
    store.set(Note, STRANGER, Note(STRANGER, "good"))
    wait_until(lambda: rows(dsn, "SELECT text FROM note") == [("good",)])
    wait_until(lambda: store.dead_letters.count("note") == len(NONSENSE))
    redis, redrive = client(redis_addr), inspect(store).redrive
    calls, sweeps = redis.info("commandstats")["cmdstat_evalsha"]["calls"], redrive._rounds
    wait_until(lambda: redrive._rounds > sweeps + 20)
    calls, sweeps = redis.info("commandstats")["cmdstat_evalsha"]["calls"] - calls, redrive._rounds - sweeps
    assert calls < 12 * sweeps  # some for each sweep, whatever waits


# -- times ----------------------------------------------------------------------------------------------------------


def test_a_time_of_the_far_future_keeps_no_entry_from_being_written_and_is_said(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    log = Lines()
    store = quiet(make, logger=log)
    for id in MATES[:4]:
        store.set(Note, id, Note(id, "mine"))
    hand_off(store)
    for id, ahead in zip(MATES[:3], (1e13, 1e300, float("inf")), strict=True):
        client(redis_addr).zadd(place("due"), {str(id): ahead})
    assert persist(store, "note") == 1
    wait_until(lambda: (inspect(store).redrive.everything(), pending(store) and due_now(redis_addr))[1])
    persist(store, "note")
    assert rows(dsn, "SELECT count(*) FROM note") == [(4,)]
    assert [said["count"] for said in log.about("one of the far future; they are due now")] == [3]


def test_a_bell_or_a_turn_that_never_ends_keeps_no_shard_from_being_rung_for(make: MakeStore, redis_addr: str) -> None:
    store = quiet(make)
    redis, redrive = client(redis_addr), inspect(store).redrive
    store.set(Note, MATES[0], Note(MATES[0], "mine"))
    hand_off(store)
    for key in (place("bell"), "strata:{fleet}:alive", "strata:{fleet}:pulse", "strata:{fleet}:sweep"):
        redis.set(key, "x")
    wait_until(lambda: (redrive.everything(), redis.pttl(place("bell")) > 0)[1], what="a bell that ends")


# -- keys of another type -------------------------------------------------------------------------------------------


def test_a_mark_of_ownership_of_another_type_is_put_aside_and_made_anew(make: MakeStore, redis_addr: str) -> None:
    redis, mark = client(redis_addr), "strata:{database}:owner"
    for plant in ("set", "rpush"):
        with redis.pipeline() as at_once:  # an instance of before is there still, and would mend it in between
            at_once.delete(mark)
            getattr(at_once, plant)(mark, "somebody's")
            at_once.execute()
        log = Lines()
        store = make(logger=log)
        store.register(schema(Note, l1=None))
        store.migrate()
        store.set(Note, 1, Note(1, "mine"))
        assert store.get(Note, 1, force_l2=True).text == "mine"
        assert b'"database"' in redis.hget(mark, "owner") and redis.exists(f"{mark}:stray")
        assert [said["key"] for said in log.about("was renamed")] == [mark]
        store.close()  # else it would mend the next one


def test_a_mark_of_ownership_that_cannot_be_read_is_told_of_by_its_key(make: MakeStore, redis_addr: str) -> None:
    redis, mark = client(redis_addr), "strata:{database}:owner"
    redis.hset(mark, "owner", "?")
    store = make()
    store.register(schema(Note, l1=None))
    store.migrate()
    with pytest.raises(InvalidConfigError, match=r"strata:\{database\}:owner.*`strata adopt`"):
        store.set(Note, 1, Note(1, "mine"))
    inspect(store).ownership.adopt(inspect(store).redis, [])
    store.set(Note, 1, Note(1, "mine"))
    assert store.get(Note, 1, force_l2=True).text == "mine"


@pytest.mark.parametrize("part", _KINDS)
def test_a_part_of_a_shard_of_another_type_is_put_aside_and_costs_nothing(
    make: MakeStore, redis_addr: str, dsn: str, part: str
) -> None:
    log = Lines()
    store = quiet(make, logger=log)
    redis = client(redis_addr)
    plant_stranger = redis.rpush if _KINDS[part] == "string" else redis.set
    plant_stranger(place(part), "somebody's")
    for id in (*MATES[:3], STRANGER):
        store.set(Note, id, Note(id, "mine"))
    assert store.get(Note, MATES[3], default=None) is None
    store.set_many(Note, {MATES[4]: Note(MATES[4], "mine")})
    hand_off(store)
    assert pending(store) == 4
    persist(store, "note")
    parts = inspect(store)
    parts.redrive.everything()
    parts.giving_up.finish()
    parts.outcomes.collect()
    assert store.dead_letters.list() == [] and store.dead_letters.count() == 0
    store.flush_dirty(10)
    assert rows(dsn, "SELECT count(*) FROM note WHERE text = 'mine'") == [(5,)]
    assert store.stats().dirty_count == 0
    if part not in ("bell", "dead", "told", "spans"):  # the first is just written over, the others were not needed
        assert redis.type(place(part) + ":stray") in (b"list", b"string")
        assert [said["key"] for said in log.about("was renamed")] == [place(part)]


def spoil(addr: str, part: str) -> None:
    """Somebody's key in the place of a part of the shard."""
    redis = client(addr)
    redis.delete(place(part))
    redis.set(place(part), "somebody's")


@pytest.mark.parametrize("part", ["dead", "deaths", "graves", "untold", "claims"])
def test_a_burial_that_meets_a_part_of_another_type_is_whole(
    make: MakeStore, redis_addr: str, dsn: str, part: str
) -> None:
    errors = Errors()
    store = quiet(make, deferred(hooks=errors.hooks()), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    spoil(redis_addr, part)
    store.flush_dirty(10)
    [letter] = store.dead_letters.list()
    assert errors.keys == [1]
    [fate] = sound(inspect(store).ledger.probe([(SHARD, ["1"])])[0])
    assert fate.dead == (letter.version,)
    if part not in ("dead", "deaths"):  # which say what there is
        spoil(redis_addr, part)
    assert store.dead_letters.discard(letter.id) == 1
    assert store.dead_letters.count() == 0
    assert client(redis_addr).exists(place("dead"), place("graves"), place("untold")) == 0


@pytest.mark.parametrize("part", ["dead", "deaths", "claims"])
def test_what_cannot_be_read_is_seen_although_the_dead_letters_are_of_another_type(
    make: MakeStore, redis_addr: str, part: str
) -> None:
    store = quiet(make)
    plant(redis_addr, "1", b"no entry")
    spoil(redis_addr, part)
    persist(store, "note")
    [letter] = store.dead_letters.list()
    assert letter.key == 1 and letter.op == "unreadable"


@pytest.fixture
def restricted(own_valkey: EmbeddedValkey) -> Iterator[str]:
    """A Redis whose user may rename nothing."""
    with redis.Redis(port=own_valkey.port) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "allchannels", "+@all", "-rename")
        yield f"redis://app:pw@{own_valkey.addr}"


def test_a_shard_that_cannot_be_mended_waits_alone_and_heals(
    restricted: str, own_valkey: EmbeddedValkey, dsn: str
) -> None:
    log = Lines()
    with stores(dsn, restricted) as make, redis.Redis(port=own_valkey.port) as admin:
        store = quiet(make, logger=log)
        admin.set(place("dirty"), "somebody's")
        others = [id for id in range(1, 60) if home_of("note", str(id)) != SHARD]
        store.set(Note, MATES[0], Note(MATES[0], "waits"))
        for id in others:
            store.set(Note, id, Note(id, "mine"))
        assert hand_off(store) == len(others)
        persist(store, "note")
        parts = inspect(store)
        parts.redrive.everything()
        parts.redrive.probe()
        parts.giving_up.finish()
        parts.outcomes.collect()
        assert rows(dsn, "SELECT count(*) FROM note") == [(len(others),)]
        assert store.stats().dirty_count == 1 and inspect(store).redis.breaker.closed
        assert store.dead_letters.list() == [] and store.dead_letters.count() == 0
        assert store.get(Note, MATES[0]).text == "waits"
        assert store.get(Note, MATES[1], default=None) is None
        store.flush_dirty(10)  # straight to L3
        assert rows(dsn, "SELECT count(*) FROM note") == [(len(others) + 1,)]
        store.set(Note, MATES[0], Note(MATES[0], "healed"))
        assert hand_off(store) == 0
        admin.delete(place("dirty"))
        assert hand_off(store) == 1
        persist(store, "note")
        assert rows(dsn, f"SELECT text FROM note WHERE id = {MATES[0]}") == [("healed",)]


def test_a_shard_that_cannot_be_mended_keeps_no_claim_of_others_from_being_renewed(
    restricted: str, own_valkey: EmbeddedValkey, dsn: str
) -> None:
    with stores(dsn, restricted) as make, redis.Redis(port=own_valkey.port) as admin, ExitStack() as stack:
        parts = inspect(quiet(make, timing={"lease": 60.0}))
        shards = shards_of("note")
        for shard in shards:
            admin.zadd(place("due", shard), {"1": 5e12})
            admin.hset(place("claims", shard), "1", f"{text(soon())}:{shard.number}:0:0:0")
            stack.enter_context(parts.renewer.holding(shard, f"{shard.number}", ["1"]))
        parts.renewer.stop(5)
        admin.set(place("claims"), "somebody's")
        for _ in range(2):
            parts.renewer._step()
        left = [shard for shard in shards if admin.zscore(place("due", shard), "1") == 5e12]
        assert left == [SHARD]


def test_an_l2_key_of_another_type_is_a_miss_and_heals(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store, other = make(), make()
    for one in (store, other):
        one.register(schema(Note, l1=None, l2=RedisPolicy(ttl=600, search_expiry=SearchExpiry.ON_WRITE)))
        one.register(schema(Item, l1=None))
    store.migrate()
    redis = client(redis_addr)
    key = "strata:note:1"
    store.set(Note, 1, Note(1, "mine"))

    def spoil() -> None:
        redis.delete(key)
        redis.rpush(key, "x")

    for again in range(3):
        spoil()
        assert store.get(Note, 1).text.startswith("mine")
        assert redis.type(key) == b"string"
        spoil()
        assert store.get_many(Note, [1, 2]).keys() == {1}
        spoil()
        store.set(Note, 1, Note(1, f"mine {again}"))
        assert other.get(Note, 1).text == f"mine {again}" and redis.type(key) == b"string"
    spoil()
    store.invalidate(Note, 1)
    spoil()
    assert store.warm_cache(Note) == 1
    spoil()
    store.delete(Note, 1)
    assert other.get(Note, 1, default=None) is None
    store.search_cached(Note, Query())
    for found in redis.keys("strata:{search}*"):
        redis.delete(found)
        redis.hset(found, "a", "b")
    redis.hset("strata:{search}:strata:note:writers", "a", "b")
    store.set(Note, 1, Note(1, "mine"))
    assert len(store.search_cached(Note, Query())) == 1
    assert inspect(store).redis.breaker.closed and store.stats().l2_skips == 0
    assert rows(dsn, "SELECT * FROM _strata_repairs") == []
