"""`python -m tests.asyncio_app PORT`: a FastAPI application over the asynchronous face, on uvicorn and uvloop."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException

from strata import AsyncCollection, AsyncDataStore, Config, L2PoolConfig, L3PoolConfig, UnavailableError
from tests.models import Note
from tests.stores import schema

L2 = L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5)
L3 = L3PoolConfig(connect_timeout=2, statement_timeout=2, acquire_timeout=2, lock_timeout=2)

store = AsyncDataStore(Config.from_env(l2_pool=L2, l3_pool=L3))
notes: AsyncCollection[Note, int] = store.register(schema(Note, name="notes"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await store.migrate()
    async with store:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def root() -> str:
    """That the loop runs."""
    return "here"


@app.get("/notes/{id}")
async def get(id: int, past_l1: bool = False) -> str:
    """Its text."""
    try:
        note = await notes.get(id, default=None, force_l2=past_l1)
    except UnavailableError as error:
        raise HTTPException(503, str(error)) from error
    if note is None:
        raise HTTPException(404)
    return note.text


@app.put("/notes/{id}")
async def put(id: int, text: str) -> None:
    """Store it."""
    try:
        await notes.set(id, Note(id, text))
    except UnavailableError as error:
        raise HTTPException(503, str(error)) from error


if __name__ == "__main__":
    # A connection that is closed for being idle would look as a fault to whoever asks just then.
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", log_level="warning", timeout_keep_alive=600)
