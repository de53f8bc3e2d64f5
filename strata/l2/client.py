"""One Redis (standalone, Sentinel or Cluster) behind a breaker; the one place where its errors become Strata's."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisClusterException, RedisError

from strata.breaker import Breaker
from strata.clock import Clock
from strata.errors import L2UnavailableError, StrataError
from strata.keyspace import Keyspace
from strata.l2.refusals import Refusal, refusal_of
from strata.l2.script import Script
from strata.l2.wire import Wire, Wires, packed

FAILURES = (RedisError, RedisClusterException, OSError)  # the second is no `RedisError`
ALL = Keyspace()
Command = Sequence[Any]
Call = tuple[Sequence[Any], Sequence[Any]]  # keys and arguments of a script
Ask = Callable[[Script, Sequence[Any], Sequence[Any]], Any]  # a script with its keys and arguments, to its answer
ASKED_AGAIN = 3.0  # seconds after which a guarded server is asked again


class RedisServer:
    """Commands and scripts, each sent once; thread-safe, and opened at the first command.

    `make` builds the redis-py client; it is called again after a fork, since sockets are not shared with a parent.
    `keys` names what is kept there; `place` is shown as long as it was not reached.
    Every method raises `L2UnavailableError` when the server does not answer, or at once while the breaker is open.
    """

    def __init__(self, make: Callable[[], Any], clock: Clock, keys: Keyspace = ALL, place: str = "") -> None:
        self._make = make
        self.keys = keys
        self._place = place
        self.clock = clock
        self.breaker = Breaker(clock)
        self.on_call: Callable[[float], None] | None = None  # is told how many seconds each call took; set once
        # Is told of what is a mistake in the set-up, each time; set once.
        self.on_refusal: Callable[[Refusal], None] | None = None
        self.rights = ""  # that its user needs; set once
        # Written once by whoever comes first: two racing callers build two, and one is dropped unopened.
        self._client: Any = None
        self._wires: Wires | None = None
        self._clustered: bool | None = None  # isinstance of redis-py's classes takes 2 us
        self._abandoned: list[Any] = []
        # Set once, before or while the server is used; `_asked_until` by any thread, asking twice being harmless.
        self._check: Callable[[Ask], None] | None = None
        self._asked_until = 0.0

    def guard(self, check: Callable[[Ask], None] | None) -> None:
        """Have `check` ask, and raise where this server may not be used: first on each connection, and every few
        seconds. What it raises is raised by every method. None: nobody asks."""
        self._check = check
        self._forget()

    def look(self) -> None:
        """Have the guard ask now, so that no call has to do it."""
        if self._check is not None:
            self._guarded(self._ask_again)

    @property
    def client(self) -> Any:
        """The redis-py client."""
        if self._client is None:
            try:
                self._client = self._make()
            except FAILURES as error:  # a Cluster is asked for its slots as soon as it is made
                unavailable = self.unavailable(error)
                self.breaker.failed(unavailable)
                raise unavailable from error
        return self._client

    @property
    def clustered(self) -> bool:
        """Whether keys of different slots are on different servers."""
        if self._clustered is None:
            self._clustered = isinstance(self.client, RedisCluster)
        return self._clustered

    @property
    def database(self) -> int:
        """The number of the logical database, 0 for a Cluster."""
        return 0 if self.clustered else int(self._options.get("db") or 0)

    @property
    def address(self) -> str:
        """Where it is, to be shown: without any secret."""
        if self._client is None:
            return self._place or "redis_addr"
        options = self._options
        if "path" in options:
            return str(options["path"])
        if not options.get("host"):
            return "the Cluster" if self.clustered else "the master that the Sentinels name"
        return f"{options['host']}:{options.get('port', 6379)}"

    @property
    def _options(self) -> dict[str, Any]:
        of = self.client.nodes_manager if self.clustered else self.client.connection_pool
        return of.connection_kwargs  # type: ignore[no-any-return]

    @property
    def _user(self) -> str:
        return "default" if self._client is None else str(self._options.get("username") or "default")

    @property
    def timeout(self) -> float:
        """Seconds that a caller waits for an answer."""
        return float(self._options.get("socket_timeout") or 0.0)

    def execute(self, *command: Any) -> Any:
        """One command, sent once."""
        return self._guarded(lambda: self._call(command))

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any] = ()) -> Any:
        """One script, which a Redis that does not know it yet gets with its text."""
        return self._guarded(lambda: self._run(script, keys, args))

    def run_many(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """The script once for each (keys, args), in one round trip where the server is a single one."""
        if not calls:
            return []
        return self._guarded(lambda: self._run_many(script, calls))  # type: ignore[no-any-return]

    def time_ms(self) -> float:
        """The server's clock, in ms. Raises `L2UnavailableError`."""
        seconds, micros = self.execute("TIME")
        return int(seconds) * 1000 + int(micros) / 1000

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Plain commands in one round trip; the first error among their answers is raised."""
        if not commands:
            return []
        return self._guarded(lambda: _raised(self._call_many(commands)))  # type: ignore[no-any-return]

    def values(self, keys: Sequence[str], step: int) -> list[bytes | None]:
        """What plain keys hold, in one round trip to each server; `step` is how many keys one command may name."""
        if len(keys) == 1:
            return [self.execute("GET", keys[0])]
        if self.clustered:
            return self.pipeline([("GET", key) for key in keys])
        parts = [keys[start : start + step] for start in range(0, len(keys), step)]
        return [value for part in self.pipeline([("MGET", *part) for part in parts]) for value in part]

    def scan(self, pattern: str, step: int, *, anywhere: bool = False) -> Iterator[list[bytes]]:
        """The keys that fit a pattern, some at a time, each at least once; of every master of a Cluster.

        `anywhere`: from a random place on to the end, and then all of them.
        """
        if self.clustered:
            keys = self.client.scan_iter(match=pattern, count=step)
            while some := self._guarded(lambda: list(islice(keys, step))):
                yield some
            return
        cursor: Any = 0
        if anywhere:
            # A cursor is a number of a bucket with its bits reversed; the server masks those that it does not have.
            cursor = secrets.randbits(48)
            while int(cursor) != 0:
                cursor, found = self.execute("SCAN", cursor, "MATCH", pattern, "COUNT", step)
                if found:
                    yield found
        while True:
            cursor, found = self.execute("SCAN", cursor, "MATCH", pattern, "COUNT", step)
            if found:
                yield found
            if int(cursor) == 0:
                return

    def subscribe(self, *channels: str) -> Wire:
        """A connection that is asked to subscribe; its confirmations are the first things to come."""

        def send() -> Wire:
            wire = self._subscription()
            wire.send(b"".join([packed(("SUBSCRIBE", channel)) for channel in channels]))
            return wire

        return self._guarded(send)  # type: ignore[no-any-return]

    def after_fork(self) -> None:
        """In the child: forget the parent's connections without closing them."""
        # Kept, so that no destructor writes to the parent's sockets.
        self._abandoned += [item for item in (self._client, self._wires) if item is not None]
        self._client = self._wires = None
        self.breaker.reset()
        self._asked_until = 0.0

    def close(self) -> None:
        """Close the connections; the next command would open new ones."""
        client, self._client = self._client, None
        wires, self._wires = self._wires, None
        if wires is not None:
            wires.close()
        if client is not None:
            client.close()

    def unavailable(self, error: Exception) -> L2UnavailableError:
        """`error` in the words of the family; whoever looks after the set-up is told where it is wrong."""
        refusal = refusal_of(error)
        if refusal is None:
            said = f"did not answer ({type(error).__name__}); check that it runs and is reachable"
            return L2UnavailableError(f"Redis at {self.address} {said}")
        refusal = refusal._replace(advice=refusal.advice.format(user=self._user, rights=self.rights))
        if self.on_refusal is not None:
            self.on_refusal(refusal)
        return L2UnavailableError(f"Redis at {self.address} refused. {refusal.found}; {refusal.advice}")

    def _guarded(self, send: Callable[[], Any]) -> Any:
        if not self.breaker.allow():
            raise L2UnavailableError(
                f"Redis at {self.address} was not asked, and is tried again shortly; a moment ago: {self.breaker.said}"
            )
        if self.on_call is not None:
            send = _timed(send, self.on_call)
        try:
            if self._check is not None and self.clock.monotonic() >= self._asked_until and self._connected:
                self._ask_again()
            answer = send()
        except L2UnavailableError:
            raise
        except OutOfMemoryError as error:
            # It still answers reads, and takes what frees memory.
            self.breaker.succeeded()
            raise L2UnavailableError(
                f"Redis at {self.address} took no write: it holds as much as its maxmemory allows; give it more, or "
                "let it forget"
            ) from error
        except FAILURES as error:
            refusal, unavailable = refusal_of(error), self.unavailable(error)
            if refusal is not None and refusal.answered:
                self.breaker.succeeded()
            else:
                # An error answer (read-only, loading) is an answer, but this server cannot be used.
                self.breaker.failed(unavailable)
                self._asked_until = 0.0  # another one may have taken its place
            raise unavailable from error
        self.breaker.succeeded()
        return answer

    @property
    def _connected(self) -> bool:
        # A first connection asks by itself; those to a Cluster are redis-py's.
        return self._wires is not None or self.clustered

    def _ask_again(self) -> None:
        assert self._check is not None
        try:
            self._check(self._run)
        except StrataError:
            self._forget()
            raise
        self._asked_until = self.clock.monotonic() + ASKED_AGAIN

    def _greet(self, wire: Wire) -> None:
        if self._check is not None:
            self._check(lambda script, keys, args: _run_on(wire.call, script, keys, args))
            self._asked_until = self.clock.monotonic() + ASKED_AGAIN

    def _forget(self) -> None:
        """Connections that are opened from now on ask anew; those in use are not used again."""
        self._asked_until = 0.0
        wires, self._wires = self._wires, None
        if wires is not None:
            wires.close()

    def _single(self) -> Wires:
        if self._wires is None:
            pool = self.client.connection_pool
            self._wires = Wires(pool, pool.max_connections, self._greet)
        return self._wires

    def _call(self, command: Command) -> Any:
        return self.client.execute_command(*command) if self.clustered else self._single().call(command)

    def _call_many(self, commands: Sequence[Command]) -> list[Any]:
        if not self.clustered:
            return self._single().call_many(commands)
        pipe = self.client.pipeline()
        for command in commands:
            pipe.execute_command(*command)
        return list(pipe.execute(raise_on_error=False))

    def _run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        return _run_on(self._call, script, keys, args)

    def _run_many(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        if self.clustered or len(calls) == 1:
            return [self._run(script, keys, args) for keys, args in calls]
        answers = self._single().call_many([("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls])
        for place, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):  # refused before it did anything, so it may be sent again
                answers[place] = self._run(script, *calls[place])
        return _raised(answers)

    def _subscription(self) -> Wire:
        if not self.clustered:
            return self._single().open()
        # Every node of a Cluster passes on what is published on any of them.
        pool = self.client.get_redis_connection(self.client.get_random_node()).connection_pool
        return Wires(pool, 1).open()


def _run_on(call: Callable[[Command], Any], script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
    try:
        return call(("EVALSHA", script.sha, len(keys), *keys, *args))
    except NoScriptError:
        return call(("EVAL", script.text, len(keys), *keys, *args))


def _timed(send: Callable[[], Any], tell: Callable[[float], None]) -> Callable[[], Any]:
    def timed() -> Any:
        began = perf_counter()
        try:
            return send()
        finally:
            tell(perf_counter() - began)

    return timed


def _raised(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
