"""A release that does not know a field, yet or any more, goes on inserting: what its class says stands in the table."""

from __future__ import annotations

import enum
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pytest

import strata
from strata import Default, WriteMode
from strata.l3.pool import Database
from strata.l3.report import MigrationReport
from tests.behind import rows
from tests.behind import run as run_in
from tests.databases import NEWEST, VERSIONS
from tests.integration.test_l3_migrations import described, migrate, model, query, run, tables
from tests.l3 import fresh
from tests.stores import MakeStore, schema

AT = datetime(2024, 6, 1, 12, 30, 0, 5, tzinfo=UTC)
Secret = Annotated[str, strata.Encrypted]


class State(enum.Enum):
    OPEN = "it's \\ open"
    CALM = "calm"


class Level(enum.IntEnum):
    LOW = 7


@dataclass(frozen=True)
class Inner:
    x: int = 3
    at: datetime = AT
    tags: tuple[str, ...] = ("a", "b")


class Struct(msgspec.Struct):
    words: list[str] = msgspec.field(default_factory=lambda: ["x"])


def made(maker: Any) -> Any:
    return field(default_factory=maker)


FIELDS: dict[str, tuple[Any, Any, Any]] = {
    "text": (str, 'it\'s \\ $1 "%s" ünï', 'it\'s \\ $1 "%s" ünï'),
    "empty": (str, "", ""),
    "whole": (int, -(1 << 63), -(1 << 63)),
    "real": (float, -0.25, -0.25),
    "small": (float, 5e-324, 5e-324),
    "infinite": (float, float("-inf"), float("-inf")),
    "yes": (bool, True, True),
    "moment": (datetime, AT, AT),
    "data": (bytes, b"\0'\\\xff", b"\0'\\\xff"),
    "ident": (uuid.UUID, uuid.UUID(int=7), uuid.UUID(int=7)),
    "amount": (Decimal, Decimal("-1.10"), Decimal("-1.10")),
    "day": (date, date(1, 2, 3), date(1, 2, 3)),
    "hour": (time, time(23, 59, 59, 999999), time(23, 59, 59, 999999)),
    "span": (timedelta, timedelta(days=-3, microseconds=5), timedelta(days=-3, microseconds=5)),
    "state": (State, State.OPEN, State.OPEN),
    "level": (Level, Level.LOW, Level.LOW),
    "word": (Literal["a", "b"], "b", "b"),
    "things": (list[str], made(list), []),
    "few": (list[str], made(lambda: ["it's", "\\"]), ["it's", "\\"]),
    "table": (dict[str, Any], made(dict), {}),
    "several": (set[str], made(lambda: {"a", "b", "c"}), {"a", "b", "c"}),
    "pair": (tuple[int, str], (1, "x"), (1, "x")),
    "inner": (Inner, Inner(), Inner()),
    "made": (Inner, made(Inner), Inner()),
    "struct": (Struct, made(Struct), Struct()),
    "maybe": (int | None, 5, 5),
    "nothing": (int | None, None, None),
    "marked": (Annotated[int, Default(4)], 3, 4),
    "apart": (Annotated[str, strata.OmitCache], "x", "x"),
}
KIND = model(*((name, annotation, default) for name, (annotation, default, _) in FIELDS.items()))


@pytest.fixture(params=NEWEST)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with fresh(request.param) as database:
        yield database


def inserted_without(database: Database) -> Any:
    """The record that a row is which was inserted with its key alone."""
    run(database, "INSERT INTO things (id) VALUES ('new')")
    table = tables(KIND)[0][0]
    with database.connection() as conn:
        row = table.get(conn, "new")
    assert row is not None
    return table.plan.from_row(row.values, None)


EXPECTED = {name: value for name, (_, _, value) in FIELDS.items()}


