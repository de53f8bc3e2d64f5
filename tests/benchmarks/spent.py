"""What processes take of the machine, as Linux counts it: CPU by 10 ms, memory by pages."""

from __future__ import annotations

from collections.abc import Iterator

import psutil


def family(pid: int) -> Iterator[psutil.Process]:
    """A process, and all that it has started and that still runs."""
    process = psutil.Process(pid)
    yield process
    yield from process.children(recursive=True)


def cpu(*pids: int) -> float:
    """Seconds of CPU that these and all that they have started took so far, those that have ended included."""
    total = 0.0
    for process in (one for pid in pids for one in family(pid)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # it has just ended; whoever waits for it has its time
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(pid: int) -> int:
    """Bytes of memory that a process has for itself."""
    return int(psutil.Process(pid).memory_full_info().uss)
