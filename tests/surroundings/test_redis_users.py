"""Users of Redis's ACL: with exactly the rights of the documentation everything works; with less it is said what is
missing, reads are right all the same, and all is well once the rights are there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from strata import Collection, DataStore, L2PoolConfig, L2RefusedError, L2UnavailableError, UnavailableError, WriteMode
from strata.cli.doctor.finding import FindingState
from strata.cli.doctor.fleet import fleet as fleet_findings
from strata.cli.doctor.redis import redis as redis_findings
from strata.l2 import refusals
from strata.protocol.keyspace import Keyspace
from strata.testing import inspect
from tests.battery import run
from tests.behind import deferred, paced
from tests.fleet import environment, workers
from tests.models import Note
from tests.stores import MakeStore, schema, stores
from tests.support import wait_until
from tests.surroundings.redis_server import Server, redis_server

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
SHORT = L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5)


def rights(channel: str = "strata:invalidate", *, namespace: str = "", broker: bool = False) -> str:
    return refusals.rights(Keyspace(namespace), channel, broker=broker)


@dataclass
class Log:
    """Keeps what an operator would be shown."""

    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def debug(self, msg: str, **fields: Any) -> None:
        pass

    def info(self, msg: str, **fields: Any) -> None:
        pass

    def warning(self, msg: str, **fields: Any) -> None:
        self.lines.append((msg, fields))

    def error(self, msg: str, **fields: Any) -> None:
        self.lines.append((msg, fields))

    def says(self, piece: str) -> bool:
        return any(piece in f"{msg} {fields}" for msg, fields in self.lines)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    """A server without a key in it, and without any user but the administrator and `default`."""
    running.admin.flushall()
    for user in running.admin.acl_users():
        if user not in ("admin", "default"):
            running.admin.acl_deluser(str(user))
    return running


@pytest.fixture
def make(dsn: str, server: Server) -> Iterator[MakeStore]:
    with stores(dsn, server.url("app")) as factory:
        yield lambda **options: factory(**{"l2_pool": SHORT, **options})


def registered(store: DataStore, **options: Any) -> Collection[Note]:
    made = store.register(schema(Note, name="notes", **options))
    store.migrate()
    return made


def sure(*all: DataStore) -> None:
    for store in all:
        wait_until(lambda store=store: vouched(store), what="the bus")  # type: ignore[misc]


def vouched(store: DataStore) -> bool:
    inspect(store).listen()
    return inspect(store).sure


def text(notes: Collection[Note]) -> str:
    return notes.get(1).text


# -- rights enough ------------------------------------------------------------------------------------------------


def test_the_documentation_names_the_rights_that_are_asked_for() -> None:
    said = DOCS.read_text()
    assert rights() in said
    assert rights(broker=True) in said
    assert rights(namespace="shop") in said
    assert rights(namespace="shop", broker=True) in said


@pytest.mark.parametrize("shape", ["L1+L2+L3", "L1+L2", "L1+L3"])
def test_with_the_rights_of_the_documentation_everything_works(make: MakeStore, server: Server, shape: str) -> None:
    server.grant("app", "on >pw", rights())
    log = Log()
    run(make(logger=log), shape)
    assert log.lines == []


def test_a_channel_of_ones_own_needs_its_own_right(make: MakeStore, server: Server) -> None:
    server.grant("app", "on >pw", rights("shop:changes"))
    log = Log()
    one, two = (make(invalidation_channel="shop:changes", logger=log) for _ in range(2))
    written, read = registered(one), registered(two)
    sure(one, two)
    written.set(1, Note(1, "old"))
    assert text(read) == "old"
    written.set(1, Note(1, "new"))
    wait_until(lambda: text(read) == "new")
    assert log.lines == []


def test_a_namespace_needs_no_rights_on_what_is_outside_of_it(make: MakeStore, server: Server) -> None:
    server.grant("app", "on >pw", rights(namespace="shop"))
    log = Log()
    run(make(logger=log, namespace="shop"), "L1+L2+L3")
    assert log.lines == []
    assert all(key.startswith("shop:") for key in server.admin.scan_iter())


def test_with_these_rights_and_those_of_the_broker_the_fleet_persists(
    make: MakeStore, server: Server, dsn: str, tmp_path: Path
) -> None:
    server.grant("app", "on >pw", rights(broker=True))
    log = Log()
    store = make(logger=log, write_behind_flush_interval=0.05)
    notes = store.register(deferred())
    store.migrate()
    with workers(environment(dsn, server.url("app")), tmp_path) as worker:
        notes.set(1, Note(1, "by a worker"))
        wait_until(lambda: worker.persisted() == 1, what="the worker's work")
        wait_until(lambda: notes.get(1, force_l3=True).text == "by a worker")
        assert "NOPERM" not in worker.log.read_text()
    assert log.lines == []


def test_write_behind_works_without_workers_too(make: MakeStore, server: Server) -> None:
    server.grant("app", "on >pw", rights())
    log = Log()
    run(make(logger=log, broker_url="memory://"), "L1+L2+L3", WriteMode.WRITE_BEHIND)
    assert log.lines == []


def test_the_doctor_finds_nothing_to_be_done_about_a_user_with_these_rights(make: MakeStore, server: Server) -> None:
    server.grant("app", "on >pw", rights())
    log = Log()
    store = make(logger=log)
    registered(store)
    assert [finding for finding in redis_findings(store) if finding.state is FindingState.FAIL] == []
    assert log.lines == []  # nor do its tries look like trouble


# -- rights missing -----------------------------------------------------------------------------------------------

MISSING = {
    "channels": "resetchannels",
    "publishing": "-publish",
    "subscribing": "-subscribe",
    "scripts": "-eval -evalsha",
    "deleting": "-del",
    "keys": "resetkeys ~other:*",
    "writing": "-@write",
    "reading": "-@read",
}


@pytest.mark.parametrize("missing", MISSING)
def test_where_rights_are_missing_from_the_start_it_is_said_reads_are_right_and_it_heals(
    make: MakeStore, server: Server, missing: str
) -> None:
    server.grant("app", "on >pw", rights(), MISSING[missing])
    log = Log()
    one, two = make(logger=log), make(logger=log)
    written, read = registered(one), registered(two)
    for turn in range(3):
        written.set(1, Note(1, f"turn {turn}"))
        wait_until(lambda turn=turn: text(read) == f"turn {turn}", timeout=5)  # type: ignore[misc]
    with contextlib.suppress(L2RefusedError):
        written.invalidate(1)
    wait_until(lambda: log.says("NOPERM"))
    assert log.says("ACL SETUSER app") and log.says(server.addr) and not log.says(">pw")
    server.grant("app", rights())
    sure(one, two)
    written.set(2, Note(2, "well"))  # an intent may stand on the other one for some seconds
    hits = two.stats().l2_hits
    wait_until(lambda: read.get(2, force_l2=True).text == "well" and two.stats().l2_hits > hits, what="L2")


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("whose", ["the writer's", "everybody's"])
def test_what_is_written_after_rights_were_revoked_is_read(dsn: str, server: Server, missing: str, whose: str) -> None:
    server.grant("app", "on >pw", rights())
    server.grant("writer", "on >pw", rights())
    with stores(dsn, server.url("app")) as make:
        writer = make(redis_addr=server.url("writer" if whose == "the writer's" else "app"), l2_pool=SHORT)
        reader = make(l2_pool=SHORT)
        written, read = registered(writer), registered(reader)
        sure(writer, reader)
        written.set(1, Note(1, "old"))
        wait_until(lambda: text(read) == "old")
        server.grant("writer" if whose == "the writer's" else "app", MISSING[missing])
        written.set(1, Note(1, "new"))
        assert text(written) == "new"
        wait_until(lambda: text(read) == "new", timeout=6, what="the new value")
        server.grant("writer", rights())
        server.grant("app", rights())
        sure(writer, reader)
        wait_until(lambda: text(read) == "new" and read.get(1, force_l2=True).text == "new")


@pytest.mark.parametrize("missing", ["channels", "publishing", "scripts"])
def test_a_deferred_write_of_a_user_without_rights_reaches_the_others(dsn: str, server: Server, missing: str) -> None:
    server.grant("app", "on >pw", rights())
    server.grant("writer", "on >pw", rights())
    with stores(dsn, server.url("app")) as make:
        options = {"broker_url": "memory://", "l2_pool": SHORT}
        writer, reader = make(redis_addr=server.url("writer"), **options), make(**options)
        written, read = (registered(store, write_mode=WriteMode.WRITE_BEHIND) for store in (writer, reader))
        written.set(1, Note(1, "old"))
        writer.flush_dirty()
        sure(writer, reader)
        wait_until(lambda: text(read) == "old")
        server.grant("writer", MISSING[missing])
        written.set(1, Note(1, "new"))
        writer.flush_dirty()
        wait_until(lambda: text(read) == "new", timeout=6, what="the new value")


def test_an_invalidation_that_nobody_could_be_told_of_is_refused_and_changes_nothing(
    make: MakeStore, server: Server
) -> None:
    server.grant("app", "on >pw", rights())
    store = make()
    notes = registered(store)
    sure(store)
    notes.set(1, Note(1, "kept"))
    server.grant("app", "-publish")
    before = server.admin.get("strata:notes:1")
    with pytest.raises(L2RefusedError, match=r"NOPERM.*ACL SETUSER app"):
        notes.invalidate(1)
    assert before and server.admin.get("strata:notes:1") == before


@pytest.mark.parametrize("missing", MISSING)
def test_the_doctor_names_the_rights_that_are_missing(make: MakeStore, server: Server, missing: str) -> None:
    server.grant("app", "on >pw", rights(), MISSING[missing])
    store = make()
    registered(store)
    failed = [finding for finding in redis_findings(store) if finding.state is FindingState.FAIL]
    assert any("NOPERM" in finding.found and "ACL SETUSER app" in finding.advice for finding in failed)


def test_the_doctor_tells_that_the_user_of_the_broker_lacks_rights(make: MakeStore, server: Server) -> None:
    server.grant("app", "on >pw", rights())
    store = make()
    registered(store, write_mode=WriteMode.WRITE_BEHIND)
    [workers] = [finding for finding in fleet_findings(store) if finding.what == "workers"]
    assert "NOPERM" in workers.found and f"ACL SETUSER app {rights(broker=True)}" in workers.advice


def test_where_redis_is_the_broker_too_its_rights_are_advised_and_a_refused_doorbell_says_why(
    make: MakeStore, server: Server
) -> None:
    server.grant("app", "on >pw", rights())
    log = Log()
    store = make(logger=log, write_behind_flush_interval=0.05)
    paced(store, fleet=60.0)
    notes = registered(store, write_mode=WriteMode.WRITE_BEHIND)
    inspect(store).workers.beat()  # else nobody rings
    wait_until(lambda: rung(log, notes), what="a refused doorbell")
    [fields] = [fields for msg, fields in log.lines if msg == "the broker takes no doorbells"]
    assert fields["cause"].startswith("NOPERM") and rights(broker=True) in fields["advice"]
    assert "pw" not in str(fields)
    with pytest.raises(UnavailableError, match=r"NOPERM.*ACL SETUSER app") as caught:
        store.warm_cache("notes", background=True)
    assert rights(broker=True) in str(caught.value)
    server.grant("app", "resetchannels")
    wait_until(lambda: [notes.set(1, Note(1)), log.says("Redis refuses calls")][1], what="a refused call")
    [fields] = [fields for msg, fields in log.lines if msg == "Redis refuses calls"]
    assert rights(broker=True) in fields["advice"]


def rung(log: Log, notes: Collection[Note]) -> bool:
    notes.set(1, Note(1))
    return log.says("the broker takes no doorbells")


# -- logins -------------------------------------------------------------------------------------------------------


def wrong(server: Server) -> str:
    return server.url("app", "wrong")


LOGINS: dict[str, tuple[Callable[[Server], str], str, str]] = {
    "a wrong password": (wrong, "WRONGPASS", "on >wrong"),
    "a user that is off": (lambda server: server.url("app"), "WRONGPASS", "on"),
}


@pytest.mark.parametrize("what", LOGINS)
def test_a_login_that_is_refused_is_said_and_works_once_it_is_mended(
    make: MakeStore, server: Server, what: str
) -> None:
    url, word, mend = LOGINS[what]
    server.grant("app", ">pw", rights())
    log = Log()
    store = make(redis_addr=url(server), logger=log)
    notes = registered(store)
    notes.set(1, Note(1, "in PostgreSQL"))
    assert text(notes) == "in PostgreSQL"
    assert log.says(word) and log.says(server.addr)
    assert not log.says("wrong@") and not log.says("pw@")
    for _ in range(4):  # as often as opens a breaker, and more
        with pytest.raises(L2UnavailableError, match=word):
            notes.invalidate(1)
    bus = inspect(store).bus
    wait_until(lambda: word in store.health().l2.why and bus.outage.away is not None)
    bus.outage.gone("no answer")  # as where the breaker has let nobody ask
    assert store.health().bus.why == store.health().l2.why
    server.grant("app", mend)
    sure(store)


def test_a_server_that_wants_a_password_says_so(dsn: str) -> None:
    with redis_server("requirepass right") as server, stores(dsn, server.addr) as make:
        log = Log()
        store = make(logger=log)
        notes = registered(store)
        notes.set(1, Note(1, "in PostgreSQL"))
        assert text(notes) == "in PostgreSQL"
        assert log.says("NOAUTH") and log.says(server.addr)


def test_a_rotated_password_leaves_living_connections_alone_and_is_said_where_new_ones_are_refused(
    make: MakeStore, server: Server
) -> None:
    server.grant("app", "on >pw", rights())
    log = Log()
    one, two = make(logger=log), make(logger=log)
    written, read = registered(one), registered(two)
    sure(one, two)
    written.set(1, Note(1, "old"))
    assert text(read) == "old"
    server.grant("app", "<pw >next")
    written.set(1, Note(1, "new"))
    wait_until(lambda: text(read) == "new")
    server.admin.client_kill_filter(_type="normal", skipme=True)
    server.admin.client_kill_filter(_type="pubsub", skipme=True)
    written.set(1, Note(1, "newer"))
    wait_until(lambda: text(read) == "newer", timeout=5)
    wait_until(lambda: log.says("WRONGPASS"))
    server.grant("app", ">pw")
    sure(one, two)
    assert text(read) == "newer"


def test_a_server_without_room_for_connections_is_said_and_used_once_there_is_room(
    make: MakeStore, server: Server
) -> None:
    server.grant("app", "on >pw", rights())
    server.admin.ping()
    with contextlib.ExitStack() as stack:
        stack.callback(server.admin.config_set, "maxclients", 1000)
        server.admin.config_set("maxclients", len(server.admin.client_list()))
        log = Log()
        store = make(logger=log)
        notes = registered(store)
        notes.set(1, Note(1, "in PostgreSQL"))
        assert text(notes) == "in PostgreSQL"
        assert log.says("maxclients")
    sure(store)
