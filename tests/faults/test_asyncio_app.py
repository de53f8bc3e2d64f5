"""An application of FastAPI over the asynchronous face, while its servers freeze and restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.served import served

pytestmark = [pytest.mark.faults, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
CLIENTS = 200
PATIENCE = 30.0  # seconds: more than the time-outs of all that a request may wait for
PAUSE = 0.5  # seconds between what a client asks: all are to be served, not as fast as can be


@pytest.fixture
def address(own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey) -> Iterator[str]:
    """Where the application listens."""
    env = os.environ | {"STRATA_POSTGRES_DSN": own_postgres.dsn, "STRATA_REDIS_ADDR": own_valkey.addr}
    with served(("-m", "tests.asyncio_app", "{port}"), env, ROOT, live="/") as server:
        yield server.url


@dataclass
class Client:
    """Counts up in a note of its own, and reads it, and others'."""

    http: httpx.AsyncClient
    id: int
    said: int = 0  # what was asked to be stored
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)
    answered: int = 0

    async def ask(self) -> None:
        self.said += 1
        answer = await self.http.put(f"/notes/{self.id}", params={"text": str(self.said)})
        if self._taken(answer):
            self.acknowledged = self.said
        await self._read(self.id, self.acknowledged)
        await self._read(self.id, self.acknowledged, past_l1=True)
        await self._read((self.id + 7) % CLIENTS, 0)

    async def _read(self, id: int, least: int, *, past_l1: bool = False) -> None:
        answer = await self.http.get(f"/notes/{id}", params={"past_l1": past_l1})
        if answer.status_code == 404 and not least:
            self.answered += 1
        elif self._taken(answer) and int(answer.json()) < least:
            self.wrong.append(f"{answer.json()} of {id}, of which {least} was acknowledged")

    def _taken(self, answer: httpx.Response) -> bool:
        if answer.status_code not in (200, 503):
            self.wrong.append(f"{answer.status_code}: {answer.text}")
        self.answered += answer.status_code == 200
        return answer.status_code == 200


def test_two_hundred_clients_are_served_while_redis_is_frozen_and_postgres_restarts(
    address: str, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    clients = asyncio.run(_serve(address, own_postgres, own_valkey))
    assert [client.wrong for client in clients if client.wrong] == []
    assert all(client.acknowledged == client.said for client in clients), "the last write of each was acknowledged"


async def _serve(address: str, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> list[Client]:
    async with AsyncExitStack() as stack:
        clients = []
        for id in range(CLIENTS):  # a pool each: one for all looks through all of its connections for each request
            http = httpx.AsyncClient(base_url=address, timeout=PATIENCE, verify=False)
            clients.append(Client(await stack.enter_async_context(http), id))
        over = asyncio.Event()

        async def each(client: Client) -> None:
            while not over.is_set():
                await client.ask()
                await asyncio.sleep(PAUSE)
            await client.ask()

        async def more(count: int) -> None:
            """Go on until each client had so many answers more."""
            wanted = {client.id: client.answered + count for client in clients}
            while any(client.answered < wanted[client.id] for client in clients):
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(each(client))
            await more(1)
            await asyncio.to_thread(valkey.freeze)
            await more(1)  # from PostgreSQL
            await asyncio.to_thread(valkey.thaw)
            await more(1)
            await asyncio.to_thread(postgres.restart)
            await more(1)
            over.set()
        return clients
