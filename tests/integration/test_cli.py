"""The commands on real servers, with an application of their own."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from strata import DataStore, Q
from strata.application import load_store
from strata.cli.doctor import fleet as doctor_fleet
from strata.cli.fleet import LocalFleet
from strata.cli.servers import Servers
from strata.embedded import EmbeddedValkey
from strata.protocol.entry import Entry, EntryOp
from strata.protocol.versions import NODE_BITS
from strata.writebehind.ledger.shard import home_of
from tests.behind import run
from tests.commands import Strata, commands
from tests.models import Note, Player
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
APP = """
from tests.models import Note, Player
from strata import *

store = DataStore(Config.from_env(write_behind_max_retry=1, write_behind_flush_interval=0.05))
tiers = {"l1": MemPolicy(), "l2": RedisPolicy(), "l3": PostgresPolicy()}
store.register(Schema(Player, name="players", **tiers))
store.register(Schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND, **tiers))
"""


@pytest.fixture
def strata(tmp_path: Path, dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Strata]:
    """Runs a command."""
    yield commands(tmp_path, monkeypatch, "cli_shop", APP, dsn, redis_addr)
    sys.modules.pop("cli_shop", None)


@pytest.fixture
def fleet(strata: Strata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFleet]:
    """A place for workers, on the servers of the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Servers() as servers, LocalFleet(servers.inherited()) as fleet:
        yield fleet


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for workers, of which there are none."""
    monkeypatch.setenv("STRATA_BROKER_URL", "memory://")
    monkeypatch.setattr(doctor_fleet, "PATIENCE", 0.05)


def shop() -> DataStore:
    """The application's store, as a process of its own would have it."""
    sys.modules.pop("cli_shop", None)
    return load_store("cli_shop:store")


def fill(notes: int = 0, players: int = 0) -> None:
    with shop() as store:
        store.set_many(Note, {id: Note(id, "text") for id in range(1, notes + 1)})
        store.set_many(Player, {f"p{n}": Player(f"p{n}", f"name{n}") for n in range(players)})


def refuse_a_note() -> None:
    """A deferred write that the database refuses for good."""
    with shop() as store:
        with psycopg.connect(store.config.postgres_dsn) as conn:
            conn.execute("ALTER TABLE notes ADD CONSTRAINT short CHECK (length(text) < 10)")
        store.set(Note, 7, Note(7, "far too long for it"))
        store.flush_dirty(20)


def test_migrate_shows_what_it_did_and_then_does_nothing(strata: Strata) -> None:
    first, second = strata("migrate"), strata("migrate")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert 'CREATE TABLE "players"' in first.output
    assert second.output == "Nothing to do.\n"
    assert "migrate()" in strata("migrate", "--status").output


def test_migrate_leaves_to_people_what_is_not_additive(strata: Strata, dsn: str) -> None:
    strata("migrate")
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE players ADD COLUMN colour TEXT")
    output = strata("migrate").output
    assert "Left to you: players.colour is not in the model" in output
    assert 'ALTER TABLE "players" DROP COLUMN "colour";' in output


def test_migrate_ends_with_an_error_where_records_cannot_be_written(strata: Strata, dsn: str) -> None:
    assert strata("migrate").exit_code == 0
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE notes ADD COLUMN gone bigint")
    harmless = strata("migrate")
    assert (
        harmless.exit_code == 0 and "Nothing was applied." in harmless.output and "Nothing to do" not in harmless.output
    )
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE notes ALTER COLUMN gone SET NOT NULL")
    result = strata("migrate")
    assert result.exit_code == 1 and "1 of these must be done for the schemas to work" in result.output
    assert 'ALTER TABLE "notes" ALTER COLUMN "gone" DROP NOT NULL;' in result.output


