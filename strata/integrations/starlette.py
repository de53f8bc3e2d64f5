"""For Starlette, and FastAPI, which is one (extra `starlette`): a lifespan, a dependency, health routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from strata.aio.store import AsyncDataStore
from strata.datastore import DataStore
from strata.durations import Duration
from strata.errors import InvalidConfigError, shown
from strata.exports import export
from strata.integrations.probes import report

__all__ = ["health_routes", "lifespan", "strata_store"]

Store = AsyncDataStore | DataStore


def lifespan(
    store: Store | Callable[[], Store], *, migrate: bool = False, timeout: Duration = 5
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A store is open while the application runs, as `app.state.strata`.

    `store` is a function that makes one, called at each start; or a store, for an application that starts once, since
    what was closed is not used again. `migrate` has PostgreSQL brought to its schemas before the first request. At the
    end, when the last request was answered, what is written behind is flushed, for `timeout` seconds at most.

    Entered, it raises `InvalidConfigError` for what is no store, `ClosedError` for one that was closed, and what
    `migrate` does; left, `FlushTimeoutError` as `close` does.

    >>> from fastapi import FastAPI
    >>> app = FastAPI(lifespan=lifespan(lambda: AsyncDataStore(Config.from_env()), migrate=True))
    """

    @asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        opened = app.state.strata = _opened(store)
        try:
            if migrate:
                await opened.migrate()
            yield
        finally:
            await opened.close(timeout)

    return running


async def strata_store(connection: HTTPConnection) -> AsyncDataStore:
    """The store of the application that was asked, by a request or a websocket.

    Raises `InvalidConfigError` where that has none.

    >>> Store = Annotated[AsyncDataStore, Depends(strata_store)]
    """
    store: AsyncDataStore | None = getattr(connection.app.state, "strata", None)
    if store is None:
        raise InvalidConfigError("the application has no store; give it a lifespan of strata.integrations.starlette")
    return store


def health_routes() -> list[BaseRoute]:
    """`/livez`, which says that the event loop runs; and `/readyz`, which has the status 503 where nothing can be
    served, and tells what is known of the tiers. Neither asks a server.

    >>> from fastapi import FastAPI
    >>> app = FastAPI(routes=health_routes())
    """
    return [Route("/livez", _live), Route("/readyz", _ready)]


async def _live(request: Request) -> JSONResponse:
    return JSONResponse({"status": "up"})


async def _ready(request: Request) -> JSONResponse:
    store = await strata_store(request)
    found = report(store.sync)
    return JSONResponse(found.body, found.http_status)


def _opened(store: Store | Callable[[], Store]) -> AsyncDataStore:
    made = store() if callable(store) else store
    if not isinstance(made, Store):
        raise InvalidConfigError(f"the store is {shown(made)}; it must be an AsyncDataStore, a DataStore, or make one")
    made.health()  # raises ClosedError
    return made.aio if isinstance(made, DataStore) else made


__dir__ = export(globals())
