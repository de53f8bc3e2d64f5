"""A job as the workers see it: parts that each of them takes for the length of a lease, until none is left.

The parts, not the messages, are the job: a task is a doorbell that says "there may be something to do", so that a
message too many does nothing, and one too few is made up for by whoever finds a part that nobody takes
(`scripts/take.lua` names the keys). What a killed worker held is taken again when its lease ends, from where the
last page ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from strata import waits
from strata.contracts import Logger
from strata.errors import WITHOUT_L2, DecodeError, L2RefusedError, RefusedError, StrataError, UnavailableError
from strata.jobs.job import KEPT_SECONDS, JobRecord, JobState
from strata.l2 import strays
from strata.l2.script import load
from strata.protocol.entry import UNDECODABLE
from strata.runtime.daemon import Daemon

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

OVERDUE_MS = 1_000  # after which a part that nobody takes is rung for
BELL_MS = 5_000  # for which a ring counts as under way
MOST_OPEN = 1_000  # jobs that have not ended; the record of one that nobody takes up is gone after `KEPT_SECONDS`

_take, _advance = (load("strata.jobs.scripts", name) for name in ("take", "advance"))


class JobPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is left of a part. `kind` says what is to be done; keys as text, `most` rows, None where there is no end.

    `failures` in a row ended in an outage.
    """

    kind: str
    after: str | None = None
    last: str | None = None
    most: int | None = None
    failures: int = 0


class Bell(msgspec.Struct, frozen=True, array_like=True):
    """The message with which a job is rung for: the task and its arguments after the job's id."""

    task: str
    args: list[Any]


@dataclass(frozen=True, slots=True)
class TakenPart:
    """A part in a worker's hand. `times`: how often it was taken without any progress."""

    name: str
    part: JobPart
    token: str
    times: int


_encode = msgspec.json.Encoder().encode
_part = msgspec.json.Decoder(JobPart).decode
_bell = msgspec.json.Decoder(Bell).decode


class JobParts:
    """One job's parts. Thread-safe: everything is in Redis. Methods raise `L2UnavailableError`."""

    def __init__(self, server: RedisServer, id: str, lease: float) -> None:
        self._server = server
        self.id = id
        self.lease = lease
        self.record = JobRecord(server, id)
        self._keys = [
            self.record.key,
            *(f"{self.record.key}:{name}" for name in ("due", "parts", "held")),
            _open(server),
        ]

    def open(self, first: JobPart, bell: Bell) -> None:
        """Begin with one part, which may fall into others. Raises `StrataError` where too many jobs wait already."""
        if len(open_jobs(self._server, self.lease)) >= MOST_OPEN:
            raise StrataError(f"{MOST_OPEN:,} jobs wait for a worker, and no more are taken; is one running?")
        _, due, parts, _, opened = self._keys
        now = int(self._server.time_ms())  # not rounded up: it may be taken at once
        self._server.pipeline([("HSET", parts, "0", _encode(first)), ("ZADD", due, now, "0")])
        self._server.pipeline([("EXPIRE", key, KEPT_SECONDS) for key in (parts, due)])
        self.record.write(state=JobState.PENDING, bell=_encode(bell).decode())
        self._server.pipeline([("ZADD", opened, now, self.id), ("EXPIRE", opened, 7 * KEPT_SECONDS)])

    def bell(self) -> Bell | None:
        """How the job is rung for; None where that is not known any more."""
        raw = self.record.read().get("bell", "")
        try:
            return _bell(raw)
        except UNDECODABLE:
            return None

    def take(self, token: str) -> TakenPart | None:
        """Take up a part that nobody holds. Raises `DecodeError` where it does not say what is to be done."""
        flat = self._server.run(_take, self._keys[:4], [token, round(self.lease * 1000)])
        if not flat:
            return None
        name, raw, times = flat
        try:
            return TakenPart(name.decode(), _part(raw or b""), token, int(times))
        except UNDECODABLE:
            raise DecodeError(f"a part of job {self.id} cannot be read; it is damaged, so start the job anew") from None

    def advance(self, taken: TakenPart, left: JobPart | None, count: int) -> bool:
        """So many more are done, and `left` remains, which stays held; whether the part is still this worker's."""
        return self._run(taken, left, count, self.lease, hold=True) >= 0

    def split(self, taken: TakenPart, parts: Sequence[JobPart], total: int) -> None:
        """The part falls into others, to be taken by anybody."""
        named = [item for number, part in enumerate(parts, 1) for item in (str(number), _encode(part))]
        self._run(taken, None, 0, 0.0, hold=False, total=total, more=named)

    def give_back(self, taken: TakenPart, left: JobPart, pause: float = 0.0) -> None:
        """Others may take it, in `pause` seconds."""
        self._run(taken, left, 0, pause, hold=False)

    def fail(self, reason: str) -> None:
        """The job ends: no part is taken any more."""
        others = self._keys[1:4]
        self.record.write(state=JobState.FAILED, error=reason)
        self._server.pipeline([*(("DEL", key) for key in others), ("ZREM", self._keys[4], self.id)])

    def waits(self) -> bool:
        """Whether there is a part that nobody holds."""
        return 0 < self.due() <= self._server.time_ms()

    def due(self) -> float:
        """When the next part may be taken, by Redis's clock in ms; 0 where none is left."""
        found = self._server.execute("ZRANGE", self._keys[1], 0, 0)
        score = self._server.execute("ZSCORE", self._keys[1], found[0]) if found else None
        return 0.0 if score is None else float(score)

    def ring(self) -> bool:
        """Whether this process is to ring, since nobody just did."""
        return bool(self._server.execute("SET", f"{self.record.key}:bell", "1", "NX", "PX", BELL_MS))

    @contextmanager
    def held(self, taken: TakenPart, log: Logger) -> Iterator[None]:
        """For the length of a `with` block the part does not become anybody else's, as long as this process lives."""
        every = self.lease / 4

        def renew() -> float:
            with contextlib.suppress(*WITHOUT_L2):  # nobody else can take it now either
                self.advance(taken, taken.part, 0)
            return every

        daemon = Daemon("strata-job", renew, log, delay=every)
        try:
            daemon.start()
            yield
        finally:
            daemon.stop()
            daemon.join(None)

    def _run(
        self,
        taken: TakenPart,
        left: JobPart | None,
        count: int,
        pause: float,
        *,
        hold: bool,
        total: int | None = None,
        more: Sequence[Any] = (),
    ) -> int:
        known = "" if total is None else total
        body = b"" if left is None else _encode(left)
        head = [taken.token, taken.name, body, count, known, round(pause * 1000), int(hold), self.id, KEPT_SECONDS]
        return int(self._server.run(_advance, self._keys, [*head, *more]))


