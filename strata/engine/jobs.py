"""Handles of jobs that run on the worker fleet; their progress lives in a Redis hash, which outlives any worker.

The hash `strata:{job}:<id>` has the fields `state`, `done`, `total`, `result`, `error` and `bell` (how workers are
called to it), and expires after a day. What workers share besides is in `work.py`.
"""

from __future__ import annotations

import enum
import time
import uuid
from dataclasses import dataclass
from typing import Any

from strata.errors import FlushTimeoutError, StrataError
from strata.l2.client import RedisServer

KEPT_SECONDS = 86_400
POLL_SECONDS = 0.1


class JobState(enum.StrEnum):
    """Where a job is: handed over, taken up by a worker, or ended one way or the other."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total`; `total` is 0 where it is not known yet."""

    done: int = 0
    total: int = 0


class JobRecord:
    """The hash of one job, as worker and handle see it."""

    def __init__(self, server: RedisServer, id: str) -> None:
        self._server = server
        self.id = id
        self.key = server.keys.own("job", id)

    def write(self, **fields: Any) -> None:
        """Set some of its fields. Raises `L2UnavailableError`."""
        flat = [part for name, value in fields.items() for part in (name, str(value))]
        self._server.pipeline([("HSET", self.key, *flat), ("EXPIRE", self.key, KEPT_SECONDS)])

    def read(self) -> dict[str, str]:
        """All of its fields. Raises `L2UnavailableError`."""
        flat = self._server.execute("HGETALL", self.key)
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        return {name.decode(): value.decode() for name, value in pairs}


class Job:
    """A job on the fleet. Thread-safe."""

    def __init__(self, record: JobRecord) -> None:
        self._record = record

    @property
    def id(self) -> str:
        """The id, which is also that of the Celery task."""
        return self._record.id

    @property
    def state(self) -> JobState:
        """Where the job is now. Raises `L2UnavailableError`."""
        return JobState(self._record.read().get("state", JobState.PENDING))

    @property
    def progress(self) -> Progress:
        """How far the job is. Raises `L2UnavailableError`."""
        fields = self._record.read()
        return Progress(int(fields.get("done", 0)), int(fields.get("total", 0)))

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns what the call in the foreground would count.

        Raises `StrataError` where the job failed, `FlushTimeoutError` after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            fields = self._record.read()
            state = fields.get("state")
            if state == JobState.DONE:
                return int(fields.get("result", 0))
            if state == JobState.FAILED:
                raise StrataError(f"job {self.id} failed: {fields.get('error', 'no reason given')}")
            if deadline is not None and time.monotonic() >= deadline:
                raise FlushTimeoutError(
                    f"job {self.id} is {state} after {timeout} s; is a worker running?", remaining=1
                )
            time.sleep(POLL_SECONDS)

    def __repr__(self) -> str:
        return f"Job({self.id!r})"


def new_id() -> str:
    """An id for a job."""
    return uuid.uuid4().hex
