"""A PostgreSQL of rows, row locks, advisory locks and transactions, as `strata.l3.table.Table` asks it.

What is modelled is the meaning of the statements of `strata/l3/{reads,writes,apply,marks,secrets}.py` under READ
COMMITTED: each sees what was committed when it runs, waits for the locks it needs, and is answered some time later. The
server runs what was sent to it, whatever became of its client meanwhile. Sessions are taken and given back by the
shipped pool, and transactions opened and ended by the shipped `Database`.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from greenlet import getcurrent
from psycopg import errors

from strata.errors import EncodeError
from strata.l3 import failures
from strata.l3.connection import GRACE, IDLE_IN_TRANSACTION
from strata.l3.diagnosis import already_there
from strata.l3.increments import reckoned
from strata.l3.reads import PageRows, Row
from strata.l3.secrets import Sealed
from strata.l3.sqlstates import Failure, classify
from strata.l3.standing import RowNote, Standing, apart, on_top
from strata.l3.table import Table
from strata.l3.values import FIRST, Applied, Assigned, Change, Held, Repair, Status
from strata.l3.writes import Written
from strata.model.unloaded import UNLOADED
from strata.protocol.added import Added
from strata.protocol.shards import shard_of
from strata.protocol.versions import L3_NODE, LATE_NODES, NODE_BITS, above
from tests.simulator.world import Event, World

if TYPE_CHECKING:
    from tests.simulator.process import Process

T = TypeVar("T")
Lock = tuple[Any, ...]
LATE = (0.0, 0.0, 0.05, 0.3, 0.6)  # seconds after which a lost commit arrives
SLOW = (0.02, 0.3, 2.0)  # seconds for which a slow read is on its way
KEPT = 1  # the place of the column of which L3 may make something else
LOCK_TIMEOUT, STATEMENT_TIMEOUT = 5.0, 15.0  # seconds; the defaults of `L3PoolConfig`
CONNECT_TIMEOUT = 2.0


def raised(old: int, node: int) -> int:
    """The version of a synchronous write that meets the version `old`."""
    return ((old >> NODE_BITS) + 1) << NODE_BITS | node


class Violates(errors.CheckViolation):
    """A row that the table's CHECK refuses."""

    sqlstate = "23514"


def noted(version: int, good: RowNote, columns: Iterable[str], *, changes: bool) -> RowNote:
    """The note of a row that gets these columns at a version, on top of one that is good."""
    written, fresh = dict(good.columns), dict.fromkeys(columns, version)
    if changes:
        return RowNote(version, good.base, written, good.added, {**good.changed, **fresh})
    return RowNote(version, good.base, written | fresh, good.added, good.changed)


class Data:
    """What one database holds of one table. `None` for a row: it was deleted in the transaction that sees this."""

    def __init__(self) -> None:
        self.rows: dict[Any, tuple[int, tuple[Any, ...]] | None] = {}
        self.tombstones: dict[str, int] = {}
        self.repairs: dict[Repair, bool] = {}
        self.deletions: dict[Any, int] = {}  # the versions at which rows were deleted
        self.notes: dict[Any, RowNote] = {}  # what `strata/l3/partials.py` notes
        self.resealed: set[Any] = set()  # rows of which the transaction changes nothing but ciphertexts


