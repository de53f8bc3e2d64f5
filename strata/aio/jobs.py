"""Handles of what the fleet does, awaited."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable
from operator import attrgetter

from strata.aio.here import here
from strata.durations import Duration
from strata.jobs.job import Job, JobState, Progress
from strata.writebehind.persist.dead_letters import DeadLetter, DeadLetters


class AsyncJob:
    """A job on the fleet, as `strata.Job`; `state` and `progress` are awaited: `await job.state`."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def id(self) -> str:
        """As `Job.id`."""
        return self._job.id

    @property
    def state(self) -> Awaitable[JobState]:
        """As `Job.state`."""
        return here().call(attrgetter("state"), self._job)

    @property
    def progress(self) -> Awaitable[Progress]:
        """As `Job.progress`."""
        return here().call(attrgetter("progress"), self._job)

    async def wait(self, timeout: Duration | None = None) -> int:
        """As `Job.wait`."""
        return await here().call(self._job.wait, timeout)

    def __repr__(self) -> str:
        return f"Async{self._job!r}"


class AsyncDeadLetters:
    """What could not be written behind, as `DataStore.dead_letters` has it."""

    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters

    async def list(self, schema: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """As `DeadLetters.list`."""
        return await here().call(self._letters.list, schema, limit)

    async def waiting(self, schema: str | None = None, limit: int = 100) -> builtins.list[DeadLetter]:
        """As `DeadLetters.waiting`."""
        return await here().call(self._letters.waiting, schema, limit)

    async def count(self, schema: str | None = None) -> int:
        """As `DeadLetters.count`."""
        return await here().call(self._letters.count, schema)

    async def show(self, id: str) -> DeadLetter:
        """As `DeadLetters.show`."""
        return await here().call(self._letters.show, id)

    async def retry(self, *ids: str, all: bool = False) -> int:
        """As `DeadLetters.retry`."""
        return await here().call(self._letters.retry, *ids, all=all)

    async def discard(self, *ids: str, all: bool = False) -> int:
        """As `DeadLetters.discard`."""
        return await here().call(self._letters.discard, *ids, all=all)