@dataclass(frozen=True, slots=True)
class Crew:
    """How a worker goes about a job. Times in seconds; `tries` of a part that ends in an outage, or ends its worker."""

    budget: float = 10.0  # after which a task makes room for others; far below the hard time limit
    tries: int = 8
    pause: float = 0.5

    def run(self, work: JobParts, token: Callable[[], str], do: Callable[[TakenPart], int]) -> int:
        """Take part after part, for about one budget; returns what `do` counted. Raises what ends the job."""
        deadline = waits.monotonic() + self.budget
        count = 0
        while waits.monotonic() < deadline:
            try:
                taken = work.take(token())
            except DecodeError as error:
                work.fail(_words(error))
                break
            if taken is None:
                break
            try:
                if taken.times > self.tries:
                    raise StrataError(f"a part of it ended its worker {taken.times - 1} times; see the workers' logs")
                count += do(taken)
            except (UnavailableError, RefusedError) as error:
                if taken.part.failures >= self.tries:
                    work.fail(_words(error))
                    raise
                left = msgspec.structs.replace(taken.part, failures=taken.part.failures + 1)
                work.give_back(taken, left, self.pause * 2 ** min(taken.part.failures, 5))
                break
            except StrataError as error:
                work.fail(_words(error))
                raise
        return count


def open_jobs(server: RedisServer, lease: float) -> list[JobParts]:
    """The jobs that have not ended; those whose record is gone are forgotten. Raises `L2UnavailableError`."""
    ids = _open_ids(server)
    jobs = {raw: JobParts(server, raw.decode("utf-8", "replace"), lease) for raw in ids}
    found = server.pipeline([("EXISTS", job.record.key) for job in jobs.values()])
    gone = [raw for raw, there in zip(jobs, found, strict=True) if not there]
    if gone:
        server.execute("ZREM", _open(server), *gone)
    return [job for raw, job in jobs.items() if raw not in gone]


def _open_ids(server: RedisServer) -> list[bytes]:
    [ids] = server.each([("ZRANGE", _open(server), 0, -1)])
    if isinstance(ids, L2RefusedError):
        if not strays.put_aside(server, {_open(server): "zset"}):
            raise ids
        return []
    return list(ids)


def overdue(server: RedisServer, work: JobParts) -> bool:
    """Whether a job has a part which nobody takes, and is to be rung for by this process."""
    return 0 < work.due() < server.time_ms() - OVERDUE_MS and work.ring()


def _open(server: RedisServer) -> str:
    return server.keys.own("job", "open")


def _words(error: StrataError) -> str:
    return f"{type(error).__name__}: {error}"
