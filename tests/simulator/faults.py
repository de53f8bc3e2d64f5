"""What can happen to processes and servers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulator.network import Server, SimStream
from tests.simulator.postgres import Postgres
from tests.simulator.process import Process
from tests.simulator.world import World

JUMPS = (-25.0, -1.5, 1.5, 25.0)  # seconds
LEDGERS = b"{item:"  # what is in the names of the ledger's keys


class Faults:
    """Each method is one, of somebody and for a while that are drawn. `kill_one` ends a process."""

    def __init__(
        self, world: World, processes: Sequence[Process], servers: Sequence[Server], postgres: Postgres
    ) -> None:
        self._world = world
        self._processes = processes
        self._servers = servers
        self._postgres = postgres
        self.kill_one: Callable[[Process], None] = lambda process: process.kill()
        self.forge_for: Callable[[Process, str], str] = lambda process, what: "nothing"
        self.lost: Callable[[Server], None] = lambda server: None  # told of who has lost what it had

    def happens(self, fault: str) -> bool:
        """A fault by its name, or, as in `kill@0`, that of one process; whether there was what it could happen to."""
        name, _, number = fault.partition("@")
        everybody = self._processes
        self._processes = [everybody[int(number)]] if number else everybody
        done = getattr(self, name)()
        self._processes = everybody
        return done is not False

    @property
    def _chance(self) -> random.Random:
        return self._world.chance

    def _some(self, things: Sequence[Any]) -> Any:
        return self._chance.choice(things) if things else None

    def _seconds(self) -> float:
        return float(self._chance.choice((0.2, 1.2, 4.0, 12.0, 40.0)))

    def _for_a_while(self, said: str, end: Callable[[], None]) -> None:
        seconds = self._seconds()
        self._world.say(f"!! {said} for {seconds:g} s")
        self._world.after(seconds, end, f"no more: {said}")

    def kill(self) -> None:
        """A process ends in the midst of things, and another takes its place."""
        process = self._some([process for process in self._processes if process.alive])
        self._world.say(f"!! {process} is killed")
        self.kill_one(process)

    def cancel(self) -> bool:
        """A task that awaits a call is cancelled, as soon as one does."""
        tasks = [task for task in self._world.tasks if task.awaited and task.process in self._processes]
        task = self._some([task for task in tasks if not task.cancelled])
        if task is not None:
            self._world.say(f"!! {task} is cancelled")
            task.cancel()
        return task is not None

    def freeze(self) -> None:
        """A process stands still, as a virtual machine that is moved."""
        process = self._some(self._processes)
        process.frozen = True
        self._for_a_while(f"{process} stands still", lambda: setattr(process, "frozen", False))

    def cut_redis(self) -> None:
        """Nothing gets through between a process and a Redis."""
        process, server = self._some(self._processes), self._some(self._servers)
        server.cut.add(process)
        self._for_a_while(f"{process} is cut off from {server}", lambda: server.cut.discard(process))

    def cut_postgres(self) -> None:
        """Nothing gets through between a process and PostgreSQL."""
        process = self._some(self._processes)
        self._postgres.cut.add(process)
        self._for_a_while(f"{process} is cut off from postgres", lambda: self._postgres.cut.discard(process))

    def freeze_redis(self) -> None:
        """A Redis does nothing, and its connections stay."""
        server = self._some(self._servers)
        server.frozen = True
        self._for_a_while(f"{server} stands still", lambda: setattr(server, "frozen", False))

    def mute(self) -> None:
        """A Redis refuses what a process publishes."""
        process, server = self._some(self._processes), self._some(self._servers)
        server.mute.add(process)
        self._for_a_while(f"{process} may not publish on {server}", lambda: server.mute.discard(process))

    def mute_all(self) -> None:
        """A Redis refuses what anybody publishes."""
        server = self._some(self._servers)
        server.mute.update(self._processes)
        self._for_a_while(f"nobody may publish on {server}", server.mute.clear)

    def read_only(self) -> None:
        """A Redis takes no writes."""
        server = self._some(self._servers)
        server.valkey.read_only = True
        self._for_a_while(f"{server} takes no writes", lambda: setattr(server.valkey, "read_only", False))

    def fail_over(self) -> None:
        """A replica, which has what a Redis had some time before, takes its place."""
        server = self._some(self._servers)
        copy = server.valkey.copied()

        def happen() -> None:
            server.restart(empty=False)
            server.valkey.restore(copy)
            self.lost(server)

        self._world.say(f"!! {server} replicates no more")
        self._world.after(self._chance.choice((0.0, 0.0, 0.05, 0.6)), happen, f"!! the replica of {server} takes over")

    def freeze_postgres(self) -> None:
        """PostgreSQL does nothing, and its connections stay."""
        self._postgres.freeze()
        self._for_a_while("postgres stands still", self._postgres.go_on)

    def lose_stream(self) -> None:
        """A connection to a Redis breaks."""
        stream = self._some([stream for server in self._servers for stream in self._streams(server)])
        if stream is not None:
            self._world.say(f"!! {stream.process} loses a connection to {stream.server}")
            stream.lose()

    def lose_streams(self) -> None:
        """All connections of a process to a Redis break."""
        process, server = self._some(self._processes), self._some(self._servers)
        self._world.say(f"!! {process} loses its connections to {server}")
        for stream in self._streams(server):
            if stream.process is process:
                stream.lose()

    def lose_call(self) -> None:
        """The connection breaks over which a process sends its next command, which may be run later."""
        self._some(self._servers).doomed.add(self._some(self._processes))

    def slow_call(self) -> None:
        """The next answer of a Redis to a process is a while on its way."""
        self._some(self._servers).slow.add(self._some(self._processes))

    def lose_commit(self) -> None:
        """The connection breaks over which a process sends its next commit, which may happen later."""
        self._postgres.doomed.add(self._some(self._processes))

    def slow_read(self) -> None:
        """The next row that a process asks for is a while on its way."""
        self._postgres.slow.add(self._some(self._processes))

    def late_handoff(self) -> bool:
        """What is handed off is a while on its way, as soon as something is."""

        def hold(stream: SimStream) -> None:
            stream.held = self._world.now + self._chance.choice((0.02, 0.3))
            self._world.say(
                f"!! what {stream.process} hands off is on its way until {stream.held - self._world.began:g}"
            )

        return self._strikes("handoff", hold)

    def slow_put(self) -> bool:
        """The answer to a put is a while on its way, as soon as there is one."""
        return self._strikes("put", lambda stream: stream.server.slow.add(stream.process))

    def lose_floor(self) -> bool:
        """A connection breaks over which the ledger was to be told of what L3 has, as soon as there is one."""
        return self._lose("done")

    def lose_intent(self) -> bool:
        """A connection breaks over which an intent was sent, as soon as there is one."""
        return self._lose("intent")

    def _lose(self, script: str) -> bool:
        def lose(stream: SimStream) -> None:
            self._world.say(f"!! {stream.process} loses the connection over which it sent {script}")
            stream.lose()

        return self._strikes(script, lose)

    def kill_committed(self) -> bool:
        """A process ends when it has committed, and told nobody but the ledger, as soon as there is one."""
        return self._strikes("done", self._kill_at)

    def kill_handed_off(self) -> bool:
        """A process ends when it has handed off to a ledger apart, and told nobody else, as soon as there is one."""

        def kill(stream: SimStream) -> None:
            stream.lose()
            self._kill_at(stream)

        return self._strikes("pend", kill)

    def _kill_at(self, stream: SimStream) -> None:
        self._world.say(f"!! {stream.process} is killed")
        self.kill_one(stream.process)

    def _strikes(self, script: str, do: Callable[[SimStream], None]) -> bool:
        """What is done to the first connection over which a script was sent that has not run; whether there is one."""
        sent = (stream for server in self._servers for stream in self._streams(server) if stream.asks(script))
        stream = next(sent, None)
        if stream is not None:
            do(stream)
        return stream is not None

    def _streams(self, server: Server) -> list[SimStream]:
        return [stream for stream in server.streams if not stream.hung_up and stream.process in self._processes]

    def moment(self) -> None:
        """Some time passes in which nobody gets on."""
        seconds = self._chance.choice((0.02, 0.2, 1.2))
        self._world.say(f"!! {seconds:g} s pass")
        self._world.now += seconds

    def crowd_out(self) -> None:
        """The L1 of a process gives up what it has of the schema, to have room."""
        process = self._some(self._processes)
        l1 = process.inside.schemas["item"].l1
        if l1.store is not None:
            self._world.say(f"!! L1 of {process} has no room for {list(l1.entries)}")
            for key in list(l1.entries):
                l1.store.drop(key)

    def evict_intent(self) -> bool:
        """A Redis gives up a key of which a writer is about to commit, as soon as there is one; whether there was."""
        return self._evict(b"I1:")

    def lose_session(self) -> None:
        """A connection to PostgreSQL breaks."""
        session = self._some([session for session in self._postgres.sessions if session.process in self._processes])
        if session is not None:
            self._world.say(f"!! {session.process} loses a connection to postgres")
            session.lose()

    def forge(self) -> None:
        """Somebody puts a version of the far future where Strata keeps its own."""
        self._forge("")

    def forge_message(self) -> None:
        """... into a message."""
        self._forge("message")

    def forge_outcome(self) -> None:
        """... into an outcome."""
        self._forge("outcome")

    def _forge(self, what: str) -> None:
        process = self._some([process for process in self._processes if process.alive])
        self._world.say(f"!! somebody forges {self.forge_for(process, what)}")

    def redis_down(self) -> None:
        """A Redis runs no more, and then again, with what it had."""
        server = self._some(self._servers)
        server.restart(empty=False)
        server.up = False
        self._for_a_while(f"{server} is down", lambda: setattr(server, "up", True))

    def postgres_down(self) -> None:
        """PostgreSQL runs no more, and then again, with all that was committed."""
        self._postgres.stop()
        self._for_a_while("postgres is down", self._postgres.go_on)

    def restart_redis(self) -> None:
        """A Redis is there again at once, with nothing in it."""
        server = self._some(self._servers)
        self._world.say(f"!! {server} restarts, empty")
        server.restart(empty=True)
        self.lost(server)

    def restart_postgres(self) -> None:
        """PostgreSQL is there again at once, with all that was committed."""
        self._world.say("!! postgres restarts")
        self._postgres.restart()

    def clock(self) -> None:
        """A process's wall clock is set, by no more than the documentation allows."""
        process, seconds = self._some(self._processes), self._chance.choice(JUMPS)
        self._world.say(f"!! the clock of {process} is set {seconds:+g} s")
        process.clock.ahead = seconds

    def clock_of_redis(self) -> None:
        """That of a Redis is, by which versions and expiry go."""
        server, seconds = self._some(self._servers), self._chance.choice(JUMPS)
        self._world.say(f"!! the clock of {server} is set {seconds:+g} s")
        server.ahead = seconds

    def evict(self) -> None:
        """A Redis gives a key up, to have room."""
        self._evict(b"")

    def _evict(self, head: bytes) -> bool:
        keys = [
            (server, key)
            for server in self._servers
            for key, held in server.valkey.data.items()
            if b"item" in key and (not head or (type(held) is bytes and held.startswith(head)))
        ]
        if keys:
            server, key = self._some(keys[-4:])  # of those that were stored last, which matter here
            self._world.say(f"!! {server} evicts {key!r}")
            server.valkey.do_del(key)
            if LEDGERS in key:
                self.lost(server)
        return bool(keys)