def test_migrate_sql_prints_what_blocks_as_sql_for_psql_and_the_rest_as_comments_of_it(
    strata: Strata, dsn: str
) -> None:
    assert (strata("migrate").exit_code, strata("migrate", "--sql").output) == (0, "")
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE notes ADD COLUMN gone bigint NOT NULL; ALTER TABLE players ADD COLUMN colour TEXT")
    printed = strata("migrate", "--sql")
    assert printed.exit_code == 1
    lines = printed.stdout.splitlines()
    assert '--   ALTER TABLE "players" DROP COLUMN "colour";' in lines  # whose values would be gone
    assert [line for line in lines if line and not line.startswith("--")] == [
        'ALTER TABLE "notes" ALTER COLUMN "gone" DROP NOT NULL;'
    ]
    with psycopg.connect(dsn) as conn:
        conn.execute(printed.stdout.encode())
    assert strata("migrate", "--sql").exit_code == 0
    for other in (["--status"], ["--from", "."]):
        assert strata("migrate", "--sql", *other).exit_code == 2


@pytest.mark.parametrize("option", [["--app", "{app}"], ["--app={app}"]], ids=" ".join)
def test_app_may_stand_in_front_of_each_command_and_counts_more_than_the_environment(
    strata: Strata, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    strata("migrate")
    given = [word.format(app=os.environ["STRATA_APP"]) for word in option]
    monkeypatch.setenv("STRATA_APP", "nowhere:store")
    assert strata("dead-letters", "list", *given).output == "No dead letters.\n"
    assert strata("dead-letters", *given, "list").output == "No dead letters.\n"
    assert strata(*given, "dead-letters", "list").output == "No dead letters.\n"
    assert strata(*given, "migrate").output == "Nothing to do.\n"
    assert strata("dead-letters", *given).exit_code == 2
    assert "No such option" in strata(*given, "demo").output


def test_migrate_from_applies_files_once(strata: Strata, tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "001_make_it.sql").write_text("CREATE TABLE made (id int)")
    assert strata("migrate", "--from", "sql").output == "applied 001_make_it.sql\n"
    assert strata("migrate", "--from", "sql").output == "Nothing to apply.\n"
    assert strata("migrate", "--from", "nowhere").exit_code == 2


def test_warm_loads_up_to_the_limit(strata: Strata, redis_addr: str) -> None:
    strata("migrate")
    fill(players=20)
    host, port = redis_addr.split(":")
    with redis.Redis(host, int(port)) as client:
        client.flushall()
        result = strata("warm", "players", "--limit", "12")
        assert result.stdout == "12 records\n"
        assert len(client.keys("strata:players:*")) == 12
    assert strata("warm", "players").stdout == "20 records\n"


def test_warm_of_an_unknown_schema_is_one_line(strata: Strata) -> None:
    result = strata("warm", "nope")
    assert result.exit_code == 1
    assert result.stderr.strip() == (
        "SchemaNotFoundError: no schema 'nope' is registered with this store; registered: 'players', 'notes'"
    )


def test_warm_on_the_fleet_shows_the_jobs_end(strata: Strata, fleet: LocalFleet) -> None:
    strata("migrate")
    fill(notes=50)
    fleet.start_worker()
    assert strata("warm", "notes", "--background").stdout == "50 records\n"


def test_warm_on_the_fleet_tells_why_it_failed(strata: Strata, fleet: LocalFleet) -> None:
    fleet.start_worker()
    result = strata("warm", "notes", "--background")  # nothing was migrated
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_stats_show_each_schema(strata: Strata) -> None:
    strata("migrate")
    shown = json.loads(strata("stats", "--json").output)
    assert shown["schemas"]["players"] == {
        "tiers": "L1+L2+L3",
        "writes": "write_through",
        "rows_about": None,
        "pending": 0,
        "oldest_s": 0.0,
        "dead_letters": 0,
    }
    assert "write_behind" in strata("stats").output


def test_dead_letters_can_be_listed_shown_retried_and_discarded(strata: Strata, dsn: str) -> None:
    strata("migrate")
    assert strata("dead-letters", "list").output == "No dead letters.\n"
    refuse_a_note()
    [letter] = json.loads(strata("dead-letters", "list", "--json").output)
    assert (letter["schema"], letter["key"], letter["sqlstate"]) == ("notes", 7, "23514")
    assert letter["id"] in strata("dead-letters", "list", "--schema", "notes").output
    shown = json.loads(strata("dead-letters", "show", letter["id"], "--json").output)
    assert shown["values"]["text"] == "far too long for it"
    assert "text = 'far too long for it'" in strata("dead-letters", "show", letter["id"]).output
    for which in (letter["id"], "--all"):
        assert strata("dead-letters", "retry", which).output.startswith("1 put back, 1 left, which died again")
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE notes DROP CONSTRAINT short")
    assert strata("dead-letters", "retry", letter["id"]).output == "1 put back\n"
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT text FROM notes WHERE id = 7").fetchone() == ("far too long for it",)
    assert strata("dead-letters", "list").output == "No dead letters.\n"


def test_dead_letters_are_discarded_by_name_or_all(strata: Strata) -> None:
    strata("migrate")
    refuse_a_note()
    for id in ("notes-0-1", "notes-1-2", "nonsense", "nosuch-0-1"):
        for what in ("show", "retry", "discard"):
            result = strata("dead-letters", what, id)
            assert result.exit_code == 1
            assert f"no dead letter has the id '{id}'; `strata dead-letters list`" in result.output
    assert strata("dead-letters", "discard").exit_code == 2
    assert strata("dead-letters", "discard", "--all").output == "1 discarded\n"
    assert strata("dead-letters", "retry", "--all").output == "0 put back\n"


def test_the_doctor_is_content_with_a_whole_set_up(strata: Strata, fleet: LocalFleet) -> None:
    strata("migrate")
    fleet.start_worker()
    findings = {item["what"]: item for item in json.loads(strata("doctor", "--json").output)}
    assert {item["state"] for item in findings.values()} <= {"ok", "warn"}
    assert findings["workers"]["found"] == "1: worker1@localhost"
    assert findings["pending in notes"]["found"] == "none"
    assert strata("doctor").exit_code == 0


def test_the_doctor_names_missing_workers_and_tables(strata: Strata) -> None:
    result = strata("doctor", "--json")
    failing = {item["what"]: item["advice"] for item in json.loads(result.output) if item["state"] == "fail"}
    assert result.exit_code == 1
    assert failing["tables"] == "run `strata migrate`"
    assert "celery -A strata.worker worker" in failing["workers"]


@pytest.mark.usefixtures("hasty")
def test_the_doctor_names_a_shard_that_stands_still_its_age_and_what_to_look_at(
    strata: Strata, redis_addr: str
) -> None:
    strata("migrate")
    shard, since = home_of("notes", "7"), int((time.time() - 75) * 1000)
    entry = Entry(int(time.time() * 1e6) << NODE_BITS, EntryOp.DELETE, since, "them", b"").encode()
    key = "strata:{" + shard.tag + "}:"
    with redis.Redis.from_url(f"redis://{redis_addr}") as client:
        client.hset(key + "dirty", "7", entry)
        client.zadd(key + "due", {"7": (time.time() + 10) * 1000})  # somebody holds it
    [(what, found, advice)] = [item for item in findings(strata, "warn") if item[0] == "pending in notes"]
    assert what == "pending in notes"
    assert re.fullmatch(f"the oldest entry of shard {shard.number} is (7[5-9]|[89][0-9]) s old", found)
    assert f"strata.persist('notes', {shard.number})" in advice and "pg_stat_activity" in advice


@pytest.mark.usefixtures("hasty")
def test_the_doctor_names_the_index_that_pages_want(strata: Strata, redis_addr: str, dsn: str) -> None:
    strata("migrate")
    noted = "strata:{pages}:players"
    with shop() as store, redis.Redis.from_url(f"redis://{redis_addr}") as client:
        for query in (
            Q().order_by("level").desc(), Q().where("email = $1", "x").order_by("created_at"),
            Q().order_by("email").nulls_first().order_by("level").desc(),
            Q(), Q().order_by("id").desc(), Q().order_by("username").order_by("level"),  # the latter is unique
        ):  # fmt: skip
            store.search_page(Player, query)
        wait_until(lambda: client.hlen(noted) == 3)
        now = str(int(time.time()))
        others = ["garbage", "[true,[]]", "[1,2]", '[true,[["gone",true,null]]]']
        client.hset(noted, mapping=dict.fromkeys(others, now))
        client.hset(noted, '[false,[["updated_at",false,null]]]', str(int(now) - 31 * 86_400))
        client.hset(noted, '[false,[["updated_at",true,null]]]', "yesterday")

    def named() -> dict[str, str]:
        lines = [(found, advice) for what, found, advice in findings(strata, "warn") if what == "pages of players"]
        return {found.removeprefix("search_page was asked for by "): advice for found, advice in lines}

    told = "{}, and no index has that order: each page sorts what it finds"
    in_front = "; better with those columns in front that its where compares by ="
    assert named() == {
        told.format("level DESC, id DESC"): 'give the schema indexes=[Index(["level", "id"])] and run `strata migrate`',
        told.format("created_at, id"): (
            f'give the schema indexes=[Index(["created_at", "id"])] and run `strata migrate`{in_front}'
        ),
        told.format("email NULLS FIRST, level DESC, id DESC"): (
            'run CREATE INDEX CONCURRENTLY ON "players" ("email" NULLS FIRST, "level" DESC, "id" DESC)'
        ),
    }
    run(dsn, "CREATE INDEX ON players (level, id); CREATE INDEX ON players (email, created_at, id)")
    (advice,) = named().values()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(advice.removeprefix("run ").encode())
    assert named() == {}


@pytest.mark.usefixtures("hasty")
def test_the_doctor_leaves_a_redis_to_whoever_uses_it_first(strata: Strata, redis_addr: str) -> None:
    strata("migrate")
    strata("doctor")
    host, port = redis_addr.split(":")
    with redis.Redis(host, int(port)) as client:
        assert not [key for key in client.scan_iter() if b"{database}" in key or b"doctor" in key]


def test_the_doctor_goes_on_where_a_server_is_away(strata: Strata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATA_POSTGRES_DSN", "postgresql://me:very-secret@127.0.0.1:1/app")
    result = strata("doctor", "--json")
    states = {item["what"]: item["state"] for item in json.loads(result.output)}
    assert (states["PostgreSQL"], states["Redis"]) == ("fail", "ok")
    monkeypatch.setenv("STRATA_REDIS_ADDR", "127.0.0.1:1")
    both = strata("doctor")
    assert both.exit_code == 1
    assert "very-secret" not in result.output + both.output
    assert "Traceback" not in both.output


def test_the_doctor_warns_of_a_ledger_that_could_be_evicted(strata: Strata, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru", "appendonly": "yes"}
    with EmbeddedValkey(options, password="") as server:
        monkeypatch.setenv("STRATA_LEDGER_ADDR", server.addr)
        findings = {item["what"]: item for item in json.loads(strata("doctor", "--json").output)}
    assert findings["eviction of Redis"]["state"] == "ok"
    assert findings["eviction of Redis of the ledger"]["state"] == "fail"
    assert "set noeviction" in findings["eviction of Redis of the ledger"]["advice"]


def findings(strata: Strata, state: str = "fail") -> list[tuple[str, str, str]]:
    found = json.loads(strata("doctor", "--json").output)
    return [(item["what"], item["found"], item["advice"]) for item in found if item["state"] == state]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("settings", "login", "cause"),
    [
        ({"requirepass": "right"}, "", "NOAUTH: it wants a password"),
        ({"requirepass": "right"}, "redis://:very-secret@", "WRONGPASS: the user or the password is wrong"),
        ({}, "redis://app:very-secret@", "WRONGPASS: the user or the password is wrong"),
    ],
)
def test_the_doctor_tells_why_a_redis_lets_nobody_in(
    strata: Strata, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], login: str, cause: str
) -> None:
    strata("migrate")
    with EmbeddedValkey(settings) as server:
        monkeypatch.setenv("STRATA_REDIS_ADDR", login + server.addr)
        found = findings(strata)
    told = f"Redis at {server.addr} refused: {cause}"
    advice = "set the user and password of redis_addr (or redis_password) to those of the server"
    assert [line for line in found if line[0] != "workers"] == [
        ("Redis", told, advice),
        ("pending writes", told, advice),
    ]


@pytest.mark.long  # Celery asks again and again
def test_the_doctor_tells_why_a_broker_lets_nobody_in(strata: Strata, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedValkey({"requirepass": "right"}) as server:
        monkeypatch.setenv("STRATA_BROKER_URL", f"redis://:very-secret@{server.addr}")
        told = "the broker refused: WRONGPASS: the user or the password is wrong"
        assert ("workers", told, "correct broker_url, or what it is made of") in findings(strata)


@pytest.mark.usefixtures("hasty")
def test_the_doctor_tells_that_a_redis_does_not_answer(strata: Strata, monkeypatch: pytest.MonkeyPatch) -> None:
    strata("migrate")
    monkeypatch.setenv("STRATA_REDIS_ADDR", "127.0.0.1:1")
    told = "Redis at 127.0.0.1:1 did not answer (ConnectionError)", "check that it runs and is reachable"
    assert [found for found in findings(strata) if found[0] != "workers"] == [
        ("Redis", *told),
        ("pending writes", *told),
    ]


NO_DATABASE = ("PostgreSQL", "there is no database", "set postgres_dsn (STRATA_POSTGRES_DSN)")
NO_REDIS = (
    "Redis",
    "no Redis is named",
    "set redis_addr (STRATA_REDIS_ADDR), or redis_client; for write-behind alone ledger_addr (STRATA_LEDGER_ADDR) does",
)


@pytest.mark.parametrize(
    ("unset", "told"),
    [(("POSTGRES_DSN", "REDIS_ADDR"), [NO_DATABASE, NO_REDIS]), (("POSTGRES_DSN",), [NO_DATABASE]),
     (("REDIS_ADDR",), [NO_REDIS])],
)  # fmt: skip
def test_each_address_that_is_missing_is_one_line_of_the_doctors(
    strata: Strata, monkeypatch: pytest.MonkeyPatch, unset: tuple[str, ...], told: list[tuple[str, str, str]]
) -> None:
    strata("migrate")
    for name in unset:
        monkeypatch.delenv(f"STRATA_{name}")
    assert findings(strata) == told


MISFITS = {
    "a column is gone": ("DROP COLUMN text", "notes lacks text"),
    "the version is gone": ("DROP COLUMN _strata_version", "notes lacks _strata_version"),
    "another release wanted a column": ("ADD COLUMN old BIGINT NOT NULL", "notes.old is not in the model"),
    "a column has another type": ("DROP COLUMN text, ADD COLUMN text BIGINT", "notes.text is BIGINT"),
    "it is a view": (
        "RENAME TO elsewhere; CREATE VIEW notes AS SELECT 1 AS id",
        "'notes' is there already and is no t",
    ),
    "the key is not unique": ("DROP CONSTRAINT notes_pkey", "1 change(s) not made yet, such as ALTER TABLE"),
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("misfit", MISFITS)
def test_the_doctor_tells_of_a_table_that_takes_no_records(strata: Strata, dsn: str, misfit: str) -> None:
    change, told = MISFITS[misfit]
    strata("migrate")
    with psycopg.connect(dsn) as conn:
        conn.execute(f"ALTER TABLE notes {change}".encode())
    found = [found for found in findings(strata) if found[0] != "workers"]
    assert [what for what, _, _ in found] == ["tables"]
    assert found[0][1].startswith(told)
    assert found[0][2].startswith("a schema needs a table" if "view" in misfit else "run `strata migrate`")


@pytest.mark.usefixtures("hasty")
def test_a_default_that_a_table_lacks_is_a_warning_of_the_doctors(strata: Strata, dsn: str) -> None:
    strata("migrate")
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE notes ALTER COLUMN text DROP DEFAULT")
    assert [found for found in findings(strata, "warn") if found[0] == "tables"]
    strata("migrate")
    assert [found for found in findings(strata, "ok") if found[0] == "tables"]


def test_without_a_server_a_command_is_one_line_without_secrets(
    strata: Strata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATA_POSTGRES_DSN", "postgresql://me:very-secret@127.0.0.1:1/app")
    result = strata("migrate")
    assert result.exit_code == 1
    assert result.output.startswith("L3UnavailableError: ") and result.output.count("\n") == 1
    assert "very-secret" not in result.output
