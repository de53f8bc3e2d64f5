"""Handles of jobs that run on the worker fleet; their progress lives in a Redis hash, which outlives any worker.

The hash `strata:{job}:<id>` has the fields `state`, `done`, `total`, `result`, `error` and `bell` (how workers are
called to it), and expires after a day. What workers share besides is in `parts.py`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from strata import waits
from strata.durations import Duration, seconds
from strata.errors import DecodeError, JobFailedError, JobTimeoutError

if TYPE_CHECKING:
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
    """How far a job is.

    Attributes:
        done: Records, or steps, that are done.
        total: Of how many; 0 where it is not known yet.
    """

    done: int = 0
    total: int = 0


class JobFields(NamedTuple):
    """The fields of a job's record."""

    state: JobState
    done: int
    total: int
    result: int
    error: str


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
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in pairs}

    def report(self) -> JobFields:
        """What it says. Raises `DecodeError` where that is nonsense, `L2UnavailableError`."""
        fields = self.read()
        try:
            state = JobState(fields.get("state", JobState.PENDING))
            done, total, result = (_number(fields.get(name, "0")) for name in ("done", "total", "result"))
        except ValueError:
            raise DecodeError(
                f"the record of job {self.id} cannot be read; it is damaged, so start the job anew"
            ) from None
        return JobFields(state, done, total, result, fields.get("error", "no reason given"))


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
        return self._record.report().state

    @property
    def progress(self) -> Progress:
        """How far the job is. Raises `L2UnavailableError`."""
        report = self._record.report()
        return Progress(report.done, report.total)

    def wait(self, timeout: Duration | None = None) -> int:
        """Wait for the end; returns what the call in the foreground would count.

        Raises `JobFailedError` where the job was given up, `JobTimeoutError` after `timeout` seconds (the job goes on),
        `L2UnavailableError`.
        """
        limit = seconds(timeout, "timeout")
        deadline = None if limit is None else waits.monotonic() + limit
        while True:
            report = self._record.report()
            if report.state is JobState.DONE:
                return report.result
            if report.state is JobState.FAILED:
                raise JobFailedError(f"job {self.id} failed: {report.error}", id=self.id)
            if deadline is not None and waits.monotonic() >= deadline:
                raise JobTimeoutError(
                    f"job {self.id} is {report.state} after {limit:g} s; is a worker running?", id=self.id
                )
            waits.sleep(POLL_SECONDS)

    def __repr__(self) -> str:
        return f"Job({self.id!r})"


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise ValueError(text)
    return int(text)


def new_id() -> str:
    """An id for a job."""
    return waits.token(16)
