"""A Redis that answers, and still cannot be told: a replica, a full memory or disk, no replicas, scripts that are
forgotten, a bus that is deaf. Whoever reads is right, or knows that it is unsure; and it heals by itself."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from strata import Collection, DataStore, L2PoolConfig, WriteMode
from strata.embedded.process import free_port
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until
from tests.surroundings.installed import folder
from tests.surroundings.redis_server import Server, redis_server
from tests.surroundings.test_redis_users import Log
from tests.tls import certificate

SHORT = L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5)
State = Callable[[Server], Callable[[], object]]


def replica(server: Server) -> Callable[[], object]:
    server.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: server.admin.execute_command("REPLICAOF", "NO", "ONE")


def full_memory(server: Server) -> Callable[[], object]:
    server.admin.config_set("maxmemory", 1)
    return lambda: server.admin.config_set("maxmemory", 0)


def no_replicas(server: Server) -> Callable[[], object]:
    server.admin.config_set("min-replicas-to-write", 1)
    return lambda: server.admin.config_set("min-replicas-to-write", 0)


def full_disk(server: Server) -> Callable[[], object]:
    """It cannot write its file where its folder is gone, and says so to every write from then on."""
    server.admin.config_set("save", "3600 1")
    shutil.rmtree(server.place)
    server.admin.bgsave()
    wait_until(lambda: server.admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    return lambda: server.admin.config_set("save", "")


def deaf(server: Server) -> Callable[[], object]:
    """Every subscriber is cut off, as those are that read too slowly; nobody may subscribe meanwhile."""
    server.grant("default", "-subscribe")
    server.admin.client_kill_filter(_type="pubsub", skipme=True)
    return lambda: server.grant("default", "+subscribe")


def slow_readers(server: Server) -> Callable[[], object]:
    """The next message to a subscriber is more than it may be behind."""
    before = server.admin.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    server.admin.config_set("client-output-buffer-limit", "pubsub 1 1 0")
    return lambda: server.admin.config_set("client-output-buffer-limit", before)


STATES: dict[str, State] = {
    "a replica": replica,
    "full memory": full_memory,
    "no replicas": no_replicas,
    "full disk": full_disk,
    "a deaf bus": deaf,
    "subscribers cut off": slow_readers,
}
MODES = {mode.name.lower(): mode for mode in (WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND)}


@pytest.fixture
def server() -> Iterator[Server]:
    with redis_server("maxmemory-policy noeviction") as running:
        yield running


@pytest.fixture
def make(dsn: str, server: Server) -> Iterator[MakeStore]:
    with stores(dsn, server.addr) as factory:
        yield lambda **options: factory(**{"l2_pool": SHORT, **options})


def registered(store: DataStore, **options: object) -> Collection[Note]:
    made = store.register(schema(Note, name="notes", **options))
    store.migrate()
    sure(store)
    return made


def text(notes: Collection[Note], id: int = 1) -> str:
    return notes.get(id).text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("state", STATES)
def test_what_is_written_meanwhile_is_read_and_afterwards_all_is_well(
    make: MakeStore, server: Server, state: str, mode: str
) -> None:
    writer, reader = make(broker_url="memory://"), make(broker_url="memory://")
    written, read = (registered(store, write_mode=MODES[mode]) for store in (writer, reader))
    written.set(1, Note(1, "old"))
    writer.flush_dirty()
    wait_until(lambda: text(read) == "old")
    end = STATES[state](server)
    for turn in range(3):
        written.set(1, Note(1, f"turn {turn}"))
        assert text(written) == f"turn {turn}"
        writer.flush_dirty()
        wait_until(lambda turn=turn: text(read) == f"turn {turn}", timeout=6)  # type: ignore[misc]
    end()
    sure(writer)
    sure(reader)
    assert text(read) == "turn 2" and text(written) == "turn 2"
    written.set(2, Note(2, "well"))
    writer.flush_dirty()
    hits = reader.stats().l2_hits
    wait_until(lambda: read.get(2, force_l2=True).text == "well" and reader.stats().l2_hits > hits, what="L2")


@pytest.mark.parametrize("state", ["a replica", "no replicas", "full disk"])
def test_that_nothing_can_be_told_is_said(make: MakeStore, server: Server, state: str) -> None:
    log = Log()
    registered(make(logger=log))
    STATES[state](server)
    words = {"a replica": "READONLY", "no replicas": "NOREPLICAS", "full disk": "MISCONF"}
    wait_until(lambda: log.says(words[state]) and log.says(server.addr))


def test_scripts_that_are_forgotten_all_the_time_cost_nothing_but_time(make: MakeStore, server: Server) -> None:
    writer, reader = make(), make()
    written, read = registered(writer), registered(reader)
    ended = threading.Event()

    def forget() -> None:
        with redis.Redis(port=server.port) as client:
            while not ended.is_set():
                client.script_flush()

    thread = threading.Thread(target=forget)
    thread.start()
    try:
        for turn in range(100):
            written.set(1, Note(1, f"turn {turn}"))
            wait_until(lambda turn=turn: text(read) == f"turn {turn}")  # type: ignore[misc]
    finally:
        ended.set()
        thread.join()
    assert writer.stats().l2_skips == reader.stats().l2_skips == 0
    assert writer.stats().bus_resets == 1


@pytest.mark.parametrize("command", ["EVALSHA", "PUBLISH", "SUBSCRIBE", "GETEX"])
def test_a_server_that_has_renamed_a_command_is_said_to_and_reads_are_right(dsn: str, command: str) -> None:
    with redis_server(f'rename-command {command} ""') as server, stores(dsn, server.addr) as make:
        log = Log()
        writer, reader = make(logger=log), make(logger=log)
        written, read = (store.register(schema(Note, name="notes")) for store in (writer, reader))
        writer.migrate()
        for turn in range(3):
            written.set(1, Note(1, f"turn {turn}"))
            wait_until(lambda turn=turn: text(read) == f"turn {turn}", timeout=6)  # type: ignore[misc]
        wait_until(lambda: log.says("lacks a command") and log.says(server.addr))


def test_a_server_that_demands_tls_is_said_to_and_so_is_one_that_has_none(dsn: str, tmp_path: Path) -> None:
    port, files = free_port(), {}
    for name, file in zip(("tls-cert-file", "tls-key-file"), certificate(tmp_path), strict=True):
        files[name] = file.read_text()
    with folder("certificates") as place, ExitStack() as stack:
        for name, content in files.items():
            (place / name).write_text(content)
            (place / name).chmod(0o644)
        tls = [f"{name} {place / name}" for name in files]
        more = [f"tls-port {port}", "tls-auth-clients no", f"tls-ca-cert-file {place / 'tls-cert-file'}"]
        server = stack.enter_context(redis_server(*tls, *more))
        make = stack.enter_context(stores(dsn, server.addr))
        for number, addr in enumerate(
            (f"redis://127.0.0.1:{port}", f"rediss://{server.addr}", f"rediss://127.0.0.1:{port}")
        ):
            log = Log()
            store = make(redis_addr=addr, logger=log, l2_pool=SHORT)
            notes = store.register(schema(Note, name=f"notes{number}"))
            store.migrate()
            notes.set(1, Note(1, "in PostgreSQL"))
            assert text(notes) == "in PostgreSQL"
            wait_until(lambda log=log: log.says("rediss://"))  # type: ignore[misc]
