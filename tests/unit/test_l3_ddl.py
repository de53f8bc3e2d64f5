"""The SQL that migrations are made of."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from strata.errors import InvalidModelError, MigrationError
from strata.l3 import ddl
from strata.l3.files import split
from strata.policies import Index


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (None, "NULL"), (True, "true"), (-3, "-3"), (1.5, "1.5"), (float("inf"), "'inf'"), (float("nan"), "'nan'"),
        (Decimal("-1.10"), "-1.10"), (Decimal("NaN"), "'NaN'"), ("it's", "'it''s'"), ("\\", "'\\'"), ("", "''"),
        (b"\x00'", "'\\x0027'::bytea"), (date(2020, 1, 2), "'2020-01-02'"), (time(1, 2, 3), "'01:02:03'"),
        (datetime(2020, 1, 2, tzinfo=UTC), "'2020-01-02T00:00:00+00:00'"),
        (timedelta(days=-1, microseconds=5), "'-1 days +0.000005 seconds'::interval"),
        (-0.0, "'-0.0'"), (-1.5, "'-1.5'"),
        (uuid.UUID(int=1), "'00000000-0000-0000-0000-000000000001'"),
    ],
)  # fmt: skip
def test_literals_are_quoted(value: Any, sql: str) -> None:
    assert ddl.literal(value) == sql


def test_a_value_without_a_literal_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="object"):
        ddl.literal(object())


def test_long_names_are_cut_and_stay_different() -> None:
    names = {ddl.short(f"{'x' * 70}{number}") for number in range(5)}
    assert len(names) == 5 and all(len(name) == 63 for name in names)
    assert ddl.short("x" * 63) == "x" * 63


def test_an_index_is_named_after_table_and_columns_unless_it_has_a_name() -> None:
    assert ddl.index("t", Index(["a", "b"])) == 'CREATE INDEX "t_a_b_idx" ON "t" ("a", "b")'
    assert ddl.index("t", Index(["a"], name="mine")) == 'CREATE INDEX "mine" ON "t" ("a")'
    assert ddl.unique("t", Index(["a"], unique=True), deferrable=True) == (
        'ALTER TABLE "t" ADD CONSTRAINT "t_a_key" UNIQUE ("a") DEFERRABLE INITIALLY IMMEDIATE'
    )


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ; ;\n", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';' AS \"a;b\"; SELECT E'\\';'", ["SELECT ';' AS \"a;b\"", "SELECT E'\\';'"]),
        ("-- a; b\nSELECT /* ; /* ; */ ; */ 1;", ["SELECT   1"]),
        ("DO $$ BEGIN; END; $$; SELECT 1", ["DO $$ BEGIN; END; $$", "SELECT 1"]),
        ("DO $body$ $$;$$ $body$", ["DO $body$ $$;$$ $body$"]),
    ],
)
def test_a_file_is_split_where_postgresql_would(text: str, statements: list[str]) -> None:
    assert split(text, "001_a.sql") == statements


def test_an_open_quote_is_refused_with_the_files_name() -> None:
    with pytest.raises(MigrationError, match=r"001_a\.sql"):
        split("SELECT 'x", "001_a.sql")
