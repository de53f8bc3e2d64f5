"""The example for FastAPI, asked as people ask it: over HTTP, in processes of its own, with a worker of the fleet."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import psycopg
import pytest

from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from tests import databases
from tests.behind import client
from tests.fleet import ROOT, environment, workers
from tests.served import GUNICORN, UVICORN, Served, served
from tests.support import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.in_turn]

EXAMPLE = ROOT / "examples" / "fastapi"
APP = "blog:app"
SERVERS = {
    "asyncio": (*UVICORN, "--loop", "asyncio", APP),
    "uvloop": (*UVICORN, "--loop", "uvloop", APP),
    "two processes": (*UVICORN, "--workers", "2", APP),
    "gunicorn": (*GUNICORN, "--workers", "2", APP),
}
SELDOM = {"two processes": pytest.mark.in_turn, "gunicorn": pytest.mark.long, "asyncio": pytest.mark.long}
CLIENTS = 20


def surroundings(dsn: str, redis_addr: str) -> dict[str, str]:
    path = f"{EXAMPLE}{os.pathsep}{ROOT}"
    return environment(dsn, redis_addr, STRATA_APP="blog:open_store", PYTHONPATH=path)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a process of the example, of whose fleet one worker is there."""
    with databases.fresh() as dsn, EmbeddedValkey(password="") as valkey:
        made = surroundings(dsn, valkey.addr)
        with workers(made, tmp_path_factory.mktemp("fleet")):
            yield made


@dataclass
class Crowd:
    """What clients were answered that read articles, one request after another, until nobody answers any more."""

    articles: list[str]
    seen: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)  # sent, and not answered

    async def read(self, http: httpx.AsyncClient, article: str) -> None:
        while True:
            try:
                answer = await http.get(f"/articles/{article}")
            except httpx.ConnectError:
                return
            except httpx.TransportError:
                self.unknown[article] += 1
                return
            assert answer.status_code == 200, answer.text
            self.seen[article] += 1

    async def until_stopped(self, server: Served, least: int) -> None:
        """So many at least are answered before the server is asked to stop, and more until it has."""
        enough = self.seen.total() + least
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=30, limits=limits) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for article in self.articles * (CLIENTS // len(self.articles)):
                tasks.create_task(self.read(http, article))
            while self.seen.total() < enough:
                await asyncio.sleep(0.01)
            server.ask_to_stop()


def counted(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as conn:
        return dict(conn.execute("SELECT article, count FROM views").fetchall())


def pending(env: dict[str, str]) -> int:
    """Of what is written behind, in the ledger."""
    redis = client(env["STRATA_REDIS_ADDR"])
    return sum(redis.hlen(key) for key in redis.keys("strata:{views:*}:dirty"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=SELDOM.get(name, ())) for name in SERVERS])
def test_every_view_that_was_answered_is_counted_once_whenever_the_server_is_stopped(
    env: dict[str, str], name: str
) -> None:
    crowd = Crowd([f"{name} {number}" for number in range(4)])
    for _ in range(2):
        with served(SERVERS[name], env, EXAMPLE) as server:
            for article in crowd.articles:
                httpx.post(f"{server.url}/articles", json={"id": article, "title": "a title"})
            asyncio.run(crowd.until_stopped(server, least=300))
            server.process.wait(40)
        wait_until(lambda: not pending(env), what="the worker")
        rows = counted(env["STRATA_POSTGRES_DSN"])
        for article in crowd.articles:
            surely = crowd.seen[article]
            assert surely <= rows[article] <= surely + crowd.unknown[article]


def test_an_article_is_made_read_changed_and_removed(env: dict[str, str]) -> None:
    with served(SERVERS["uvloop"], env, EXAMPLE) as server, httpx.Client(base_url=server.url) as http:
        article = {"id": "lamp", "title": "A lamp", "text": ""}
        made = http.post("/articles", json=article)
        assert (made.status_code, made.json()) == (201, article)
        assert http.post("/articles", json=article).status_code == 409
        assert [http.get("/articles/lamp").json() for _ in range(3)] == [article] * 3
        assert http.get("/articles/lamp/views").json() == {"article": "lamp", "count": 3}
        wait_until(lambda: counted(env["STRATA_POSTGRES_DSN"]).get("lamp") == 3, what="the worker")
        changed = http.patch("/articles/lamp", params={"title": "A small lamp"})
        assert changed.json() == http.get("/articles/lamp").json() == article | {"title": "A small lamp"}
        assert http.delete("/articles/lamp").status_code == 204
        assert http.get("/articles/lamp").json() == {"detail": "Not Found"}
        assert http.patch("/articles/lamp", params={"title": "none"}).status_code == 404
        assert "strata_l3_seconds_count" in http.get("/metrics/").text


def test_without_postgres_what_is_cached_is_served_and_counted_and_the_rest_is_unavailable(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    env = surroundings(own_postgres.dsn, own_valkey.addr)
    with served(SERVERS["uvloop"], env, EXAMPLE) as server, httpx.Client(base_url=server.url) as http:
        for article in ("lamp", "chair"):
            assert http.post("/articles", json={"id": article, "title": article}).status_code == 201
            assert http.get(f"/articles/{article}").status_code == 200
        own_postgres.kill()
        assert http.get("/articles/lamp").json()["title"] == "lamp"
        assert http.get("/articles/none").status_code == 503
        wait_until(lambda: http.get("/readyz").json()["status"] == "degraded", what="the look at PostgreSQL")
        assert http.get("/readyz").status_code == 200
        own_postgres.restart()
        wait_until(lambda: http.get("/articles/none").status_code == 404, what="PostgreSQL")
        server.stop()
        assert counted(own_postgres.dsn) == {"lamp": 2, "chair": 1}


def test_a_server_that_nothing_answers_is_alive_but_not_ready(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    env = surroundings(own_postgres.dsn, own_valkey.addr)
    with served(SERVERS["uvloop"], env, EXAMPLE) as server, httpx.Client(base_url=server.url) as http:
        own_postgres.kill()
        own_valkey.kill()
        wait_until(lambda: http.get("/articles/none") and http.get("/readyz").status_code == 503, what="the outage")
        assert http.get("/readyz").json()["status"] == "down"
        assert http.get("/livez").status_code == 200
