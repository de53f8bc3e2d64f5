"""Garbage of each kind, planted while everything else goes wrong too: where ours may stand, in shapes that nothing of
ours has (`tests/nonsense.py`).

The promise holds for every acknowledged write all the same, since nothing is planted over the only copy of one. What
nobody else has is replaced where it can be told from elsewhere (due times, claims, floors, a copy in L2); the hashes
with the writes themselves, the dead letters and the failures that were told only get a stranger where nothing stands.
Garbage with a place of its own in the ledger must end as what an operator sees.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis
from kombu.exceptions import KombuError

from strata import DeadLetter
from strata.l3.outside import CHANNEL
from strata.protocol.keyspace import Keyspace
from strata.protocol.shards import SHARDS
from strata.protocol.versions import text
from strata.writebehind.fleet.broker import TASKS
from strata.writebehind.ledger.ledger import _KINDS
from strata.writebehind.ledger.shard import Shard, home_of
from strata.writebehind.persist.dead_letters import UNREADABLE
from tests import nonsense
from tests.faults.chaos.writer import HOT, STRIDE
from tests.fleet import send_nonsense

OWN = 900 * STRIDE  # keys from here on are no writer's
REPLACED = ("due", "claims", "floor0", "floor1", "epoch", "bell")  # parts of a shard that are told from elsewhere
FLEET = ("alive", "pulse", "sweep", "looks", "audited")


@dataclass
class Planted:
    """How many of a kind were planted: for certain, and at most, where a connection broke over it."""

    certain: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    rows: set[int] = field(default_factory=set)  # keys whose write stands in a journal, before its garbage

    @contextmanager
    def one(self, kind: str) -> Iterator[None]:
        """Plant one of a kind in the `with` block."""
        self.most[kind] += 1
        yield
        self.certain[kind] += 1


@dataclass
class Seen:
    """What an operator saw of it at the end, and removed."""

    letters: list[DeadLetter] = field(default_factory=list)
    waiting: list[DeadLetter] = field(default_factory=list)
    left: int = 0  # letters that could not be removed
    aside: list[str] = field(default_factory=list)  # journals that were set aside
    rows: set[int] = field(default_factory=set)


def is_planted(letter: DeadLetter) -> bool:
    """Whether a letter is none of a writer's writes."""
    beyond = letter.version > nonsense.soon(3600)
    return beyond or letter.op == UNREADABLE or not isinstance(letter.key, int) or letter.key >= OWN


def judge(planted: Planted, seen: Seen, *, lost: bool) -> list[str]:
    """What is wrong. `lost`: the ledger was emptied, and what was planted there with it."""
    own = [letter for letter in seen.letters if not isinstance(letter.key, int) or letter.key >= OWN]
    wrong = [f"{seen.left} dead letters that nobody can read cannot be removed"] if seen.left else []
    for what, kinds, count in (
        ("entries and letters that nobody can read", ("entry", "forged", "letter"), len(own)),
        ("entries of a newer release", ("newer",), len(seen.waiting)),
        ("damaged journals", ("journal",), len(seen.aside)),
    ):
        least, most = (sum(counts[kind] for kind in kinds) for counts in (planted.certain, planted.most))
        if not (0 if lost and what != "damaged journals" else least) <= count <= most:
            wrong.append(f"{count} {what} were seen, of {least} to {most} that were planted")
    if missing := planted.rows - seen.rows:
        wrong.append(f"{len(missing)} writes that stood in a journal before its damage are not in L3")
    return wrong


