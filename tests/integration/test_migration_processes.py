"""Many processes that start at once, and databases that came to one shape by different ways."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import Index, PostgresPolicy, Schema
from strata.l3.migrations import Migrator
from strata.l3.pool import Database
from strata.l3.report import MigrationReport
from strata.l3.table import Table
from strata.model import compile_model
from tests.databases import VERSIONS
from tests.fleet import ROOT
from tests.forked import Forked
from tests.l3 import fresh

PROCESSES = 8
PROGRAM = """
import json, sys
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
import strata
from strata import Config, DataStore, PostgresPolicy, Schema

@dataclass
class User:
    id: Annotated[str, strata.PrimaryKey]
    name: Annotated[str, strata.Unique]
    size: Annotated[int, strata.Indexed] = 3

@dataclass
class Visit:
    id: Annotated[int, strata.PrimaryKey]
    at: datetime

store = DataStore(Config(postgres_dsn=sys.argv[1]))
store.register(Schema(User, name="users", l3=PostgresPolicy()))
store.register(Schema(Visit, name="visits", l3=PostgresPolicy(partition_by="at")))
print("ready", flush=True)
sys.stdin.readline()
report = store.migrate()
print(json.dumps([len(report.applied), len(report.manual), store.migrate_from(sys.argv[2])]), flush=True)
store.close()
"""
Key = Annotated[str, strata.PrimaryKey]


def test_eight_processes_that_start_at_once_migrate_once(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn) as conn:  # rows, so that indexes are made beside writers, and after the transaction
        conn.execute("CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT NOT NULL)")
        conn.execute("INSERT INTO users SELECT n, n FROM generate_series(1, 500) AS n")
    (tmp_path / "001_view.sql").write_text("CREATE VIEW names AS SELECT name FROM users")
    (tmp_path / "002_index.sql").write_text(
        "-- strata: no-transaction\nCREATE INDEX CONCURRENTLY users_both ON users (name, size)"
    )
    words = [sys.executable, "-c", PROGRAM, dsn, str(tmp_path)]
    processes = [
        Forked(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    try:
        assert {process.stdout.readline() for process in processes if process.stdout} == {"ready\n"}
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    assert [process.returncode for process in processes] == [0] * PROCESSES
    assert sum(applied > 0 for applied, _, _ in answers) == 1
    assert {manual for _, manual, _ in answers} == {0}
    assert sorted(name for _, _, names in answers for name in names) == ["001_view.sql", "002_index.sql"]
    with psycopg.connect(dsn) as conn:
        recorded = conn.execute("SELECT count(*) FROM _strata_migrations").fetchone()
        broken = conn.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone()
        parts = conn.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'visits'::regclass").fetchone()
    assert (recorded, broken, parts) == ((3,), (0,), (5,))


# -- one shape, many ways -----------------------------------------------------------------------------------------


def model(*fields: Any) -> Any:
    return make_dataclass("Thing", [("id", Key), *fields], kw_only=True)


NAME: Any = ("name", str, "")
STEPS: list[tuple[Any, Sequence[Index]]] = [
    (model(), ()),
    (model(NAME), ()),
    (model(("name", Annotated[str, strata.Unique], "")), ()),
    (model(("name", Annotated[str, strata.Unique], ""), ("level", Annotated[int, strata.Default(1)])), ()),
    (
        model(
            ("name", Annotated[str, strata.Unique], ""),
            ("level", Annotated[int, strata.Default(1), strata.Indexed]),
            ("note", str | None, None),
            ("made", Annotated[datetime | None, strata.AutoNowAdd], None),
            ("tags", list[str], field(default_factory=list)),
            ("since", datetime, datetime(2024, 1, 1, tzinfo=UTC)),
        ),
        [Index(["level", "note"]), Index(["made", "level"], name="recent", unique=True)],
    ),
]


def migrate(database: Database, step: int, *, deferred: bool) -> MigrationReport:
    kind, indexes = STEPS[step]
    table = Table(compile_model(kind), "things", schema_name="things", deferred=deferred)
    schema: Schema[Any] = Schema(kind, name="things", l3=PostgresPolicy(), indexes=indexes)
    return Migrator(database, [(table, schema)]).migrate()


COLUMNS = """
SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0
"""
INDEXES = "SELECT tablename::text, indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public'"
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace
"""


def shape(database: Database) -> list[Any]:
    """Columns with types and defaults, indexes, constraints: of the table and of Strata's own."""
    with database.connection() as conn:
        return [sorted(conn.execute(sql).fetchall(), key=str) for sql in (COLUMNS, INDEXES, CONSTRAINTS)]


@pytest.mark.parametrize("deferred", [False, True], ids=["through", "behind"])
@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_migrated_by_steps_is_that_of_a_fresh_one(version: int, rows: int, deferred: bool) -> None:
    last = len(STEPS) - 1
    with fresh(version) as grown, fresh(version) as new:
        for step in range(len(STEPS)):
            assert migrate(grown, step, deferred=deferred).manual == ()
            if step == 1:
                with grown.connection() as conn:
                    conn.command(f"INSERT INTO things (id, name) SELECT n, n FROM generate_series(1, {rows}) AS n")
        migrate(new, last, deferred=deferred)
        assert migrate(grown, last, deferred=deferred) == MigrationReport()
        assert shape(grown) == shape(new)
