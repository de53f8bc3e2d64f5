"""One battery of operations over every combination of tiers and every kind of Redis that an address can name."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis.sentinel import Sentinel

from strata import L2PoolConfig, L2UnavailableError, WriteMode
from strata.embedded import EmbeddedCluster, EmbeddedSentinel, EmbeddedValkey
from strata.embedded.process import free_port
from strata.testing import Proxy, inspect
from strata.writebehind.fleet.broker import Broker
from tests import battery
from tests.databases import ThrowawayPostgres
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until
from tests.tls import certificate, serving

PASSWORD = "pass word/%"
SENTINELS = "sentinels' own"
WITH_L2 = [shape for shape in battery.SHAPES if "L2" in shape]
# What the settings of a store say; a Cluster carries no broker, which no test here rings.
KINDS = ["password", "cluster", "cluster client", "sentinel", "sentinel client", "tls", "tls client"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(password=PASSWORD) as servers:
        yield servers


@pytest.fixture(scope="module")
def sentinel() -> Iterator[EmbeddedSentinel]:
    with EmbeddedSentinel(password=PASSWORD, sentinel_password=SENTINELS) as servers:
        yield servers


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def tls(guarded: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Path]]:
    cert, key = certificate(tmp_path_factory.mktemp("tls"))
    with Proxy(guarded.addr, tls=serving(cert, key)) as proxy:
        yield proxy, cert


@pytest.fixture
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of a store on the kind of Redis that the test is for; the Redis is empty."""
    kind: str = request.param
    if kind.startswith("cluster"):
        cluster = request.getfixturevalue("cluster")
        with redis.RedisCluster.from_url(cluster.url.replace("redis+cluster", "redis").split(",")[0]) as client:
            client.flushall(target_nodes="primaries")
        if kind == "cluster":
            return {"redis_addr": cluster.url}
        first = cluster.nodes[0]
        return {
            "redis_addr": "",
            "redis_client": redis.RedisCluster(port=first.port, host="127.0.0.1", password=PASSWORD),
        }
    if kind.startswith("sentinel"):
        sentinel = request.getfixturevalue("sentinel")
        _flush(sentinel.master())
        if kind == "sentinel":
            return {"redis_addr": sentinel.url}
        places = [("127.0.0.1", server.port) for server in sentinel.sentinels]
        manager: Any = Sentinel(places, sentinel_kwargs={"password": SENTINELS})  # type: ignore[no-untyped-call]
        return {"redis_addr": "", "redis_client": manager.master_for("main", password=PASSWORD)}
    server = request.getfixturevalue("guarded")
    _flush(server)
    if kind == "password":
        return {"redis_addr": server.addr, "redis_password": PASSWORD}
    proxy, cert = request.getfixturevalue("tls")
    if kind == "tls":
        return {"redis_addr": f"rediss://{proxy.addr}/0?ssl_ca_certs={cert}", "redis_password": PASSWORD}
    client = redis.Redis(host="127.0.0.1", port=proxy.port, password=PASSWORD, ssl=True, ssl_ca_certs=str(cert))
    return {"redis_addr": "", "redis_client": client}


def _flush(server: EmbeddedValkey) -> None:
    with redis.Redis(port=server.port, password=PASSWORD) as client:
        client.flushall()


@pytest.fixture
def make(dsn: str) -> Iterator[MakeStore]:
    with stores(dsn, "") as factory:
        yield factory


@pytest.mark.parametrize("shape", battery.SHAPES)
def test_every_combination_of_tiers(make: MakeStore, redis_addr: str, shape: str) -> None:
    battery.run(make(redis_addr=redis_addr), shape)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        # Where it is asked for, each shape on each kind; else the whole one, and L2 alone, whose scripts are others.
        pytest.param(kind, shape, marks=() if shape in ("L1+L2+L3", "L2") else pytest.mark.long)
        for kind in KINDS
        for shape in WITH_L2
    ],
    indirect=["options"],
)
def test_every_kind_of_redis(make: MakeStore, options: dict[str, Any], shape: str) -> None:
    battery.run(make(**options), shape)


@pytest.mark.parametrize("options", KINDS, indirect=True)
def test_write_behind_with_the_ledger_on_a_redis_of_its_own(
    make: MakeStore, options: dict[str, Any], redis_addr: str
) -> None:
    own = (
        {"ledger_addr": redis_addr, "broker_url": f"redis://{redis_addr}"} if not options.get("redis_password") else {}
    )
    store = make(**options, **own)
    battery.run(store, "L1+L2+L3", WriteMode.WRITE_BEHIND)
    assert store.stats().dirty_count == 0
    assert store.dead_letters.list() == []


@pytest.mark.parametrize("options", ["cluster", "cluster client"], indirect=True)
def test_write_behind_with_the_ledger_in_the_cluster(make: MakeStore, options: dict[str, Any], redis_addr: str) -> None:
    store = make(**options, broker_url=f"redis://{redis_addr}")
    battery.run(store, "L1+L2+L3", WriteMode.WRITE_BEHIND)
    assert store.stats().dirty_count == 0