class Postgres:
    """One server. `committed` is told of each change of a row: the key, its version, its values, None: deleted, and
    whether nothing but a repair tells of it. `up`: whether it runs; `frozen`: whether it does nothing, while its
    connections stay. `answers_since`: when it last went on, infinite while it is down or stands still."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.committed: Callable[[Any, int, tuple[Any, ...] | None, bool], None] = lambda *_: None
        self.resealed: Callable[[Any, tuple[Any, ...]], None] = lambda *_: None  # told of rows with other ciphertexts
        self.told: Callable[[Any, Added], None] = lambda *_: None  # of what is added
        self.keeps: Callable[[str], str] = lambda text: text  # what it makes of the second column
        self.refuses: Callable[[tuple[Any, ...]], bool] = lambda values: False
        world.sources.append(self)
        self.begin()

    def begin(self) -> None:
        """Empty, and nobody connected."""
        self.data = Data()
        self.locks: dict[Lock, dict[Session, bool]] = {}
        self.sessions: list[Session] = []
        self.cut: set[Process] = set()
        self.doomed: set[Process] = set()  # whose next commit loses its connection
        self.slow: set[Process] = set()  # whose next row is a while on its way
        self.up, self.frozen, self.answers_since = True, False, 0.0
        self._micros = 0  # of the last change by another program

    def __str__(self) -> str:
        return "postgres"

    def connect(self, process: Process, kind: type[Session] | None = None) -> Session:
        """Raises `psycopg.OperationalError`."""
        if not self._reaches(process):
            self.world.pause(lambda: self._reaches(process), CONNECT_TIMEOUT, "postgres to be reached")
            if not self._reaches(process):
                raise errors.ConnectionTimeout("connection timeout expired")
        if not self.up:
            raise psycopg.OperationalError("connection refused")
        session = (kind or Session)(self, process)
        self.sessions.append(session)
        return session

    def add_events(self, events: list[Event]) -> None:
        """What was sent to it, and transactions in which nothing happens for too long."""
        if self.frozen or not self.up:
            return
        now = self.world.now
        for session in self.sessions:
            request = session.request
            if session.wakes <= now or (
                request is not None
                and request.sent <= now
                and session.process not in self.cut
                and (session.since == math.inf or self.free(session, request.locks))
            ):
                events.append(session)
            if isinstance(session, Listening) and session.flight and session.process not in self.cut:
                events.append(session.mail)

    def deadline(self) -> float:
        """Of the locks that are waited for, and of the transactions in which nothing happens."""
        if self.frozen or not self.up or not self.sessions:
            return math.inf
        return min(session.wakes for session in self.sessions)

    def _reaches(self, process: Process) -> bool:
        return process not in self.cut and not self.frozen

    def restart(self) -> None:
        """Its sessions are gone; what was committed stays."""
        for session in list(self.sessions):
            session.lost = True
            session.drop()

    def freeze(self) -> None:
        """It does nothing, until it goes on."""
        self.frozen, self.answers_since = True, math.inf

    def stop(self) -> None:
        """It runs no more, until it goes on."""
        self.restart()
        self.up, self.answers_since = False, math.inf

    def go_on(self) -> None:
        """Whatever it was that held it up."""
        if self.frozen or not self.up:
            self.up, self.frozen, self.answers_since = True, False, self.world.now

    def heal(self) -> None:
        """Everybody gets through again."""
        self.cut.clear()
        self.doomed.clear()
        self.slow.clear()
        self.go_on()

    def change(
        self, table: str, key: Any, values: tuple[Any, ...] | None, *, cached: bool, noted_as: Sequence[str] = ()
    ) -> None:
        """Another program changes a row of a table that is watched, or, where `values` is None, deletes it; `cached`:
        schemas have it in L2; `noted_as`: its columns, where a schema is written behind. What the trigger of
        `strata/l3/outside.py` does."""
        old = self.data.rows.get(key)
        self._micros = max(int(self.world.now * 1e6), self._micros + 1)  # a statement takes longer than one
        version = max(self._micros, (old[0] >> NODE_BITS) + 1 if old else 0) << NODE_BITS | L3_NODE
        if values is None:
            self.data.rows.pop(key, None)
        else:
            self.data.rows[key] = (version, values)
            if noted_as and old is not None:
                pairs = zip(noted_as, values, old[1], strict=True)
                note, changed = self.data.notes.get(key), {name: new for name, new, was in pairs if new != was}
                good = note if note is not None and note.version == old[0] else RowNote(old[0], old[0], {})
                self.data.notes[key] = noted(version, good, changed, changes=True)
        if cached:
            self.data.repairs[Repair(str(key), version)] = True
        self.committed(key, version, values, False)
        said = json.dumps({"table": table, "keys": {str(key): version if values else -version}})
        for session in self.sessions:
            if isinstance(session, Listening) and session.listens:
                session.flight.append(said)

    def writable(self, key: Any) -> bool:
        """Whether it could run a statement that writes the row."""
        return self.up and not self.frozen and ("row", key) not in self.locks

    def free(self, session: Session, locks: Mapping[Lock, bool]) -> bool:
        """Whether the session could have all of these locks, true being alone."""
        for lock, alone in locks.items():
            for holder, held_alone in self.locks.get(lock, {}).items():
                if holder is not session and (alone or held_alone):
                    return False
        return True

    def lock(self, session: Session, locks: Mapping[Lock, bool]) -> None:
        """Until the session's transaction ends."""
        for lock, alone in locks.items():
            held = self.locks.setdefault(lock, {})
            held[session] = alone or held.get(session, False)

    def unlock(self, session: Session) -> None:
        """The transaction has ended."""
        for lock in [lock for lock, held in self.locks.items() if session in held]:
            del self.locks[lock][session]
            if not self.locks[lock]:
                del self.locks[lock]


