"""The System V shared memory that a killed PostgreSQL leaves behind until the machine restarts."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

IPC_RMID = 0


def remove_segment(pidfile: Path, pid: int) -> None:
    """Remove the segment of the server `pid`, and its `postmaster.pid`, which names it: the seventh line has its id.

    Call it only where all of the server's processes are gone. One that ended in order left neither.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = pidfile.read_text().splitlines()
        if lines[0] == str(pid):  # else another server has these files
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), IPC_RMID, None)
            pidfile.unlink()