@pytest.mark.parametrize("options", ["cluster"], indirect=True)
def test_a_key_is_followed_to_the_node_that_is_being_given_it_and_then_has_it(
    make: MakeStore, options: dict[str, Any], cluster: EmbeddedCluster
) -> None:
    store = make(**options)
    notes = store.register(schema(Note, name="notes", l3=None, l1=None))
    notes.set_many({id: Note(id, "first") for id in range(40)})
    name = inspect(store).schemas["notes"].l2.key("7")  # type: ignore[union-attr]
    source, slot = cluster.owner_of(name), key_slot(name.encode())
    target = next(node for node in cluster.nodes[:3] if node is not source)
    with cluster.client(source) as giving, cluster.client(target) as taking:
        ids = [client.execute_command("CLUSTER", "MYID") for client in (giving, taking)]
        taking.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        giving.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        giving.delete(name)  # so that the node sends on whoever asks
        notes.set(7, Note(7, "second"))
        assert taking.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        assert notes.get(7).text == "second"
        for client in (taking, giving):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    found = notes.get_many(list(range(40)))
    assert [found[id].text for id in range(40)] == ["second" if id == 7 else "first" for id in range(40)]
    assert inspect(store).redis.breaker.closed


def test_a_node_that_stands_still_keeps_few_waiting_and_none_of_the_others(make: MakeStore) -> None:
    with EmbeddedCluster(replicas=0, options={"cluster-require-full-coverage": "no"}) as nodes:
        store = make(redis_addr=nodes.url, l2_pool=L2PoolConfig(dial_timeout=0.5, read_timeout=0.5))
        notes = store.register(schema(Note, name="notes", l1=None, l3=None))
        notes.set_many({id: Note(id, "there") for id in range(60)})
        l2 = inspect(store).schemas["notes"].l2
        assert l2 is not None
        frozen = nodes.owner_of(l2.key("0"))
        homes = {id: nodes.owner_of(l2.key(str(id))) for id in range(60)}
        frozen.freeze()
        waited = 0
        try:
            for id, home in homes.items():
                try:
                    assert notes.get(id).text == "there" and home is not frozen
                except L2UnavailableError as error:  # also of others, where several in a row were the frozen node's
                    waited += isinstance(error.__cause__, TimeoutError)
        finally:
            frozen.thaw()
        assert 1 <= waited <= 5 and list(homes.values()).count(frozen) > 10
        wait_until(lambda: _all_there(notes), what="all records to be read again")


def _all_there(notes: Any) -> bool:
    try:
        return len(notes.get_many(list(range(60)))) == 60
    except L2UnavailableError:
        return False


@pytest.mark.parametrize("options", ["cluster"], indirect=True)
def test_an_event_loop_waits_for_the_nodes_of_a_cluster_itself(
    make: MakeStore, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(**options)
    notes = store.aio.register(schema(Note, name="notes", l1=None))
    store.migrate()

    async def use() -> None:
        async with asyncio.TaskGroup() as tasks:
            for id in range(60):
                tasks.create_task(notes.set(id, Note(id, "text")))
        found = await asyncio.gather(*(notes.get(id) for id in range(60)), notes.get_many(list(range(60))))
        assert {note.text for note in found[:60]} == {"text"}

    async def use_twice() -> None:
        await use()  # each connection is made by a thread
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda thread: pytest.fail(f"{thread} was started"))
            await use()

    sure(store)
    asyncio.run(use_twice())
    assert store.stats().l2_hits == 240


@pytest.mark.parametrize("options", ["password", "sentinel", "tls"], indirect=True)
def test_the_fleet_is_rung_through_the_same_redis(make: MakeStore, options: dict[str, Any]) -> None:
    store = make(**options)
    Broker(store.config).publish("strata.persist", ("notes", 1), "an id")
    assert inspect(store).ledger_redis.execute("LLEN", "strata:{celery}:strata.persist") == 1


def test_postgres_16_does_all_that_18_does(redis_addr: str) -> None:
    with ThrowawayPostgres(16) as old:
        for shape, mode in (("L1+L2+L3", WriteMode.WRITE_THROUGH), ("L1+L2+L3", WriteMode.WRITE_BEHIND), ("L3", None)):
            dsn = old.create_database(f"battery_{shape}_{mode}".lower().replace("+", "_").replace(".", "_"))
            with stores(dsn, redis_addr) as make:
                battery.run(make(), shape, mode or WriteMode.WRITE_THROUGH)
            redis.Redis.from_url(f"redis://{redis_addr}").flushall()


def test_a_certificate_of_somebody_else_is_refused(tls: tuple[Proxy, Path], make: MakeStore, tmp_path: Path) -> None:
    other, _ = certificate(tmp_path)
    store = make(redis_addr=f"rediss://{tls[0].addr}/0?ssl_ca_certs={other}", redis_password=PASSWORD)
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set(1, Note(1, "in L3"))
    assert notes.get(1).text == "in L3"
    assert store.stats().l2_hits == 0


def test_a_redis_that_speaks_tls_itself(make: MakeStore, tmp_path: Path) -> None:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("no redis-server or valkey-server that speaks TLS is installed; only the proxy's TLS was tested")
    cert, key = certificate(tmp_path)
    port = free_port()
    files = {"tls-cert-file": str(cert), "tls-key-file": str(key), "tls-ca-cert-file": str(cert)}
    with _Installed(Path(binary), {"tls-port": str(port), "tls-auth-clients": "no", **files}, password=PASSWORD):
        battery.run(
            make(redis_addr=f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}", redis_password=PASSWORD), "L1+L2+L3"
        )


class _Installed(EmbeddedValkey):
    """A server that is no wheel's."""

    def __init__(self, binary: Path, options: dict[str, str], *, password: str) -> None:
        super().__init__(options, password=password)
        self._installed = binary

    def _prepare(self) -> None:
        self._binary = self._installed
