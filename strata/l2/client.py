"""One Redis (standalone, Sentinel or Cluster) behind a breaker; the one place where its errors become Strata's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from strata import waits
from strata.errors import L2RefusedError, L2UnavailableError, StrataError
from strata.l2.causes import cause_of
from strata.l2.cluster import Cluster
from strata.l2.refusals import Effect, Refusal, refusal_of
from strata.l2.script import Script
from strata.l2.wire import Wire, Wires, WireTimeouts, abandon, packed
from strata.observe.server_call import ServerCall
from strata.protocol.keyspace import Keyspace
from strata.runtime.breaker import NOBODY, Breaker, Grumbler
from strata.waits.clock import Clock

T = TypeVar("T")

FAILURES = (RedisError, RedisClusterException, OSError)  # the second is no `RedisError`
ALL = Keyspace()
Command = Sequence[Any]
Call = tuple[Sequence[Any], Sequence[Any]]  # keys and arguments of a script
Ask = Callable[[Script, Sequence[Any], Sequence[Any]], Any]  # a script with its keys and arguments, to its answer
ASKED_AGAIN = 3.0  # seconds after which a guarded server is asked again
QUIET = 10.0  # seconds without a refusal after which it is thought to refuse nothing any more


class RedisServer:
    """Commands and scripts, each sent once; thread-safe, and opened at the first command.

    `make` builds the redis-py client; it is called again after a fork, since sockets are not shared with a parent.
    `keys` names what is kept there; `place` is shown as long as it was not reached. `write_timeout` are the seconds
    that sending may take (None: as many as an answer).
    Every method raises `L2UnavailableError` when the server does not answer, or at once while the breaker is open, and
    `L2RefusedError` where it will not have a command, which opens no breaker.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        clock: Clock,
        keys: Keyspace = ALL,
        place: str = "",
        write_timeout: float | None = None,
    ) -> None:
        self._make = make
        self._write_timeout = write_timeout
        self.keys = keys
        self._place = place
        self.clock = clock
        self.breaker = Breaker(clock)
        self.on_call: Callable[[ServerCall], None] | None = None  # is told of each call; set once
        self.refusing: Grumbler = NOBODY  # is told of calls that a server which is there refused; set once
        self.rights = ""  # that its user needs; set once
        # Written by whoever finds None, and by `close`; each read once a use, so that nobody meets the other's None. Of
        # two racing callers each uses what it built; what is not kept ends with its use.
        self._client: Any = None
        self._wires: Wires | Cluster | None = None
        self._clustered: bool | None = None  # isinstance of redis-py's classes takes 2 us
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
            self._guarded("", self._ask_again)

    @property
    def client(self) -> Any:
        """The redis-py client."""
        client = self._client
        if client is None:
            asked = self.clock.monotonic()
            try:
                client = self._client = waits.call(self._make)
            except FAILURES as error:  # a Cluster is asked for its slots as soon as it is made
                raise self._failed(error, asked) from error
        return client

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

    @property
    def _patience(self) -> WireTimeouts:
        read = self._options.get("socket_timeout")
        return WireTimeouts(read, read if self._write_timeout is None else self._write_timeout)

    def execute(self, *command: Any) -> Any:
        """One command, sent once."""
        return self._guarded(command[0], self._call, command)

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any] = ()) -> Any:
        """One script, which a Redis that does not know it yet gets with its text."""
        return self._guarded(script.name, self._run, script, keys, args)

    def run_many(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """The script once for each (keys, args), in one round trip where the server is a single one."""
        if not calls:
            return []
        return self._guarded(script.name, self._run_many, script, calls)

    def run_each(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """As `run_many`; what the server refused of them is among the answers, as an `L2RefusedError`, so that one bad
        key does not cost the others."""
        if not calls:
            return []
        return self._guarded(script.name, lambda: self._each(self._answers(script, calls)))

    def each(self, commands: Sequence[Command]) -> list[Any]:
        """As `pipeline`; what the server refused of them is among the answers, as an `L2RefusedError`."""
        if not commands:
            return []
        return self._guarded("PIPELINE", lambda: self._each(self._call_many(commands)))

    def time_ms(self) -> float:
        """The server's clock, in ms. Raises `L2UnavailableError`."""
        seconds, micros = self.execute("TIME")
        return int(seconds) * 1000 + int(micros) / 1000

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Plain commands in one round trip; the first error among their answers is raised."""
        if not commands:
            return []
        return self._guarded("PIPELINE", lambda: _raised(self._call_many(commands)))

    def value(self, key: str) -> bytes | None:
        """What a plain key holds."""
        # MGET, of one key too: to it a key of another type is empty.
        [raw] = self._guarded("MGET", self._call, ("MGET", key))
        return raw  # type: ignore[no-any-return]

    def values(self, keys: Sequence[str], step: int) -> list[bytes | None]:
        """What plain keys hold, in one round trip to each server; `step` is how many keys one command may name."""
        if self.clustered:
            step = 1
        parts = [keys[start : start + step] for start in range(0, len(keys), step)]
        return list(chain.from_iterable(self.pipeline([("MGET", *part) for part in parts])))

    def scan(self, pattern: str, step: int, *, anywhere: bool = False) -> Iterator[list[bytes]]:
        """The keys that fit a pattern, some at a time, each at least once; of every master of a Cluster.

        `anywhere`: from a random place on to the end, and then all of them.
        """
        for wires in self._guarded("", self._each_master):
            # A cursor is a number of a bucket with its bits reversed; the server masks those that it does not have.
            for start in (waits.chance().getrandbits(48), 0) if anywhere else (0,):
                cursor: Any = start
                while True:
                    command = ("SCAN", cursor, "MATCH", pattern, "COUNT", step)
                    cursor, found = self._guarded("SCAN", wires.call, command)
                    if found:
                        yield found
                    if int(cursor) == 0:
                        break

    def subscribe(self, *channels: str) -> Wire:
        """A connection that is asked to subscribe; its confirmations are the first things to come."""

        def send() -> Wire:
            wire = self._way().open()
            wire.send(b"".join([packed(("SUBSCRIBE", channel)) for channel in channels]))
            return wire

        return self._guarded("", send)

    def after_fork(self) -> None:
        """In the child: forget the parent's connections. Those of our own were closed (`strata.forks.inherited`)."""
        if self._client is not None:
            for pool in _pools(self._client):
                abandon([*pool._available_connections, *pool._in_use_connections])
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

    def unavailable(self, error: Exception) -> L2UnavailableError | L2RefusedError:
        """`error` in the words of the family; whoever looks after the set-up is told of what others are refused too."""
        return self._in_words(error, refusal_of(error))

    def _in_words(self, error: Exception, refusal: Refusal | None) -> L2UnavailableError | L2RefusedError:
        if refusal is None:
            said = f"did not answer ({type(error).__name__}); check that it runs and is reachable"
            return L2UnavailableError(f"Redis at {self.address} {said}")
        advice = self._advice(refusal)
        if refusal.effect in (Effect.FULL, Effect.REFUSED):
            self.refusing.gone(refusal.found, advice)
        kind = L2RefusedError if refusal.effect in (Effect.REFUSED, Effect.ALONE) else L2UnavailableError
        return kind(f"Redis at {self.address} refused: {refusal.found}; {advice}")

    def _advice(self, refusal: Refusal | None) -> str:
        return "" if refusal is None else refusal.advice.format(user=self._user, rights=self.rights)

    def _failed(self, error: Exception, asked: float) -> L2UnavailableError | L2RefusedError:
        """As `unavailable`, of what came instead of an answer to what was asked then; the breaker learns of it."""
        refusal = refusal_of(error)
        made = self._in_words(error, refusal)
        if refusal is not None and refusal.answered:
            self.breaker.succeeded(asked)
        else:
            # A server that says it can serve nobody (read-only, loading) is as good as away.
            self.breaker.failed(made, cause_of(error), self._advice(refusal))
            self._asked_until = 0.0  # another one may have taken its place
        return made

    def _guarded(self, operation: str, send: Callable[..., T], *args: Any) -> T:
        breaker = self.breaker
        if not (breaker.closed or breaker.allow()):
            raise L2UnavailableError(
                f"Redis at {self.address} was not asked, and is tried again shortly; a moment ago: {self.breaker.said}"
            )
        if self.on_call is not None:
            send = _told(send, operation, self.on_call)
        asked = self.clock.monotonic()
        try:
            if self._check is not None and asked >= self._asked_until and self._connected:
                self._ask_again()
            answer = send(*args)
        except StrataError:
            raise
        except FAILURES as error:
            raise self._failed(error, asked) from error
        breaker.succeeded(asked)
        if self.refusing.away is not None:
            self.refusing.fades(QUIET)
        return answer

    @property
    def _connected(self) -> bool:
        # A first connection asks by itself; one to a node of a Cluster cannot, which has some of the keys only.
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

    def _way(self) -> Wires | Cluster:
        wires = self._wires
        if wires is None:
            client = self.client
            if self.clustered:
                size = client.nodes_manager.connection_kwargs["max_connections"]
                wires = self._wires = Cluster(client, size, self._patience, self.clock)
            else:
                pool = client.connection_pool
                wires = self._wires = Wires(pool, pool.max_connections, self._patience, self._greet)
        return wires

    def _each_master(self) -> list[Wires]:
        way = self._way()
        return way.masters() if isinstance(way, Cluster) else [way]

    def _call(self, command: Command) -> Any:
        return (self._wires or self._way()).call(command)

    def _call_many(self, commands: Sequence[Command]) -> list[Any]:
        return self._way().call_many(commands)

    def _run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        return _run_on((self._wires or self._way()).call, script, keys, args)

    def _run_many(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        return _raised(self._answers(script, calls))

    def _answers(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """What the script said to each call; error answers are among them, as exceptions."""
        if len(calls) == 1:
            return [_answer(lambda: self._run(script, *calls[0]))]
        answers = self._call_many([("EVALSHA", script.sha, str(len(keys)), *keys, *args) for keys, args in calls])
        for place, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):  # refused before it did anything, so it may be sent again
                answers[place] = _answer(lambda: self._run(script, *calls[place]))  # noqa: B023 called at once
        return answers

    def _each(self, answers: list[Any]) -> list[Any]:
        """The answers, with what was refused in the family's words. Raises what concerns the server as a whole."""
        for place, answer in enumerate(answers):
            if isinstance(answer, Exception):
                refusal = refusal_of(answer)
                if refusal is None or refusal.effect is not Effect.ALONE:
                    raise answer
                answers[place] = self.unavailable(answer)
        return answers


def _run_on(call: Callable[[Command], Any], script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
    try:
        return call(("EVALSHA", script.sha, str(len(keys)), *keys, *args))
    except NoScriptError:
        return call(("EVAL", script.text, str(len(keys)), *keys, *args))


def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ResponseError as error:
        return error


def _pools(client: Any) -> list[Any]:
    """redis-py's own pools that a client's connections are in: of a Cluster's nodes, or of the Sentinels."""
    if isinstance(client, RedisCluster):
        clients = [node.redis_connection for node in client.nodes_manager.nodes_cache.values()]
    else:
        manager = getattr(client.connection_pool, "sentinel_manager", None)
        clients = [client, *(() if manager is None else manager.sentinels)]
    return [item.connection_pool for item in clients if item is not None]


def _told(send: Callable[..., T], operation: str, tell: Callable[[ServerCall], None]) -> Callable[..., T]:
    def told(*args: Any) -> T:
        began = waits.monotonic()
        try:
            answer = send(*args)
        except BaseException as error:
            tell(ServerCall(waits.monotonic() - began, operation, error))
            raise
        tell(ServerCall(waits.monotonic() - began, operation))
        return answer

    return told


def _raised(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
