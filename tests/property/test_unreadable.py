"""What comes out of Redis and the broker is read, or it is told that it cannot be: nothing else ever happens."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strata
from strata import Config, DataStore, DecodeError
from strata.bound import Bound
from strata.jobs import parts as work
from strata.protocol.entry import UNDECODABLE, Entry, EntryOp, decode, is_newer, version_of
from strata.testing import inspect
from strata.writebehind.dirty import changes
from strata.writebehind.persist import outcomes
from strata.writebehind.persist.dead_letters import Letter, encode_letter, letter_of
from strata.writebehind.writer.replay import restored
from tests.garbage import garbage
from tests.stores import schema


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Inner:
    at: int
    words: list[str]


@dataclass
class Everything:
    """A column of each kind."""

    id: Annotated[str, strata.PrimaryKey]
    n: int = 0
    f: float = 0.0
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    secret: Annotated[str | None, strata.Encrypted] = None
    at: datetime | None = None
    who: UUID | None = None
    much: Decimal = Decimal(0)
    blob: bytes = b""
    inner: Inner | None = None
    many: dict[str, list[int]] = field(default_factory=dict)


def bound_of(model: type) -> Bound:
    """The schema of a store that never meets a server."""
    store = DataStore(Config(encryption_key=bytes(32)))
    store.register(schema(model, name="things"))
    return inspect(store).schemas["things"]


THINGS = bound_of(Everything)
RECORD = Everything("k", 1, 2.5, True, "b", Colour.BLUE, Level.HIGH, "hidden", datetime(2020, 1, 1, tzinfo=UTC),
                    UUID(int=5), Decimal("1.5"), b"x", Inner(1, ["w"]), {"a": [1]})  # fmt: skip
COLUMNS = THINGS.plan.column_names
ROW = THINGS.plan.to_row(RECORD, THINGS.cipher)
GOOD = Entry(1 << 60, EntryOp.SET, 1_700_000_000_000, "me", THINGS.plan.pack_row(ROW))


def of(row: dict[str, Any], op: EntryOp = EntryOp.SET, key: str = "k") -> Any:
    """The change of an entry with this row."""
    entry = Entry(1 << 60, op, 1, "me", msgspec.msgpack.encode([1, row]))
    return changes.of_entry(THINGS, key, key, entry)


def plain(**other: Any) -> dict[str, Any]:
    """The row of a record, in parts."""
    return dict(zip(COLUMNS, ROW, strict=True)) | other


@given(garbage(GOOD.encode(), b"E2:" + GOOD.encode()[3:]))
def test_an_entry_is_read_or_refused(raw: bytes) -> None:
    try:
        entry = decode(raw)
    except DecodeError:
        assert raw != GOOD.encode()
    else:
        assert entry.version == version_of(raw) and not is_newer(raw)
        assert decode(entry.encode()) == entry and raw.endswith(b":" + entry.row)


@given(garbage(GOOD.row), st.sampled_from([EntryOp.SET, EntryOp.PARTIAL, EntryOp.DELETE]))
def test_a_row_is_a_change_that_fits_the_schema_or_refused(row: bytes, op: EntryOp) -> None:
    entry = Entry(1, op, 1, "me", row)
    try:
        change = changes.of_entry(THINGS, "k", "k", entry)
    except DecodeError:
        return
    if not change.delete:
        try:
            assert THINGS.record(change.values or (), change.names).id == "k"
        except DecodeError as error:
            assert error.column == "secret"  # which has the form of a ciphertext, and only its key tells more


VALUES = (
    st.none() | st.text("a0\0\u00e9", max_size=5) | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.booleans()
)
ODD = st.dictionaries(st.sampled_from((*COLUMNS, "x; drop")), VALUES | st.binary(max_size=5), max_size=4)


@given(ODD)
def test_whatever_the_columns_hold_nothing_but_a_refusal_comes_of_it(row: dict[str, Any]) -> None:
    try:
        of(plain() | row)
    except DecodeError:
        pass


@dataclass
class Numbered:
    id: Annotated[int, strata.PrimaryKey]


@dataclass
class Named:
    id: Annotated[UUID, strata.PrimaryKey]


KEYED = {str: THINGS, int: bound_of(Numbered), UUID: bound_of(Named)}


@given(garbage(b"k", b"42", str(UUID(int=5)).encode()))
def test_a_key_is_one_or_refused(raw: bytes) -> None:
    for kind, bound in KEYED.items():
        try:
            key = changes.key_of(bound, raw.decode("utf-8", "surrogateescape"))
        except DecodeError:
            continue
        assert type(key) is kind


WRONG: Sequence[tuple[str, Any]] = [
    ("kind", "c"), ("kind", None), ("colour", "green"), ("level", 3), ("secret", "plain text"), ("secret", ""),
    ("secret", "s1:k1:short"), ("id", "other"), ("id", None), ("n", 1 << 63), ("n", "1"), ("n", True), ("f", "1"),
    ("flag", 1), ("at", "2020-01-01T00:00:00"), ("at", 5), ("who", "no"), ("much", "x"), ("blob", 1),
    ("inner", "{}"), ("inner", "[1]"), ("inner", "{"), ("inner", 5), ("many", '{"a":"b"}'), ("many", "[" * 100_000),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), WRONG, ids=[f"{name}={value!r:.20}" for name, value in WRONG])
@pytest.mark.parametrize("op", [EntryOp.SET, EntryOp.PARTIAL])
def test_what_no_record_can_hold_is_refused_by_the_name_of_its_column(column: str, value: Any, op: EntryOp) -> None:
    with pytest.raises(DecodeError) as caught:
        of(plain(**{column: value}), op)
    assert column in str(caught.value) and "plain text" not in str(caught.value)


def test_a_row_without_its_key_is_refused() -> None:
    with pytest.raises(DecodeError, match="id"):
        of({name: value for name, value in plain().items() if name != "id"})


def test_what_is_retried_and_replayed_must_fit_too() -> None:
    entry = Entry(1, EntryOp.SET, 1, "me", THINGS.plan.pack_row(ROW))
    assert restored(THINGS, "k", "k", entry).record == RECORD
    with pytest.raises(DecodeError):
        restored(THINGS, "other", "other", entry)


@given(garbage(encode_letter(Letter("k", GOOD.encode(), "23505", "no", 3, 1, 2))))
def test_a_dead_letter_is_read_or_none(raw: bytes) -> None:
    letter = letter_of(raw)
    assert letter is None or isinstance(letter.key_text, str)


REPORT = outcomes.OutcomeReport("things", [outcomes.Persisted("k", 5)], [outcomes.Failed("k", 6, "", "no", 1, True)])


@given(garbage(msgspec.msgpack.encode(REPORT)))
def test_an_outcome_is_read_or_refused(raw: bytes) -> None:
    try:
        outcomes._decode(raw)
    except UNDECODABLE:
        pass


@given(garbage(work._encode(work.JobPart("span", "a", "b", 5)), work._encode(work.Bell("strata.warm", ["things", 0]))))
def test_what_a_job_s_record_holds_is_read_or_refused(raw: bytes) -> None:
    for read in (work._part, work._bell):
        try:
            read(raw)
        except UNDECODABLE:
            pass