class Statement:
    """What a session has asked, and, once it was `served`, the answer or the error."""

    def __init__(self, what: str, do: Callable[[], Any], locks: Mapping[Lock, bool]) -> None:
        self.what = what
        self.asker = str(getcurrent())
        self.do = do
        self.locks = locks
        self.served = False
        self.sent = self.answered = -math.inf  # when it arrives, and its answer
        self.seen: Mapping[str, int] | None = None  # tombstones, as they were when it began to wait for its locks
        self.answer: Any = None
        self.error: psycopg.Error | EncodeError | None = None


class IfThere(dict[Lock, bool]):
    """The lock of a row, if there is one when it is asked for."""

    def __init__(self, conn: Session, id: Any, lock: Lock) -> None:
        super().__init__({lock: True})
        self._conn = conn
        self._id = id

    def items(self) -> Any:
        """As of a dict."""
        return super().items() if self._conn.row(self._id) is not None else ()


class Session:
    """A connection, as the pool and `Database` use it; its writes are its own until they are committed."""

    def __init__(self, server: Postgres, process: Process) -> None:
        self.server = server
        self.process = process
        self.clock = process.clock
        self.closed = self.in_transaction = self.lost = False
        self.own = Data()  # of the transaction that is open
        self.request: Statement | None = None  # not served yet
        self.since = math.inf  # when it began to wait for a lock, or the last answer in a transaction was given
        # What the pool and the transactions keep with a connection.
        self.begin = "BEGIN"
        self.shared = self.pooled = self.full = False
        self.named = True
        self.patience: float | None = STATEMENT_TIMEOUT + GRACE
        self.deadline: float | None = None
        self.generation = 0
        self.expires_at = math.inf
        self.idle_since = self.wanted_at = 0.0
        self.user: int | None = None
        self.staged: list[bytes] = []

    @property
    def pgconn(self) -> Any:
        return self

    server_version = 160_000

    @property
    def wakes(self) -> float:
        """When the server gives up waiting for a lock, or for the client."""
        return self.since + (LOCK_TIMEOUT if self.request is not None else IDLE_IN_TRANSACTION)

    @property
    def under_way(self) -> bool:
        """Whether it may yet change something."""
        return self.in_transaction or self.since != math.inf

    def silent(self) -> bool:
        return not (self.closed or self.in_transaction or self.lost)

    def close(self) -> None:
        """By the client. What it has sent is run all the same; then the server gives up what was not committed."""
        self.closed = True
        if self.request is None:
            self.drop()

    def lose(self) -> None:
        """The connection breaks, which its user finds out by what it asks, or waits for."""
        self.lost = True
        if self.request is None or self.server.world.chance.random() < 0.5:
            self.drop()

    def drop(self) -> None:
        """At the server: roll back, and forget the session."""
        self.request = None
        self._end()
        if self in self.server.sessions:
            self.server.sessions.remove(self)

    def happen(self) -> None:
        """The server runs what was asked, or begins to wait for its locks, or has waited for long enough."""
        request, server, now = self.request, self.server, self.server.world.now
        if request is None:
            self.lost = True
            self.drop()
            return
        if server.free(self, request.locks):
            server.lock(self, request.locks)
            try:
                request.answer = request.do()
                if not self.in_transaction and self.own.rows:
                    self._commit()
            except (psycopg.Error, EncodeError) as error:
                request.error = error
        elif self.since == math.inf:
            self.since = now
            request.seen = dict(server.data.tombstones)
            return
        else:
            request.error = errors.LockNotAvailable("canceling statement due to lock timeout")
        if not self.in_transaction:
            server.unlock(self)
        self.request, request.served = None, True
        self.since = now if self.in_transaction else math.inf
        if self.closed or self.lost:
            self.drop()

    def said(self) -> str:
        """The statement."""
        if self.request is None:
            return f"postgres ends a transaction of {self.process}, in which nothing happens"
        asker, what = self.request.asker, self.request.what
        if self.server.free(self, self.request.locks):
            return f"postgres serves {asker}: {what}"
        return f"postgres {'waits' if self.since == math.inf else 'has waited'} for locks, for {asker}: {what}"

    def command(self, sql: str) -> str:
        """BEGIN, with what may follow it, COMMIT or ROLLBACK; others are of no concern."""
        word = sql.partition(" ")[0].rstrip(";")
        if word == "BEGIN":
            self.ask("BEGIN", self._open)
        elif word == "COMMIT":
            self.ask("COMMIT", self._commit)
        elif word == "ROLLBACK":
            self.ask("ROLLBACK", self._end)
        return word

    def commit_now(self) -> str:
        """As `Connection.commit_now`."""
        return self.command("COMMIT")

    def _open(self) -> None:
        self.in_transaction = True

    def _end(self) -> None:
        self.in_transaction = False
        self.own = Data()
        self.server.unlock(self)

    def _commit(self) -> None:
        data, own = self.server.data, self.own
        for key, row in own.rows.items():
            if row is None:
                data.rows.pop(key, None)
            else:
                data.rows[key] = row
        data.tombstones.update(own.tombstones)
        data.notes.update(own.notes)
        for repair, there in own.repairs.items():
            if there:
                data.repairs[repair] = True
            else:
                data.repairs.pop(repair, None)
        untold = {repair.key_text for repair, there in own.repairs.items() if there}
        for key, row in own.rows.items():
            if row is not None and key in own.resealed:
                self.server.resealed(key, row[1])
                continue
            version = own.deletions[key] if row is None else row[0]
            self.server.committed(key, version, None if row is None else row[1], str(key) in untold)
        self._end()

    def ask(self, what: str, do: Callable[[], T], locks: Mapping[Lock, bool] | None = None) -> T:
        """Have the server run a statement. Raises what the statement does, or `psycopg.OperationalError`."""
        if self.closed or self.lost:
            self.closed = True
            raise psycopg.OperationalError("the connection is closed")
        server = self.server
        request = self.request = Statement(what, do, locks or {})
        self.since = math.inf
        self._goes_wrong(request)

        def answered() -> bool:
            return self.lost or (
                request.served and request.answered <= server.world.now and server._reaches(self.process)
            )

        server.world.pause(answered, self.patience, f"postgres, {what}")
        if self.lost:
            self.closed = True
            raise psycopg.OperationalError("the connection is lost")
        if not answered():
            self.close()
            raise failures.WaitTimeout("wait timeout expired")
        if request.error is not None:
            raise request.error
        return request.answer  # type: ignore[no-any-return]

    def _goes_wrong(self, request: Statement) -> None:
        server, process, world = self.server, self.process, self.server.world
        if process in server.doomed and (request.what == "COMMIT" or (request.locks and not self.in_transaction)):
            server.doomed.discard(process)
            world.say(f"!! {process} has lost its connection to {server}, and {request.what}")
            self.lost = True
            request.sent = world.now + world.chance.choice(LATE)
            world.after(request.sent - world.now, lambda: None, f"{request.what} of {process} arrives, or is lost")
            if world.chance.random() < 0.3:
                self.drop()
        elif process in server.slow and request.what.startswith("SELECT"):
            server.slow.discard(process)
            at = world.now + world.chance.choice(SLOW)
            request.sent, request.answered = world.chance.choice(((at, at), (world.now, at)))
            world.after(at - world.now, lambda: None, f"!! {request.what} of {process} was under way for a while")

    # -- what a statement sees, and writes ----------------------------------------------------------------------

    def row(self, key: Any) -> tuple[int, tuple[Any, ...]] | None:
        """A row as the session sees it."""
        return self.own.rows[key] if key in self.own.rows else self.server.data.rows.get(key)

    def note(self, key: Any) -> RowNote | None:
        """That of a row, if there is a good one."""
        row, note = self.row(key), self.own.notes.get(key) or self.server.data.notes.get(key)
        return note if row is not None and note is not None and note.version == row[0] else None

    def lay(
        self, key: Any, version: int, columns: Mapping[str, Any], names: Sequence[str], *, changes: bool = False
    ) -> None:
        """Give a row some of its columns at a version, and note it."""
        old, good = self.row(key), self.note(key)
        assert old is not None
        self.own.notes[key] = noted(version, good or RowNote(old[0], old[0], {}), columns, changes=changes)
        self.own.rows[key] = (version, tuple(columns.get(n, v) for n, v in zip(names, old[1], strict=True)))

    def present(self) -> list[Any]:
        """The keys of the rows that it sees, in order."""
        keys = {*self.server.data.rows, *self.own.rows}
        return sorted(key for key in keys if self.row(key) is not None)

    def tombstone(self, key_text: str) -> int:
        """The version at which the key was deleted, as the session sees it: rows that a statement has waited for are
        looked at again, and not what it has read of other tables."""
        seen = None if self.request is None else self.request.seen
        held = self.server.data.tombstones if seen is None else seen
        return self.own.tombstones.get(key_text, held.get(key_text, 0))

    def repairs(self) -> list[Repair]:
        """The repairs that it sees."""
        seen = dict(self.server.data.repairs) | self.own.repairs
        return sorted(repair for repair, there in seen.items() if there)


