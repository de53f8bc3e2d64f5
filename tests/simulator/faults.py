"""What can happen to processes and servers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulator.network import Server
from tests.simulator.postgres import Postgres
from tests.simulator.process import Process
from tests.simulator.world import World

JUMPS = (-25.0, -1.5, 1.5, 25.0)  # seconds


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

    def freeze_postgres(self) -> None:
        """PostgreSQL does nothing, and its connections stay."""
        self._postgres.frozen = True
        self._for_a_while("postgres stands still", lambda: setattr(self._postgres, "frozen", False))

    def lose_stream(self) -> None:
        """A connection to a Redis breaks."""
        stream = self._some([stream for server in self._servers for stream in server.streams if not stream.hung_up])
        if stream is not None:
            self._world.say(f"!! {stream.process} loses a connection to {stream.server}")
            stream.lose()

    def lose_session(self) -> None:
        """A connection to PostgreSQL breaks."""
        session = self._some(self._postgres.sessions)
        if session is not None:
            self._world.say(f"!! {session.process} loses a connection to postgres")
            session.lose()

    def restart_redis(self) -> None:
        """A Redis is there again at once, with nothing in it."""
        server = self._some(self._servers)
        self._world.say(f"!! {server} restarts, empty")
        server.restart(empty=True)

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
        keys = [(server, key) for server in self._servers for key in sorted(server.valkey.data) if b"item" in key]
        if keys:
            server, key = self._some(keys)
            self._world.say(f"!! {server} evicts {key!r}")
            server.valkey.do_del(key)