class GarbageFaults:
    """Plants in the servers and the journals' directory. Used by one thread."""

    def __init__(
        self, dsn: str, valkeys: Sequence[Any], broker: Any, namespace: str, journals: Path, keys: Sequence[int]
    ) -> None:
        self._dsn = dsn
        self._ledger, self._cache = (redis.Redis(port=one.port, socket_timeout=2) for one in (valkeys[-1], valkeys[0]))
        self._broker = broker
        self._names = Keyspace(namespace)
        self._journals = journals
        self._keys = keys
        self._hot = [key for key in keys if key % STRIDE < HOT]
        self._count = 0
        self.planted = Planted()

    def all(self) -> list[Any]:
        return [
            self.l2_key_of_another_type, self.l2_value, self.l2_value, self.shard_part_of_another_type,
            self.shard_part_replaced, self.outcomes_of_another_type, self.outcome, self.fleet_key_of_another_type,
            self.ledger_entry, self.ledger_entry, self.ledger_entry_of_a_writer, self.ledger_entry_that_does_not_fit,
            self.ledger_entry_of_a_newer_release, self.dead_letter, self.bus_message, self.bus_message,
            self.notification, self.journal, self.job, self.task_arguments, self.message_that_is_none,
        ]  # fmt: skip

    # -- L2 -------------------------------------------------------------------------------------------------------

    def l2_key_of_another_type(self, rng: random.Random) -> None:
        for key in self._some(rng):
            self._stand(rng, self._cache, self._names.records("item") + str(key))

    def l2_value(self, rng: random.Random) -> None:
        now = b"V1:%019d:%c:" % (nonsense.soon(), rng.choice(b"sp"))
        for key in self._some(rng):
            value = rng.choice([*nonsense.VALUES, now + rng.randbytes(30), rng.randbytes(rng.randrange(200))])
            self._cache.set(self._names.records("item") + str(key), value, px=rng.choice([None, 600_000]))

    # -- the ledger -----------------------------------------------------------------------------------------------

    def shard_part_of_another_type(self, rng: random.Random) -> None:
        """Only where nothing stands: what is replaced in these parts would be lost."""
        for part in _KINDS:
            key = self._part(rng, part)
            if _KINDS[part] == "string":
                self._ledger.eval(
                    "return redis.call('EXISTS', KEYS[1]) == 0 and redis.call('RPUSH', KEYS[1], 'x')", 1, key
                )
            else:
                self._ledger.set(key, "somebody's", nx=True)

    def shard_part_replaced(self, rng: random.Random) -> None:
        for part in REPLACED:
            self._stand(rng, self._ledger, self._part(rng, part), _KINDS[part])

    def ledger_entry(self, rng: random.Random) -> None:
        """Bytes that are no entry, or an entry of what is no key."""
        key = str(self._next()).encode()
        odd = rng.choice(nonsense.NO_KEYS)
        shapes = [(key, raw) for raw in nonsense.NO_ENTRIES] + [(b"%b no %b" % (odd, key), nonsense.DELETION)]
        name, raw = rng.choice([*shapes, (key, b"\xc1" + rng.randbytes(rng.randrange(200)))])
        with self.planted.one("entry"):
            self._enter(rng, Shard("item", rng.randrange(SHARDS)), name, raw)

    def ledger_entry_of_a_writer(self, rng: random.Random) -> None:
        """Where none of its own is pending; the next write takes its place, or it becomes a letter."""
        for key in self._some(rng):
            self._enter(rng, home_of("item", str(key)), str(key).encode(), rng.choice(nonsense.NO_ENTRIES))

    def ledger_entry_that_does_not_fit(self, rng: random.Random) -> None:
        key = self._next()
        good = {"id": key, "n": 1, "amount": 0, "padding": ""}
        wrong: dict[str, Any] = rng.choice(
            [{"id": 5}, {"n": "one"}, {"n": 1 << 63}, {"padding": "\0"}, {"amount": None}]
        )
        with self.planted.one("forged"):
            raw = nonsense.forged(nonsense.soon(), good | wrong)
            self._enter(rng, home_of("item", str(key)), str(key).encode(), raw)

    def ledger_entry_of_a_newer_release(self, rng: random.Random) -> None:
        key = str(self._next())
        with self.planted.one("newer"):
            self._enter(rng, home_of("item", key), key.encode(), nonsense.newer(nonsense.soon()))

    def dead_letter(self, rng: random.Random) -> None:
        number = self._next() - OWN
        name = rng.choice([text(number).encode(), b"no version-%%/ %d" % number])
        dead, deaths, untold = (self._names.own(f"item:{number % SHARDS}", one) for one in ("dead", "deaths", "untold"))
        with self.planted.one("letter"), self._ledger.pipeline() as pipe:
            seconds, _ = self._ledger.time()
            pipe.hset(dead, name, rng.choice(nonsense.LETTERS))
            pipe.zadd(deaths, {name: seconds * 1000})
            pipe.hset(untold, name, "1")
            pipe.execute()

    # -- outcomes, and what the fleet says ------------------------------------------------------------------------

    def outcome(self, rng: random.Random) -> None:
        for instance in self._instances():
            raw = rng.choice(nonsense.outcomes("item", str(rng.choice(self._keys))))
            self._ledger.rpush(self._names.own(instance, "outcomes"), raw)

    def outcomes_of_another_type(self, rng: random.Random) -> None:
        """Only where none wait: that a record was given up is told by nothing else."""
        for instance in self._instances():
            self._ledger.set(self._names.own(instance, "outcomes"), "x", nx=True)
        self._ledger.set(self._names.own("outcomes", "waiting"), "x", nx=True)

    def fleet_key_of_another_type(self, rng: random.Random) -> None:
        for name in FLEET:
            self._stand(rng, self._ledger, self._names.own("fleet", name))

    # -- messages -------------------------------------------------------------------------------------------------

    def bus_message(self, rng: random.Random) -> None:
        for key in self._some(rng):
            self._cache.publish(
                self._names.channel("strata:invalidate"), rng.choice(nonsense.messages("item", str(key)))
            )
        for channel in self._cache.pubsub_channels(self._names.channel("strata:invalidate:*")):
            self._cache.publish(channel, rng.choice([b"", b"\xff" * 1000, b"[" * nonsense.DEEP]))

    def notification(self, rng: random.Random) -> None:
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=2) as conn:
            for payload in nonsense.notices("item", str(rng.choice(self._keys))):
                conn.execute("SELECT pg_notify(%s, %s)", [CHANNEL, payload[:7_900]])

    def task_arguments(self, rng: random.Random) -> None:
        for args, kwargs in nonsense.ARGUMENTS:
            self._send(rng.choice([TASKS[0], TASKS[0], *TASKS, "strata.nothing"]), args, kwargs)

    def message_that_is_none(self, rng: random.Random) -> None:
        with self._unless_away():
            send_nonsense(self._broker, self._names.queue(rng.choice(TASKS)))

    def _send(self, task: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        with self._unless_away(), self._broker.connection_for_write() as connection:
            queue = self._names.queue(TASKS[0])
            self._broker.send_task(
                task, args, kwargs, queue=queue, connection=connection, retry=False, ignore_result=True
            )

    @contextmanager
    def _unless_away(self) -> Iterator[None]:
        with contextlib.suppress(KombuError, OSError, redis.RedisError):
            yield

    # -- journals and jobs ----------------------------------------------------------------------------------------

    def journal(self, rng: random.Random) -> None:
        """Garbage, zeros, or garbage behind a write, which is to be found."""
        number = self._next()
        damaged, written = rng.random() < 0.7, rng.random() < 0.5
        end = rng.choice(nonsense.journals("item")) if damaged else bytes(rng.randrange(5_000))
        good = b""
        if written:
            row = {"id": number, "n": 1, "amount": 0, "padding": "from a journal"}
            good = nonsense.record("item", str(number), nonsense.forged(nonsense.soon(), row))
            self.planted.rows.add(number)
        name = f"strata-planted{number}-00000001.journal"
        self._journals.mkdir(mode=0o700, exist_ok=True)
        draft = self._journals / f"{name}.draft"
        draft.write_bytes(good + end)
        self.planted.files.add(name)
        if damaged:
            with self.planted.one("journal"):
                draft.rename(self._journals / name)
        else:
            draft.rename(self._journals / name)

    def job(self, rng: random.Random) -> None:
        id = f"{rng.getrandbits(64):x}"
        record, opened = self._names.own("job", id), self._names.own("job", "open")
        with self._ledger.pipeline() as pipe:
            if rng.random() < 0.2:
                pipe.rpush(record, "x")
            else:
                pipe.hset(record, mapping=rng.choice(nonsense.JOBS))  # type: ignore[arg-type]
                pipe.zadd(f"{record}:due", {"0": 1})
                pipe.hset(f"{record}:parts", "0", rng.choice([b"", b"\xff", b"[" * nonsense.DEEP, b'{"kind":5}']))
            pipe.zadd(opened, {rng.choice([id.encode(), b"\xff" + id.encode()]): 1})
            pipe.execute()
        if rng.random() < 0.1:
            self._stand(rng, self._ledger, opened)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _some(self, rng: random.Random) -> Iterable[int]:
        return rng.sample(self._hot, 10) + rng.sample(self._keys, 10)

    def _next(self) -> int:
        self._count += 1
        return OWN + self._count

    def _part(self, rng: random.Random, part: str) -> str:
        return self._names.own(f"item:{rng.randrange(SHARDS)}", part)

    def _instances(self) -> list[str]:
        found: Any = self._ledger.keys(self._names.own("*", "alive"))
        tags = [name.decode().split("{")[1].split("}")[0] for name in found]
        return [tag for tag in tags if tag != "fleet"]

    def _enter(self, rng: random.Random, shard: Shard, name: bytes, raw: bytes) -> None:
        """A field of the ledger, where there is none of that name, with a due time or without."""
        if self._ledger.hsetnx(self._names.own(shard.tag, "dirty"), name, raw) and rng.random() < 0.5:
            self._ledger.zadd(self._names.own(shard.tag, "due"), {name: 1})

    def _stand(self, rng: random.Random, client: redis.Redis, key: str, instead: str = "string") -> None:
        """Something of another type than `instead`."""
        with client.pipeline() as pipe:
            pipe.delete(key)
            if instead != "string" and rng.random() < 0.5:
                pipe.set(key, "somebody's")
            elif rng.random() < 0.5 and instead != "list":
                pipe.rpush(key, "x")
            else:
                pipe.sadd(key, "x")
            pipe.execute()