class Listening(Session):
    """A session that hears notifications, as `strata.l3.listener.Listener` uses it; its own socket, too."""

    def __init__(self, server: Postgres, process: Process) -> None:
        super().__init__(server, process)
        self.flight: deque[str] = deque()  # notifications on their way
        self.heard: deque[str] = deque()
        self.listens = False
        self.mail = Notice(self)

    @property
    def socket(self) -> Listening:
        return self

    def command(self, sql: str) -> str:
        self.ask(sql, self._listen)
        return sql

    def _listen(self) -> None:
        self.listens = True

    def add_notify_handler(self, handler: object) -> None:
        """Of what comes while something is asked, which `notifies` gives as well."""

    def consume_input(self) -> None:
        if self.lost:
            raise psycopg.OperationalError("the connection is lost")

    def notifies(self) -> Any:
        return SimpleNamespace(extra=self.heard.popleft().encode()) if self.heard else None

    def results(self, sql: str) -> list[Any]:
        listens = self.ask("listens it", lambda: self.listens)
        return [SimpleNamespace(get_value=lambda *place: b"t" if listens else b"f")]


class Notice:
    """The next notification on its way to a session."""

    def __init__(self, session: Listening) -> None:
        self._session = session

    def happen(self) -> None:
        """It arrives."""
        self._session.heard.append(self._session.flight.popleft())

    def said(self) -> str:
        """What arrives."""
        return f"{self._session.process} is notified of {self._session.flight[0]}"