@pytest.mark.parametrize("database", VERSIONS, indirect=True)
@pytest.mark.parametrize("before", ["nothing", "the key", "a row", "an earlier release"])
def test_every_default_of_the_class_stands_in_the_table(database: Database, before: str) -> None:
    run(database, "SET IntervalStyle = 'sql_standard'")
    if before in ("the key", "a row"):
        migrate(database, model())
    if before == "a row":
        run(database, "INSERT INTO things (id) VALUES ('old')")
    if before == "an earlier release":  # which made NOT NULL columns without a DEFAULT
        migrate(database, KIND)
        for name in EXPECTED:
            run(database, f'ALTER TABLE things ALTER COLUMN "{name}" DROP DEFAULT')
    report = migrate(database, KIND)
    assert report.manual == ()
    found = inserted_without(database)
    assert {name: getattr(found, name) for name in EXPECTED} == EXPECTED
    assert migrate(database, KIND) == MigrationReport()
    if before == "an earlier release":
        assert len(report.applied) == len(EXPECTED) - 1
        assert all(" SET DEFAULT " in statement for statement in report.applied)


def test_a_stamp_that_may_not_be_null_is_the_time_of_the_insert(database: Database) -> None:
    migrate(database, model())
    stamps = model(
        ("first", Annotated[datetime, strata.AutoNowAdd]),
        ("last", Annotated[datetime, strata.AutoNow]),
        ("maybe", Annotated[datetime | None, strata.AutoNow], None),
    )
    assert migrate(database, stamps).manual == ()
    run(database, "INSERT INTO things (id) VALUES ('a')")
    assert query(database, "SELECT first = last, first > '2024-01-01', maybe FROM things") == [(True, True, None)]
    assert migrate(database, stamps) == MigrationReport()


def test_a_default_that_the_class_makes_anew_is_told_with_what_it_would_need(database: Database) -> None:
    numbers = itertools.count()
    kind = model(
        ("ident", uuid.UUID, made(uuid.uuid4)),
        ("at", datetime, made(lambda: datetime.now(UTC))),
        ("day", date, made(date.today)),
        ("number", int, made(lambda: next(numbers))),
    )
    migrate(database, model())
    told = migrate(database, kind).manual
    assert [change.text.split()[0] for change in told] == [
        f"things.{name}" for name in ("ident", "at", "day", "number")
    ]
    assert all("Default(sql=" in change.text and change.sql == "" for change in told)
    assert {default for name, (_, _, default) in described(database).items() if name != "_strata_version"} == {None}
    for name, sql in (("ident", "gen_random_uuid()"), ("at", "now()"), ("day", "CURRENT_DATE"), ("number", "7")):
        run(database, f"ALTER TABLE things ALTER COLUMN {name} SET DEFAULT {sql}")
    assert migrate(database, kind) == MigrationReport()


def test_the_plaintext_of_an_encrypted_field_is_never_in_the_catalog(database: Database) -> None:
    kind = model(("secret", Secret, "hush"), ("other", Annotated[str | None, strata.Encrypted], "hush"))
    migrate(database, model())
    report = migrate(database, kind)
    assert "hush" not in repr(report) and [change.text.split()[0] for change in report.manual] == ["things.secret"]
    assert "SQL can make no ciphertext" in report.manual[0].text
    assert described(database)["secret"][2] is described(database)["other"][2] is None
    assert migrate(database, kind) == MigrationReport()


def test_a_default_that_is_not_the_classs_is_told_and_left(database: Database) -> None:
    migrate(database, model(("x", int, 1), ("y", set[str], made(lambda: {"a", "b"}))))
    later = model(("x", int, 2), ("y", set[str], made(lambda: {"b", "a"})))
    (told,) = migrate(database, later).manual
    assert "another DEFAULT" in told.text and described(database)["x"][2] == "1"
    assert migrate(database, later).blocking == ()
    run(database, told.sql)
    assert migrate(database, later) == MigrationReport()


