"""What an operator is told while servers go away and come back, and what `health()` and `stats()` say meanwhile."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from strata import (
    ClosedError,
    Config,
    DataStore,
    Health,
    PostgresPolicy,
    StandardLogger,
    Stats,
    TierState,
    UnavailableError,
)
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.embedded.process import free_port
from strata.l2 import client as l2_client
from strata.l2.client import RedisServer
from strata.l3.pool import Database
from strata.observe import log as log_module
from strata.observe import outages
from strata.observe.server_call import ServerCall
from strata.testing import inspect
from strata.writebehind.fleet.broker import Broker
from tests import databases
from tests.behind import Errors, client, deferred, deferring_to_the_fleet, idle, paced, run
from tests.fleet import environment, workers
from tests.models import Note, Player
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until


class Lines:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, msg: str, **fields: Any) -> None:
        pass

    def info(self, msg: str, **fields: Any) -> None:
        self.all.append(("INFO", msg, fields))

    def warning(self, msg: str, **fields: Any) -> None:
        self.all.append(("WARNING", msg, fields))

    def error(self, msg: str, **fields: Any) -> None:
        self.all.append(("ERROR", msg, fields))

    def about(self, msg: str) -> list[dict[str, Any]]:
        return [fields for _, said, fields in self.all if said == msg]


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def cut(own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey) -> Iterator[MakeStore]:
    """Stores on servers that may be taken away."""
    with stores(own_postgres.dsn, own_valkey.addr) as factory:
        yield factory


@pytest.fixture
def apart(dsn: str, own_valkey: EmbeddedValkey) -> Iterator[MakeStore]:
    """Stores on a Redis that may be taken away."""
    with stores(dsn, own_valkey.addr) as factory:
        yield factory


def used(store: DataStore) -> DataStore:
    """A store with a synchronous and a deferred schema, whose tiers have all answered."""
    store.register(schema(Player))
    store.register(deferred())
    store.migrate()
    sure(store)
    store.set(Player, "p", Player("p", "one"))
    store.set(Note, 1, Note(1))
    store.flush_dirty(10)
    return store


def keep_calling(store: DataStore) -> Callable[[], None]:
    """Traffic in a thread; what is returned ends it."""
    ended = threading.Event()

    def run() -> None:
        number = 0
        while not ended.wait(0.005):
            number += 1
            for call in (
                lambda: store.get(Player, f"p{number % 50}", default=None),  # noqa: B023
                lambda: store.set(Player, "p", Player("p", "two")),
                lambda: store.set(Note, number % 500, Note(number % 500, "x")),  # noqa: B023
            ):
                try:
                    call()
                except UnavailableError:
                    pass

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()

    return end


# -- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "most", "again", "lasts"),
    [
        pytest.param(3, 20, 2.0, 0.4, id="in seconds"),
        pytest.param(6, 40, 60.0, 36.0, id="ten minutes", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
    ],
)
def test_servers_that_are_taken_away_again_and_again_are_a_story_of_few_lines(
    cut: MakeStore, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, lines: Lines,
    monkeypatch: pytest.MonkeyPatch, times: int, most: int, again: float, lasts: float,
) -> None:  # fmt: skip
    for module in (log_module, outages):
        monkeypatch.setattr(module, "AGAIN", again)
    errors = Errors()
    store = cut(logger=lines, write_behind_flush_interval=0.05)
    paced(store)
    store.register(schema(Player))
    store.register(deferred(hooks=errors.hooks()))
    store.migrate()
    sure(store)
    end = keep_calling(store)
    try:
        for turn in range(times):
            for server, name in ((own_valkey, "Redis"), (own_postgres, "PostgreSQL")):
                server.kill()
                gone, back = f"{name} cannot be used", f"{name} can be used again"
                wait_until(lambda gone=gone, turn=turn: len(lines.about(gone)) > turn, 30, gone)  # type: ignore[misc]
                time.sleep(lasts)  # how long the outage lasts
                server.restart()
                wait_until(lambda back=back, turn=turn: len(lines.about(back)) > turn, 30, back)  # type: ignore[misc]
                time.sleep(lasts / 4)
    finally:
        end()
    store.flush_dirty(30)
    assert len(lines.all) <= most, "\n".join(map(str, lines.all))
    turns = [(msg, fields["server"]) for _, msg, fields in lines.all if "be used" in msg]
    both = [
        ("Redis cannot be used", "cache"), ("Redis can be used again", "cache"),
        ("PostgreSQL cannot be used", "primary"), ("PostgreSQL can be used again", "primary"),
    ]  # fmt: skip
    assert turns == both * times
    for name, address in (("Redis", own_valkey.addr), ("PostgreSQL", f"{own_postgres.addr}/postgres")):
        for told in lines.about(f"{name} cannot be used"):
            assert told["address"] == address and told["cause"] and "deferred writes" in told["meanwhile"]
        assert all(told["seconds"] > 0 and told["calls"] > 0 for told in lines.about(f"{name} can be used again"))
    assert {level for level, msg, _ in lines.all if "cannot be used" in msg} == {"WARNING"}
    assert {level for level, msg, _ in lines.all if "used again" in msg} == {"INFO"}
    assert len(errors.calls) <= times  # no record was given up; one word an outage at most
    assert store.dead_letters.list() == []


def test_no_line_of_the_log_shows_a_password(lines: Lines) -> None:
    with EmbeddedValkey({"requirepass": "hunter2"}) as valkey:
        nowhere = f"postgres://postgres:swordfish@127.0.0.1:{free_port()}/shop"
        with stores(nowhere, f"redis://:sesame@{valkey.addr}/0") as factory:
            store = factory(logger=lines)
            store.register(schema(Player))

            def said() -> bool:
                with pytest.raises(UnavailableError):
                    store.get(Player, "q")
                return bool(lines.about("PostgreSQL cannot be used") and lines.about("Redis cannot be used"))

            wait_until(said)
    told = lines.about("Redis cannot be used")[0]
    assert told["cause"].startswith("WRONGPASS") and told["address"] == valkey.addr
    told = lines.about("PostgreSQL cannot be used")[0]
    assert told["cause"] == "connection refused" and told["address"] == nowhere.rpartition("@")[2]
    assert not any(secret in str(lines.all) for secret in ("hunter2", "sesame", "swordfish"))


def test_a_redis_that_is_out_of_memory_is_said_and_that_it_takes_writes_again(
    dsn: str, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(l2_client, "QUIET", 0.5)
    with EmbeddedValkey({"maxmemory-policy": "noeviction"}, password="") as valkey, stores(dsn, valkey.addr) as factory:
        store = factory(logger=lines)
        store.register(schema(Player))
        store.migrate()
        sure(store)
        inspect(store).redis.execute("CONFIG", "SET", "maxmemory", 1)

        def said() -> object:
            store.set(Player, "p", Player("p", "one"))
            return lines.about("Redis refuses calls")

        wait_until(said)
        assert lines.about("Redis refuses calls")[0]["cause"].startswith("OOM")
        found = store.health().l2
        assert found.state is TierState.DOWN and found.why.startswith("OOM")
        inspect(store).redis.execute("CONFIG", "SET", "maxmemory", 0)
        wait_until(lambda: lines.about("Redis refuses no calls any more"), timeout=30)
        assert store.health().l2.state is TierState.UP


def test_records_that_are_given_up_are_a_line_with_their_number_and_a_call_of_the_hook_each(
    apart: MakeStore, dsn: str, lines: Lines
) -> None:
    errors = Errors()
    store = apart(logger=lines, write_behind_flush_interval=0.05, write_behind_max_retry=1)
    paced(store)
    store.register(deferred(hooks=errors.hooks()))
    store.migrate()
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    for id in range(100):
        store.set(Note, id, Note(id, "poison"))
    wait_until(lambda: len(errors.calls) == 100, timeout=30, what="all hooks")
    store.close()
    told = lines.about("deferred writes were given up")
    assert sum(fields["count"] for fields in told) == 100 and len(told) <= 2  # the second: at close
    assert told[0]["sqlstate"] == "23514" and "dead-letters" in told[0]["advice"]


def test_a_bus_that_is_cut_off_while_redis_is_there_is_said(
    apart: MakeStore, own_valkey: EmbeddedValkey, lines: Lines
) -> None:
    store = used(apart(logger=lines))
    assert store.health().bus.state is TierState.UP
    bus = inspect(store).bus
    bus.outage._patience = 0.2
    server = inspect(store).redis
    server.execute("ACL", "SETUSER", "default", "-subscribe")
    subscription = bus._subscription
    assert subscription is not None
    subscription.hang_up()
    wait_until(lambda: lines.about("changes of other processes are not heard"))
    assert lines.about("changes of other processes are not heard")[0]["cause"].startswith("NOPERM")
    health = store.health()
    assert health.bus.state is TierState.DOWN and health.bus.why.startswith("NOPERM") and not health.ok
    server.execute("ACL", "SETUSER", "default", "+subscribe")
    wait_until(lambda: lines.about("changes of other processes are heard again"))
    assert store.health().bus.state is TierState.UP


def test_a_fleet_that_comes_and_goes_is_said(make: MakeStore, lines: Lines) -> None:
    store = make(logger=lines)
    paced(store, sweep=0.05, fleet=0.3)
    store.register(deferred())
    store.migrate()
    store.set(Note, 1, Note(1))
    wait_until(lambda: lines.about("no worker is seen"))
    assert store.health().workers_seen is False

    def beats() -> bool:
        inspect(store).workers.beat()
        return store.health().workers_seen is True

    wait_until(beats)
    wait_until(lambda: store.health().workers_seen is False)
    wait_until(lambda: ("WARNING", "no worker is seen") in [(level, msg) for level, msg, _ in lines.all])
    said = [(level, msg) for level, msg, _ in lines.all if "worker is seen" in msg]
    assert said[:3] == [("INFO", "no worker is seen"), ("INFO", "a worker is seen"), ("WARNING", "no worker is seen")]


def test_a_fleet_that_beats_again_before_it_counts_as_gone_is_no_news(
    make: MakeStore, redis_addr: str, lines: Lines
) -> None:
    store = make(logger=lines)
    paced(store, sweep=0.05, fleet=60.0)
    store.register(deferred())
    store.migrate()
    store.set(Note, 1, Note(1))
    for _ in range(2):  # as Redis is right after it was away
        wait_until(lambda: store.health().workers_seen is False)
        inspect(store).workers.beat()
        wait_until(lambda: store.health().workers_seen is True)
        client(redis_addr).delete("strata:{fleet}:alive")
    assert [msg for _, msg, _ in lines.all if "worker is seen" in msg] == []


def test_each_process_of_a_worker_says_once_that_a_server_went_and_that_it_is_back(
    cut: MakeStore, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    store = cut(write_behind_flush_interval=0.05)
    deferring_to_the_fleet(store)

    def write() -> None:
        for id in range(200):
            store.set(Note, id, Note(id, str(time.monotonic())))

    with workers(environment(own_postgres.dsn, own_valkey.addr), tmp_path) as worker:
        write()
        wait_until(lambda: store.stats().dirty_count == 0, timeout=40)
        own_postgres.kill()
        write()
        wait_until(lambda: "PostgreSQL cannot be used" in worker.log.read_text(), timeout=40)
        before = worker.log.read_text().count("strata.audit")
        Broker(store.config).publish("strata.audit", (), None)  # meets the outage: received, and ended
        wait_until(lambda: worker.log.read_text().count("strata.audit") >= before + 2, timeout=20)
        own_postgres.restart()
        wait_until(lambda: store.stats().dirty_count == 0, timeout=60)
        own_valkey.kill()
        # A child that met the end of it says that it is back when a task needs it next.
        wait_until(lambda: "/MainProcess] Redis cannot be used" in worker.log.read_text(), timeout=40)
        own_valkey.restart()
        wait_until(lambda: "/MainProcess] Redis can be used again" in worker.log.read_text(), timeout=40)
    said: dict[tuple[str, str], list[str]] = {}
    line = r"(?:INFO|WARNING)/(\w+(?:-\d+)?)\] (\w+) (cannot be used|can be used again)"
    for who, server, what in re.findall(line, worker.log.read_text()):
        said.setdefault((server, who), []).append(what)
    assert all(one != other for turns in said.values() for one, other in itertools.pairwise(turns))
    assert said["Redis", "MainProcess"][:2] == ["cannot be used", "can be used again"]
    children = {who for server, who in said if server == "PostgreSQL"}
    assert children and children <= {"ForkPoolWorker-1", "ForkPoolWorker-2"}
    for noise in ("Traceback", "DeprecationWarning", "Error on restarting"):
        assert noise not in worker.log.read_text()


def test_without_a_logger_of_the_user_s_the_standard_library_s_is_written_to(
    apart: MakeStore, own_valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    store = used(apart())
    own_valkey.kill()
    wait_until(lambda: any("Redis cannot be used" in message for message in caplog.messages))
    assert {record.name for record in caplog.records if "Redis" in record.message} == {"strata"}
    assert own_valkey.addr in "".join(caplog.messages)
    assert isinstance(inspect(store).log._logger, StandardLogger)


# -- health and stats -------------------------------------------------------------------------------------------------


def test_health_and_stats_ask_nobody_and_answer_while_every_server_is_frozen(
    cut: MakeStore, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    store = cut()
    paced(store)
    used(store)
    wait_until(lambda: store.stats().pending is not None, what="a look at the ledger")
    idle(store)  # from here on only this thread and the bus's could ask anything
    asked: list[ServerCall] = []
    inside = inspect(store)
    servers: list[RedisServer | Database] = [inside.redis, *inside.databases.values()]
    for server in servers:
        server.on_call = asked.append
    own_postgres.freeze()
    own_valkey.freeze()
    try:
        wait_until(lambda: store.health().l2.state is TierState.DOWN, what="the bus to find Redis frozen")
        asked.clear()
        found: list[Health | Stats] = []
        thread = threading.Thread(
            target=lambda: found.extend(item for _ in range(50) for item in (store.health(), store.stats()))
        )
        inside.bus.stop()
        asked.clear()
        thread.start()
        thread.join(30)
        assert len(found) == 100 and asked == []
        health, stats = store.health(), store.stats()
    finally:
        own_valkey.thaw()
        own_postgres.thaw()
    assert health.l2.why == "timed out" and health.l2.since is not None and not health.ok
    assert health.pending == stats.pending == 0 and (health.ledger_age or 0) > 0


def test_health_says_what_is_off_what_is_unknown_and_what_is_down_and_why(
    apart: MakeStore, own_valkey: EmbeddedValkey
) -> None:
    alone = DataStore(Config())
    alone.register(schema(Player, l2=None, l3=None))
    health = alone.health()
    assert (health.l1.state, health.l2.state, health.l3.state) == (TierState.UP, TierState.OFF, TierState.OFF)
    assert health.bus.state is health.ledger.state is TierState.OFF and health.ok
    assert (health.pending, health.dead_letters, health.workers_seen) == (0, 0, None)
    alone.close()
    store = apart()
    store.register(schema(Player))
    store.register(deferred())
    health = store.health()
    assert health.l2.state is health.l3.state is health.bus.state is None  # nothing was asked of them
    assert health.pending is health.oldest_pending is health.dead_letters is health.workers_seen is None
    store.migrate()
    sure(store)
    store.set(Player, "p", Player("p", "one"))
    store.set(Note, 1, Note(1))
    health = store.health()
    assert health.l2.state is health.l3.state is health.bus.state is TierState.UP
    assert (health.ledger.state, health.ledger.address) == (TierState.UP, health.l2.address), "one Redis has both"
    assert health.l2.address == own_valkey.addr and health.l3.age is not None and health.l3.since is None
    own_valkey.kill()
    wait_until(lambda: store.health().l2.state is store.health().bus.state is TierState.DOWN)
    assert store.health().ledger.state is TierState.DOWN
    first = store.health().l2
    assert first.why in ("connection refused", "the connection was cut")
    assert first.since is not None and first.since.tzinfo is not None
    store.set(Player, "p", Player("p", "two"))
    assert store.health().l2.since == first.since and store.health().l3.state is TierState.UP
    own_valkey.restart()
    wait_until(lambda: store.health().ok and store.health().bus.state is TierState.UP)
    assert store.health().l2.why == "" and store.health().l2.since is None
    store.close()
    with pytest.raises(ClosedError):
        store.health()


def test_a_ledger_of_its_own_and_a_replica_have_their_own_places(
    dsn: str, own_valkey: EmbeddedValkey, redis_addr: str
) -> None:
    with databases.fresh() as replica, stores(dsn, redis_addr) as factory:
        store = factory(ledger_addr=own_valkey.addr)
        store.register(deferred(l3=PostgresPolicy(read_replica=replica)))
        store.migrate()
        store.set(Note, 1, Note(1))
        store.flush_dirty(10)
        with pytest.raises(Exception, match="note"):
            store.search(Note)  # that table is not there: an answer all the same
        health = store.health()
        assert health.ledger.state is TierState.UP and health.ledger.address == own_valkey.addr
        assert [item.state for item in health.replicas] == [TierState.UP]
        assert health.replicas[0].address != health.l3.address
        own_valkey.kill()
        wait_until(lambda: store.health().ledger.state is TierState.DOWN)
        assert store.health().l2.state is TierState.UP
