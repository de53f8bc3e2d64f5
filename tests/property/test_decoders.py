"""Whatever comes from outside, a decoder reads it or calls it unreadable: nothing else, and never an exception."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, example, given, settings

from strata import (
    JSON,
    Config,
    DataStore,
    MemPolicy,
    MsgPack,
    PostgresPolicy,
    PrimaryKey,
    RedisPolicy,
    Schema,
    WriteMode,
)
from strata.bound import Bound
from strata.coherence.ownership import _read
from strata.l2.content import State
from strata.protocol.messages import MessageOp
from strata.protocol.versions import text
from strata.testing import inspect
from tests import nonsense
from tests.property.mutations import hostile

NOWHERE: dict[str, Any] = {"postgres_dsn": "postgres://nobody@127.0.0.1:1/nothing", "redis_addr": "127.0.0.1:1"}
# The threads that notices wake draw numbers of their own.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")
quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Place:
    x: int
    at: datetime.datetime | None = None


@dataclass
class Thing:
    """A column of every kind."""

    id: Annotated[int, PrimaryKey]
    text: str = ""
    size: int = 0
    real: float = 0.5
    colour: Colour = Colour.RED
    when: datetime.datetime | None = None
    day: datetime.date | None = None
    hour: datetime.time | None = None
    span: datetime.timedelta | None = None
    amount: decimal.Decimal | None = None
    own: uuid.UUID | None = None
    data: bytes = b""
    places: list[Place] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)
    pair: tuple[int, str] = (0, "")


THING = Thing(
    7, "ü", -5, 1e300, Colour.BLUE, datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), datetime.date(2026, 1, 2),
    datetime.time(1, 2, 3), datetime.timedelta(days=-3, microseconds=5), decimal.Decimal("1.50"), uuid.UUID(int=9),
    b"\0\xff", [Place(1), Place(2, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))], {"a": [1, {"b": None}]},
    (1, "x"),
)  # fmt: skip


def store_of(codec: Any) -> DataStore:
    store = DataStore(Config(**NOWHERE, codec=codec, broker_url="memory://"))
    tiers: dict[str, Any] = {"l1": MemPolicy(ttl=60), "l2": RedisPolicy(ttl=60), "l3": PostgresPolicy(watch=True)}
    store.register(Schema(Thing, name="things", **tiers))
    store.register(Schema(Thing, name="behind", write_mode=WriteMode.WRITE_BEHIND, **tiers))
    return store


@pytest.fixture(scope="module", params=[JSON(), MsgPack()], ids=repr)
def store(request: pytest.FixtureRequest) -> Iterator[DataStore]:
    """A store whose servers are not there: nothing here asks them."""
    made = store_of(request.param)
    yield made
    made.close(0)


@pytest.fixture
def bound(store: DataStore) -> Bound:
    return inspect(store).schemas["things"]


# -- messages of the bus ----------------------------------------------------------------------------------------------


MESSAGES = [nonsense.message("things", "7", op=op, v=text(5 << 40), src="somebody", db=0) for op in MessageOp]
UNREADABLE = nonsense.unreadable_messages("things")


@quick
@given(data=hostile(*MESSAGES, nonsense.message("things", "7"), nonsense.message("behind", "7", v="1")))
@nonsense.each(*nonsense.messages("things", "7"), *nonsense.messages("behind", "7"))
def test_a_message_is_applied_or_counted(store: DataStore, data: bytes) -> None:
    inbox = inspect(store).inbox
    messages, unreadable = inbox.messages, inbox.unreadable
    inbox.handle(data)
    assert inbox.messages == messages + 1 and unreadable <= inbox.unreadable <= unreadable + 1


@pytest.mark.parametrize("data", UNREADABLE, ids=len)
def test_a_message_that_cannot_be_read_is_counted(store: DataStore, data: bytes) -> None:
    unreadable = inspect(store).inbox.unreadable
    inspect(store).inbox.handle(data)
    assert inspect(store).inbox.unreadable == unreadable + 1


# -- notifications of PostgreSQL --------------------------------------------------------------------------------------

NOTICES = [json.dumps({"table": "things", "keys": keys}).encode() for keys in (None, {"7": 5, "8": -5}, {})]


@quick
@given(data=hostile(*NOTICES, b'{"table": "behind", "keys": {"7": 5}}'))
@nonsense.each(*(notice.encode() for name in ("things", "behind") for notice in nonsense.notices(name, "7")))
def test_a_notification_is_applied_or_counted(store: DataStore, data: bytes) -> None:
    outside = inspect(store).outside
    notices, unreadable = outside.notices, outside.unreadable
    outside.changed(data.decode(errors="replace"))
    assert outside.notices == notices + 1 and outside.unreadable >= unreadable


def test_a_notification_that_is_no_text_is_counted(store: DataStore) -> None:
    unreadable = inspect(store).outside.unreadable
    for payload in ("\ud800", "", "[" * 100_000, '{"table": 5}'):
        inspect(store).outside.changed(payload)
    assert inspect(store).outside.unreadable == unreadable + 4


# -- values of L2 -----------------------------------------------------------------------------------------------------


def values(codec: Any) -> list[bytes]:
    body = codec.encode(THING, Thing)
    heads = (b"V1:%019d:%c:" % (5 << 40, flag) for flag in b"sp")
    others = (b"T1:%019d:s:" % (5 << 40), b"L1:token", b"I1:c:one=99999999999;", b"I1:s:one=1;two=2;")
    return [*(head + body for head in heads), *others]


SEEDS = [*values(JSON()), *values(MsgPack())]
HEAD = b"V1:%019d:s:" % 5


@quick
@given(data=hostile(*SEEDS))
@nonsense.each(*nonsense.VALUES)
@example(data=HEAD + JSON().encode(THING, Thing).replace(b'"size":-5', b'"size":' + b"9" * 4000))
@example(data=HEAD + JSON().encode(THING, Thing).replace(b'"x":1', b'"x":' + b"9" * 30))
@example(data=HEAD + JSON().encode(THING, Thing).replace(b'"amount":"1.50"', b'"amount":"1E+999999999"'))
@example(data=HEAD + MsgPack().encode(THING, Thing)[:-1])
def test_a_value_is_read_as_a_whole_record_of_its_key_or_is_a_miss(bound: Bound, data: bytes) -> None:
    assert bound.l2 is not None
    found = bound.l2._contents.read("7", data, -1)
    assert found is None or found.version >= 0
    if found is not None and found.state is State.VALUE:
        plan = bound.plan
        assert type(found.record) is Thing and found.record.id == 7
        assert plan.thaw(plan.freeze(found.record)) == plan.copy(found.record) or found.record.real != found.record.real
        repr(found.record)


@quick
@given(data=hostile(*SEEDS))
def test_a_kept_result_that_cannot_be_read_is_a_miss(bound: Bound, data: bytes) -> None:
    try:
        names, _ = bound.plan.unpack_row(data)
    except Exception as error:
        assert type(error).__name__ in ("DecodeError", "UnknownColumnError")
    else:
        assert set(names) <= set(bound.plan.column_names)


@quick
@given(data=hostile(b'{"system":"1","database":"a","schema":"b"}'))
@example(data=b"[" * 100_000)
def test_the_mark_of_another_database_is_read_or_unknown(data: bytes) -> None:
    assert isinstance(str(_read(data)), str)
