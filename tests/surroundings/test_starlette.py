"""A store in applications of Starlette and FastAPI: open while they run, at hand in each request, and asked after."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import psycopg
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from strata import AsyncDataStore, ClosedError, Config, DataStore, FlushTimeoutError, InvalidConfigError, StrataError
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.integrations.starlette import health_routes, lifespan, strata_store
from tests.behind import deferred
from tests.models import Note

Store = Annotated[AsyncDataStore, Depends(strata_store)]
Open = Callable[[], AsyncDataStore]
NOWHERE = Config(postgres_dsn="postgresql://nobody@127.0.0.1:1/none", redis_addr="127.0.0.1:1")


@pytest.fixture
def open_store(dsn: str, redis_addr: str) -> Open:
    """Makes stores that hand off, by themselves, nothing."""
    config = Config(postgres_dsn=dsn, redis_addr=redis_addr, write_behind_flush_interval=600)
    return lambda: with_notes(config)


def with_notes(config: Config) -> AsyncDataStore:
    store = AsyncDataStore(config)
    store.register(deferred(name="notes"))
    return store


def writing(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.put("/notes/{id}")
    async def put(id: int, store: Store) -> None:
        await store.set(Note, id, Note(id, "a note"))

    @app.get("/notes/{id}")
    async def get(id: int, store: Store) -> Note:
        return await store.get(Note, id)

    return app


def ids(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("SELECT id FROM notes ORDER BY id")]


def test_what_was_written_behind_is_in_postgres_when_the_application_has_ended_however_often_it_starts(
    open_store: Open, dsn: str
) -> None:
    app = writing(lifespan=lifespan(open_store, migrate=True))
    stores = []
    for number in range(2):
        with TestClient(app) as client:
            stores.append(app.state.strata)
            assert client.put(f"/notes/{number}").status_code == 200
            assert client.get("/notes/0").json()["text"] == "a note"
            assert ids(dsn) == list(range(number))
        assert ids(dsn) == list(range(number + 1))
    assert stores[0] is not stores[1]


def test_an_application_enters_it_in_a_lifespan_of_its_own(open_store: Open, dsn: str) -> None:
    told: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(open_store, migrate=True)(app):
            store: AsyncDataStore = app.state.strata
            await store.set(Note, 1, Note(1, "from the start"))
            yield
            await store.set(Note, 2, Note(2, "from the end"))
            told.append("ended")

    with TestClient(writing(lifespan=own)) as client:
        assert client.get("/notes/1").json()["text"] == "from the start"
    assert (told, ids(dsn)) == (["ended"], [1, 2])


def test_it_starts_and_connects_nothing_by_itself() -> None:
    threads = set(threading.enumerate())
    made: list[set[threading.Thread]] = []

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[None]:
        async with lifespan(lambda: with_notes(NOWHERE))(app):
            made.append(set(threading.enumerate()))
            yield

    with TestClient(Starlette(lifespan=own)):
        assert [thread for thread in made[0] - threads if thread.name.startswith("strata")] == []


def test_a_store_whose_migration_fails_is_closed_and_the_application_does_not_start() -> None:
    app = Starlette(lifespan=lifespan(lambda: with_notes(NOWHERE), migrate=True))
    with pytest.raises(StrataError), TestClient(app):
        pass
    with pytest.raises(ClosedError):
        app.state.strata.health()


@pytest.mark.parametrize("kind", [AsyncDataStore, DataStore])
def test_a_store_that_was_made_before_serves_one_start(kind: Any) -> None:
    store = kind(Config())
    app = Starlette(lifespan=lifespan(store), routes=health_routes())
    with TestClient(app) as client:
        assert client.get("/readyz").status_code == 200
    with pytest.raises(ClosedError), TestClient(app):
        pass


@pytest.mark.parametrize("wrong", [None, "shop:store", lambda: None])
def test_what_is_no_store_is_refused_at_the_start(wrong: Any) -> None:
    with pytest.raises(InvalidConfigError, match="AsyncDataStore"), TestClient(Starlette(lifespan=lifespan(wrong))):
        pass


@pytest.mark.faults
def test_the_end_waits_no_longer_than_it_may_and_says_what_is_lost(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    config = Config(postgres_dsn=own_postgres.dsn, redis_addr=own_valkey.addr, write_behind_flush_interval=600)
    app = writing(lifespan=lifespan(lambda: with_notes(config), migrate=True, timeout=0.5))
    with pytest.raises(FlushTimeoutError), TestClient(app) as client:
        assert client.put("/notes/1").status_code == 200
        own_postgres.kill()
        own_valkey.kill()
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_starlette_s_endpoints_and_websockets_have_the_store(open_store: Open) -> None:
    async def name(request: Request) -> JSONResponse:
        return JSONResponse(repr(await strata_store(request)))

    app = FastAPI(lifespan=lifespan(open_store), routes=[Route("/name", name)])

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, store: Store) -> None:
        await websocket.accept()
        await websocket.send_text(repr(store))
        await websocket.close()

    with TestClient(app) as client, client.websocket_connect("/socket") as connected:
        assert connected.receive_text() == client.get("/name").json() == repr(app.state.strata)


def test_a_mounted_application_that_shares_the_state_has_the_store(open_store: Open) -> None:
    app, inner = FastAPI(lifespan=lifespan(open_store, migrate=True)), writing()
    app.mount("/inner", inner)
    inner.state = app.state
    with TestClient(app) as client:
        assert client.put("/inner/notes/1").status_code == 200


def test_a_request_of_an_application_without_a_store_says_what_is_missing() -> None:
    with pytest.raises(InvalidConfigError, match="lifespan"):
        TestClient(writing()).get("/notes/1")


@pytest.mark.parametrize(
    ("kind", "prefix"), [(Starlette, ""), (FastAPI, ""), (Starlette, "/health"), (FastAPI, "/health")]
)
def test_the_health_routes_answer_in_either_framework_and_below_any_path(
    open_store: Open, kind: type[Starlette], prefix: str
) -> None:
    routes = health_routes()
    app = kind(lifespan=lifespan(open_store), routes=[Mount(prefix, routes=routes)] if prefix else routes)
    with TestClient(app) as client:
        assert client.get(f"{prefix}/livez").json() == {"status": "up"}
        ready = client.get(f"{prefix}/readyz")
        assert (ready.status_code, ready.json()["status"], ready.json()["dirty"]) == (200, "up", 0)
    client = TestClient(app)
    assert client.get(f"{prefix}/livez").status_code == 200
    ended = client.get(f"{prefix}/readyz")
    assert (ended.status_code, ended.json()) == (503, {"status": "down"})
