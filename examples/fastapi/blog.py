"""Articles in three tiers, and how often each was read, counted write-behind."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import strata
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import make_asgi_app
from strata import AsyncDataStore, Config, MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode
from strata.integrations.prometheus import PrometheusRecorder, all_processes
from strata.integrations.starlette import health_routes, lifespan, strata_store


@dataclass
class Article:
    id: Annotated[str, PrimaryKey]
    title: str
    text: str = ""


@dataclass
class Views:
    article: Annotated[str, PrimaryKey]
    count: int = 0


def open_store() -> AsyncDataStore:
    store = AsyncDataStore(Config.from_env(metrics=PrometheusRecorder()))
    l1, l2, l3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
    store.register(Schema(Article, name="articles", l1=l1, l2=l2, l3=l3))
    store.register(Schema(Views, name="views", l1=l1, l2=l2, l3=l3, write_mode=WriteMode.WRITE_BEHIND))
    return store


app = FastAPI(lifespan=lifespan(open_store, migrate=True), routes=health_routes())
app.mount("/metrics", make_asgi_app(all_processes()))
Store = Annotated[AsyncDataStore, Depends(strata_store)]


@app.post("/articles", status_code=201)
async def create(article: Article, store: Store) -> Article:
    return await store.insert(Article, article)


@app.get("/articles/{id}")
async def read(id: str, store: Store) -> Article:
    article = await store.get(Article, id)
    await store.increment(Views, id, count=1, default=Views(id))
    return article


@app.get("/articles/{id}/views")
async def views(id: str, store: Store) -> Views:
    return await store.get(Views, id, default=Views(id))


@app.patch("/articles/{id}")
async def update(id: str, title: str, store: Store) -> Article:
    return await store.update(Article, id, title=title)


@app.delete("/articles/{id}", status_code=204)
async def delete(id: str, store: Store) -> None:
    await store.delete(Article, id)
    await store.delete(Views, id)


STATUS = {strata.NotFoundError: 404, strata.AlreadyExistsError: 409, strata.UnavailableError: 503}


async def failed(request: Request, error: Exception) -> JSONResponse:
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return JSONResponse({"detail": HTTPStatus(status).phrase}, status)


for kind in STATUS:
    app.add_exception_handler(kind, failed)