class SimEars:
    """Takes the place of `strata.waits.sockets.Ears`."""

    def __init__(self, session: Listening) -> None:
        self._session = session
        self._woken = False

    def wait(self, seconds: float) -> None:
        session = self._session
        session.server.world.pause(
            lambda: bool(session.heard) or session.lost or self._woken, seconds, "notifications of postgres"
        )
        self._woken = False

    def wake(self) -> None:
        self._woken = True


class SimTable:
    """Takes the place of a `Table`, of which it keeps what is no statement."""

    def __init__(self, table: Table) -> None:
        self.plan = table.plan
        self.name = table.name
        self.schema_name = table.schema_name
        self.mark = table.mark
        self.deferred = table.deferred
        self.locked = table.locked
        self.monthly = False
        self.partition = None
        self.alone = not table.locked
        self.sealed_names = table.sealed_names
        self.under_way = table.under_way
        self.waiting_repairs = table.waiting_repairs
        self._names = tuple(column.name for column in table.plan.columns)
        self._place = self._names.index(table.plan.key.names[0])
        self._sealed = tuple(map(self._names.index, table.sealed_names))

    def check(self, query: Any, further: int = 0) -> None:
        """Every query will do; conditions are of no concern, but that of `update_where`, which are some keys."""

    def order(self, query: Any) -> list[Any]:
        return []

    def changed(self) -> None:
        """The table is as it was."""

    def _row_lock(self, key: Any) -> Lock:
        return ("row", key)

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, conn: Session, id: Any) -> Row | None:
        return conn.ask(f"SELECT {id}", lambda: _row(conn.row(id)))

    def hold(self, conn: Session, id: Any) -> Row | None:
        return conn.ask(f"SELECT {id} FOR UPDATE", lambda: _row(conn.row(id)), IfThere(conn, id, self._row_lock(id)))

    def get_many(self, conn: Session, ids: Sequence[Any]) -> dict[Any, Row]:
        def do() -> dict[Any, Row]:
            found = {id: _row(conn.row(id)) for id in ids}
            return {id: row for id, row in found.items() if row is not None}

        return conn.ask(f"SELECT {list(ids)}", do)

    def exists(self, conn: Session, id: Any) -> bool:
        return conn.ask(f"EXISTS {id}", lambda: conn.row(id) is not None)

    def page(self, conn: Session, after: Any, limit: int, last: Any = None) -> list[Row]:
        def do() -> list[Row]:
            keys = [key for key in conn.present() if (after is None or key > after) and (last is None or key <= last)]
            return [row for key in keys[:limit] if (row := _row(conn.row(key))) is not None]

        return conn.ask("a page", do)

    def keys(self, conn: Session, after: Any, limit: int, last: Any = None) -> list[tuple[Any, int]]:
        return [(row.values[0], row.version) for row in self.page(conn, after, limit, last)]

    def key_bounds(self, conn: Session) -> tuple[Any, Any] | None:
        def do() -> tuple[Any, Any] | None:
            keys = conn.present()
            return (keys[0], keys[-1]) if keys else None

        return conn.ask("bounds", do)

    def search(self, conn: Session, query: Any) -> tuple[None, list[Row]]:
        def do() -> list[Row]:
            return [row for key in conn.present() if (row := _row(conn.row(key))) is not None]

        return None, conn.ask("search", do)

    def search_page(self, conn: Session, query: Any, after: Any) -> PageRows:
        def do() -> PageRows:
            keys = [key for key in conn.present() if key in query.args[0] and (after is None or key > int(after[0]))]
            some, more = keys[: query.limit], len(keys) > query.limit
            return PageRows(self.plan.key.names, [Row(0, (key,)) for key in some], (str(some[-1]),) if more else None)

        return conn.ask("a page of keys", do)

    def lock_fitting(self, conn: Session, query: Any, keys: Sequence[Any]) -> list[Any]:
        return [key for key in sorted(keys) if self.hold(conn, key) is not None]

    def count(self, conn: Session, query: Any) -> int:
        return conn.ask("count", lambda: len(conn.present()))

    def count_up_to(self, conn: Session, most: int) -> int:
        return min(self.count(conn, None), most)

    def stream(self, conn: Session, query: Any, chunk: int = 1000) -> Iterator[tuple[None, Row]]:
        for row in self.search(conn, query)[1]:
            yield None, row

    # -- writing ------------------------------------------------------------------------------------------------

    def lock_shards(self, conn: Session, shards: Mapping[int, bool]) -> None:
        locks = {("shard", self.mark, number): alone for number, alone in shards.items()}
        conn.ask(f"lock shards {shards}", lambda: None, locks)

    def _lock_key(self, conn: Session, key: Any, *, alone: bool) -> None:
        if self.locked:
            self.lock_shards(conn, {shard_of(self.plan.key_text(key)): alone})

    def upsert(self, conn: Session, values: Sequence[Any], version: int, node: int) -> Written:
        key = values[self._place]
        self._lock_key(conn, key, alone=False)
        return conn.ask(
            f"upsert {key}", lambda: self._put(conn, tuple(values), version, node), {self._row_lock(key): True}
        )

    def change(self, conn: Session, values: Sequence[Any], version: int, node: int) -> Written:
        key = values[self._place]
        return conn.ask(f"change {key}", lambda: self._put(conn, tuple(values), version, node, changes=True))

    def set_many(
        self, conn: Session, rows: Sequence[tuple[Any, ...]], versions: Sequence[int], node: int
    ) -> list[Written]:
        order = sorted(range(len(rows)), key=lambda at: rows[at][self._place])
        found = {at: self.upsert(conn, rows[at], versions[at], node) for at in order}
        return [found[at] for at in range(len(rows))]

    def insert_many(
        self, conn: Session, rows: Sequence[tuple[Any, ...]], versions: Sequence[int], node: int
    ) -> list[Written]:
        order = sorted(range(len(rows)), key=lambda at: rows[at][self._place])
        found = {at: self._insert(conn, rows[at], versions[at], node) for at in order}
        return [found[at] for at in range(len(rows))]

    def _insert(self, conn: Session, values: tuple[Any, ...], version: int, node: int) -> Written:
        key = values[self._place]

        def do() -> Written | None:
            return self._put(conn, values, version, node) if conn.row(key) is None else None

        written = conn.ask(f"insert {key}", do, {self._row_lock(key): True})
        if written is None:
            raise already_there(self.schema_name, key)
        return written

    def draw(self, conn: Session, count: int) -> list[Any]:
        raise NotImplementedError  # no model of the simulator has a Generated key

    def _put(
        self, conn: Session, values: tuple[Any, ...], version: int, node: int, *, changes: bool = False
    ) -> Written:
        key = values[self._place]
        if conn.server.refuses(values):
            raise Violates("a row that is refused")
        held = conn.row(key)
        if held is not None:
            version = max(version, raised(held[0], node))
        buried = conn.tombstone(self.plan.key_text(key)) if self.deferred else 0
        if held is None and buried:
            version = max(version, raised(buried, node))
        if UNLOADED in values or changes:
            if held is None:
                raise EncodeError("there is no row to keep them from")
            merged = tuple(old if value is UNLOADED else value for old, value in zip(held[1], values, strict=True))
            if self.deferred:
                conn.lay(key, version, self._columns(values), self._names, changes=changes)
            conn.own.rows[key] = (version, merged)
        else:
            merged = self._kept(conn, values)
            conn.own.rows[key] = (version, merged)
        other = [
            (name, value) for name, given, value in zip(self._names, values, merged, strict=True) if value != given
        ]
        return Written(version, tuple(value for _, value in other), tuple(name for name, _ in other))

    def _columns(self, values: Sequence[Any], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Those that were given, but for the key, by name."""
        given = dict(zip(names or self._names, values, strict=True))
        return {
            name: value for name, value in given.items() if value is not UNLOADED and name not in self.plan.key.names
        }

    def _kept(self, conn: Session, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row as L3 has it."""
        return tuple(conn.server.keeps(value) if place == KEPT else value for place, value in enumerate(values))

    def delete(self, conn: Session, id: Any, version: int, node: int) -> int:
        self._lock_key(conn, id, alone=True)
        return conn.ask(f"delete {id}", lambda: self._delete(conn, id, version, node), {self._row_lock(id): True})

    def _delete(self, conn: Session, id: Any, version: int, node: int) -> int:
        held, text = conn.row(id), self.plan.key_text(id)
        if held is not None:
            version = max(version, raised(held[0], node))
        if self.deferred:
            buried = conn.tombstone(text)
            version = max(version, raised(buried, node)) if buried else version
            conn.own.tombstones[text] = version
        conn.own.deletions[id] = version
        conn.own.rows[id] = None
        return version

    def update_held(self, conn: Session, held: Held, assigned: Assigned, version: int, node: int) -> dict[Any, int]:
        def do() -> dict[Any, int]:
            return {key: self._lay(conn, key, self._columns(assigned.values), version, node) for key in held.keys}

        return conn.ask(f"update {list(held.keys)}", do)

    def _lay(self, conn: Session, key: Any, columns: dict[str, Any], version: int, node: int) -> int:
        row = conn.row(key)
        assert row is not None
        version = max(version, raised(row[0], node))
        if self.deferred:
            conn.lay(key, version, columns, self._names)
        else:
            conn.own.rows[key] = (version, tuple(columns.get(n, v) for n, v in zip(self._names, row[1], strict=True)))
        return version

    def delete_held(self, conn: Session, held: Held, version: int, node: int) -> dict[Any, int]:
        def do() -> dict[Any, int]:
            return {key: self._delete(conn, key, version, node) for key in held.keys}

        return conn.ask(f"delete {list(held.keys)}", do)

    def apply(self, conn: Session, changes: Sequence[Change]) -> list[Applied]:
        order = sorted(range(len(changes)), key=lambda at: changes[at].key)
        shards: dict[int, bool] = {}
        for change in changes:
            shard = shard_of(change.key_text)
            shards[shard] = shards.get(shard, False) or change.delete or change.names is not None or change.adds
        self.lock_shards(conn, dict(sorted(shards.items())))
        found = {}
        for at in order:
            try:
                found[at] = self._apply_one(conn, changes[at])
            except psycopg.Error as error:
                if conn.closed or classify(error.sqlstate or "") is Failure.OUTAGE:
                    raise
                raise failures.batch_error(error).at([at]) from error
        return [found[at] for at in range(len(changes))]

    def _apply_one(self, conn: Session, change: Change) -> Applied:
        def do() -> Applied:
            held, buried = conn.row(change.key), conn.tombstone(change.key_text)
            version = 0 if held is None else held[0]
            if change.adds:
                return self._add(conn, change)
            if not change.delete and self._lay_late(conn, change):
                return Applied(change.key, Status.SUPERSEDED, conn.row(change.key)[0], late=True)  # type: ignore[index]
            if version > change.version or buried > change.version or (buried == change.version and not change.delete):
                return Applied(change.key, Status.SUPERSEDED, max(version, buried))
            if change.delete:
                if buried < change.version:
                    conn.own.tombstones[change.key_text] = change.version
                    conn.own.deletions[change.key] = change.version
                    conn.own.rows[change.key] = None
                return Applied(change.key, Status.APPLIED, change.version)
            assert change.values is not None
            if change.names is not None:
                if held is None:
                    return Applied(change.key, Status.MISSING_ROW, buried)
                if version < change.version:
                    conn.lay(change.key, change.version, self._columns(change.values, change.names), self._names)
                return Applied(change.key, Status.APPLIED, change.version)
            if version < change.version:
                if conn.server.refuses(change.values):
                    raise Violates("a row that is refused")
                held = (change.version, self._kept(conn, change.values))
                conn.own.rows[change.key] = held
            assert held is not None
            if held[1] == change.values:
                return Applied(change.key, Status.APPLIED, change.version)
            return Applied(change.key, Status.APPLIED, change.version, (held[1][KEPT],), (self._names[KEPT],))

        return conn.ask(f"apply {change.key} {change.version}", do, {self._row_lock(change.key): True})

    def _lay_late(self, conn: Session, change: Change) -> bool:
        """Give a row the columns that newer writes did not carry; whether there are any."""
        row, good = conn.row(change.key), conn.note(change.key)
        if row is None or good is None or not good.base < change.version < row[0]:
            return False
        given = self._columns(change.values or (), change.names)
        given = {name: value for name, value in given.items() if good.decided(name) < change.version}
        if not given:
            return False
        version = above(row[0], LATE_NODES)
        base, columns = good.base, {**good.columns, **dict.fromkeys(given, change.version)}
        if change.names is None:
            base, columns = change.version, apart(good.base, good.columns, good.changed, change.version)
        given = {name: on_top(value, good.added, name, change.version) for name, value in given.items()}
        conn.lay(change.key, version, given, self._names)
        conn.own.notes[change.key] = RowNote(version, base, columns, good.added, good.changed)
        return True

    def _add(self, conn: Session, change: Change) -> Applied:
        """What `strata.l3.increments` does with a row, by the same reckoning."""
        conn.server.told(change.key, change.added)
        held, buried, keys = conn.row(change.key), conn.tombstone(change.key_text), self.plan.key.names
        if held is None:
            standing = Standing.gone(buried)
        else:
            note = conn.note(change.key)
            standing = Standing.of(self._names, *held, note)
        found = reckoned(standing, change, self._names, keys, 0)
        if found.written is not None and standing.values is not None:
            version = found.applied.version
            conn.own.rows[change.key] = (version, tuple(standing.values[name] for name in self._names))
            conn.own.notes[change.key] = RowNote(
                version, standing.base, standing.columns, standing.added, standing.changed
            )
        return found.applied

    def sealed(self, conn: Session, after: Any, limit: int, current: str) -> list[Sealed]:
        def do() -> list[Sealed]:
            keys = [key for key in conn.present() if after is None or key > after]
            return [Sealed(key, stale(row.values)) for key in keys[:limit] if (row := _row(conn.row(key))) is not None]

        def stale(values: tuple[Any, ...]) -> tuple[str | None, ...]:
            return tuple(None if values[at].startswith(current) else values[at] for at in self._sealed)

        return conn.ask("a page of ciphertexts", do)

    def replace_sealed(self, conn: Session, rows: Sequence[tuple[Sealed, Sequence[str | None]]]) -> int:
        def do() -> int:
            return sum(replace(sealed, fresh) for sealed, fresh in rows)

        def replace(sealed: Sealed, fresh: Sequence[str | None]) -> bool:
            held = conn.row(sealed.key)
            texts = [text for text in zip(self._sealed, sealed.texts, fresh, strict=True) if text[2] is not None]
            if held is None or any(held[1][at] != old for at, old, _ in texts):
                return False
            new = {at: text for at, _, text in texts}
            conn.own.rows[sealed.key] = (held[0], tuple(new.get(at, value) for at, value in enumerate(held[1])))
            conn.own.resealed.add(sealed.key)
            return True

        locks = {self._row_lock(sealed.key): True for sealed, _ in rows}
        return conn.ask(f"reseal {[sealed.key for sealed, _ in rows]}", do, locks)

    # -- what Strata's own tables hold --------------------------------------------------------------------------

    def note_of(self, conn: Session, key_text: str) -> RowNote | None:
        def do() -> RowNote | None:
            key = self.plan.parse_key(key_text)
            return conn.own.notes.get(key) or conn.server.data.notes.get(key)

        return conn.ask(f"SELECT the note of {key_text}", do)

    def noted(self, conn: Session, key_texts: Sequence[str]) -> set[str]:
        def do() -> set[str]:
            return {text for text in map(str, [*conn.server.data.notes, *conn.own.notes]) if text in key_texts}

        return conn.ask(f"notes of {list(key_texts)}", do)

    def tombstone(self, conn: Session, key_text: str) -> int:
        return conn.ask(f"tombstone of {key_text}", lambda: conn.tombstone(key_text))

    def record_repairs(self, conn: Session, versions: Mapping[str, int]) -> None:
        def do(key_text: str, version: int) -> None:
            for repair in conn.repairs():
                if repair.key_text == key_text and repair.version < version:
                    conn.own.repairs[repair] = False
            conn.own.repairs[Repair(key_text, version)] = True

        for key_text, version in versions.items():
            conn.ask(f"leave a repair of {key_text}", partial(do, key_text, version))

    def take_repairs(self, conn: Session, limit: int, after: Repair = FIRST) -> list[Repair]:
        def do() -> list[Repair]:
            return [repair for repair in conn.repairs() if repair.key_text and repair > after][:limit]

        return conn.ask("take repairs", do, {("repairs", self.mark): True})

    def take_whole_repairs(self, conn: Session, limit: int) -> list[Repair]:
        def do() -> list[Repair]:
            return [repair for repair in conn.repairs() if not repair.key_text][:limit]

        return conn.ask("take whole repairs", do, {("repairs", self.mark): True})

    def repairs_done(self, conn: Session, rows: Sequence[Repair]) -> None:
        def do() -> None:
            for repair in rows:
                conn.own.repairs[repair] = False

        conn.ask(f"repairs done: {list(rows)}", do)


def _row(held: tuple[int, tuple[Any, ...]] | None) -> Row | None:
    return None if held is None else Row(*held)
