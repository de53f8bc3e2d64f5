"""The processes of a run: writers and workers, each started again when it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from strata import Durability
from strata.embedded.process import children
from tests.faults.chaos.writer import STRIDE
from tests.fleet import ROOT, Worker
from tests.forked import Forked


def send(pid: int, number: signal.Signals) -> None:
    """A signal, to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


@dataclass
class Incarnation:
    """One process of a writer, its diary, and its place among all of the run."""

    level: Durability
    diary: Path
    process: subprocess.Popen[bytes]
    place: int
    killed: bool = False


@dataclass
class Writers:
    """Used by one thread at a time: that which injects, then that which ends the run."""

    env: Mapping[str, str]
    folder: Path
    per_level: int
    keys: int
    current: dict[int, Incarnation] = field(default_factory=dict)
    all: dict[int, list[Incarnation]] = field(default_factory=dict)

    @property
    def stop(self) -> Path:
        return self.folder / "stop"

    def start(self) -> None:
        for number in range(self.per_level * len(Durability)):
            self.all[number] = []
            self._start(number)

    def kill(self, number: int) -> None:
        """SIGKILL, and another one in its place."""
        writer = self.current[number]
        writer.killed = True
        writer.process.kill()
        writer.process.wait()
        self._start(number)

    @property
    def keys_of_all(self) -> list[int]:
        """The keys that writers set, overwrite and delete."""
        return [number * STRIDE + key for number in self.current for key in range(self.keys)]

    def ended_by_themselves(self) -> list[str]:
        """Writers that ended without having been told to."""
        over = [w for w in self.current.values() if w.process.poll() is not None and not self.stop.exists()]
        return [f"{w.diary.name} ended with {w.process.returncode}" for w in over]

    def finish(self, timeout: float) -> None:
        """Tell all of them to flush and end, and wait for it."""
        self.stop.touch()
        for writer in self.current.values():
            try:
                writer.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.abort()

    def abort(self) -> None:
        for writer in self.current.values():
            if writer.process.poll() is None:
                writer.process.kill()
                writer.process.wait()

    def _start(self, number: int) -> None:
        before = self.all[number]
        level = list(Durability)[number % len(Durability)]
        diary = self.folder / f"{level.name.lower()}-{number}-{len(before)}.diary"
        place = sum(map(len, self.all.values()))
        words = [str(diary), str(self.stop), level.name, str(number), str(len(before)), str(self.keys), str(place)]
        with (self.folder / f"writer-{number}.log").open("ab") as log:
            process = Forked(
                [sys.executable, "-m", "tests.faults.chaos.writer", *words],
                cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.current[number] = Incarnation(level, diary, process, place)
        before.append(self.current[number])


class Workers:
    """The fleet. Used by one thread at a time, as the writers."""

    def __init__(self, env: Mapping[str, str], folder: Path, count: int) -> None:
        self._env = {**env, "CHAOS_ROLE": "worker"}
        self._folder = folder
        self._number = 0
        self.current = [self._new() for _ in range(count)]

    def ready(self) -> bool:
        return all(worker.ready() for worker in self.current)

    def replace(self, place: int, *, orderly: bool) -> None:
        """Kill it with its children, or ask it to end; another one comes in its place."""
        worker = self.current[place]
        worker.process.terminate() if orderly else worker.kill()
        if orderly:
            try:
                worker.process.wait(30)
            except subprocess.TimeoutExpired:
                worker.kill()
        self.current[place] = self._new()

    def family(self, place: int) -> list[int]:
        """The ids of a worker and its children."""
        pid = self.current[place].process.pid
        return [pid, *children(pid)]

    def ended_by_themselves(self) -> list[str]:
        """Workers that ended without having been told to."""
        over = [worker for worker in self.current if worker.process.poll() is not None]
        return [f"{worker.log.name} ended with {worker.process.returncode}" for worker in over]

    def kill_all(self) -> None:
        for worker in self.current:
            worker.kill()

    def _new(self) -> Worker:
        self._number += 1
        return Worker(self._env, self._folder / f"worker-{self._number}.log", f"w{self._number}")