def test_a_default_that_a_column_of_others_does_not_take_keeps_nothing_else_back(database: Database) -> None:
    run(database, "CREATE TYPE mood AS ENUM ('calm'); CREATE DOMAIN few AS bigint CHECK (VALUE > 0)")
    columns = "mood mood NOT NULL, few few NOT NULL, count integer NOT NULL, share integer NOT NULL, place bigint"
    run(database, f"CREATE TABLE things (id text PRIMARY KEY, {columns} GENERATED BY DEFAULT AS IDENTITY)")
    fields = ("mood", State, State.OPEN), ("few", int, 0), ("count", int, 1 << 40), ("share", float, float("nan"))
    kind = model(*fields, ("place", int, 0), ("late", int, 5))
    report = migrate(database, kind)
    told = [change.text for change in report.manual if "does not take the DEFAULT" in change.text]
    assert [text.split()[0] for text in told] == ["things.mood", "things.few", "things.count", "things.share"]
    assert report.blocking == () and described(database)["late"][2] == "5"
    assert all(described(database)[name][2] is None for name in ("mood", "few", "count", "share", "place"))
    assert migrate(database, kind).applied == ()


def test_a_default_that_only_stands_for_none_given_is_none(database: Database) -> None:
    kind = model(("x", int, None), ("y", str, strata.UNLOADED), ("z", int, made(dict)))
    migrate(database, kind)
    assert {default for name, (_, _, default) in described(database).items() if name != "_strata_version"} == {None}
    assert migrate(database, kind) == MigrationReport()


def test_a_field_that_is_gone_is_in_nobodys_way_where_it_had_a_default(database: Database) -> None:
    migrate(database, model(("x", int, 1), ("y", int)))
    gone = migrate(database, model(("y", int)))
    assert [change.text for change in gone.manual] == [
        "things.x is not in the model; its values stay. Drop it when no release that has it runs any more"
    ]
    assert gone.blocking == ()
    blocked = migrate(database, model(("x", int, 1))).blocking
    assert len(blocked) == 1 and "things.y is not in the model and is NOT NULL without a DEFAULT" in blocked[0].text


def release(*fields: Any) -> Any:
    return make_dataclass("Player", [("id", Annotated[str, strata.PrimaryKey]), ("level", int), *fields])


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND], ids=["through", "behind"])
def test_the_release_that_still_runs_goes_on_writing_after_the_next_one_has_migrated(
    make: MakeStore, dsn: str, mode: WriteMode
) -> None:
    old, new = release(), release(("coins", int, 5), ("words", list[str], made(list)))
    running, coming = make(), make()
    running.register(schema(old, name="players", write_mode=mode))
    running.migrate()
    running.set("players", "p1", old("p1", 1))
    running.flush_dirty(10)
    coming.register(schema(new, name="players", write_mode=mode))
    assert coming.migrate().manual == ()
    running.set("players", "p1", old("p1", 2))
    running.set("players", "p2", old("p2", 3))
    running.set_many("players", {f"m{number}": old(f"m{number}", 4) for number in range(40)})
    running.flush_dirty(10)
    assert rows(dsn, "SELECT id, level, coins, words FROM players WHERE id < 'q' AND id > 'p' ORDER BY 1") == [
        ("p1", 2, 5, []),
        ("p2", 3, 5, []),
    ]
    assert coming.get("players", "m7", force_l3=True) == new("m7", 4, 5, [])
    if mode is WriteMode.WRITE_BEHIND:
        assert running.dead_letters.list() == []


def test_what_a_release_cannot_insert_without_is_said_by_migrate_and_by_the_write(make: MakeStore, dsn: str) -> None:
    old, new = release(("coins", int)), release()
    first, second = make(), make()
    first.register(schema(old, name="players"))
    first.migrate()
    second.register(schema(new, name="players"))
    (told,) = second.migrate().blocking
    assert 'ALTER TABLE "players" ALTER COLUMN "coins" DROP NOT NULL' in told.sql
    with pytest.raises(strata.ConstraintError, match=r"column 'coins' .*DEFAULT"):
        second.set("players", "p1", new("p1", 1))
    run_in(dsn, told.sql)
    second.set("players", "p1", new("p1", 1))
