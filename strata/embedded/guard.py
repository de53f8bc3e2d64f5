"""Ends a server that its parent left behind: a program of its own, which imports nothing of Strata.

    python -I -S guard.py SIGNAL [DIRECTORY]

Its standard input is a pipe that the parent alone holds open. The server writes its process id there before it
becomes the server; the parent writes `done` once it has ended the server itself. An end without `done` means that
the parent is gone, however it died: then the server gets SIGNAL, and DIRECTORY is removed.

PR_SET_PDEATHSIG would not do: it fires when the *thread* ends that started the server, and a server that changes its
user loses it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

IPC_RMID = 0
PATIENCE = 5.0  # seconds for a server to end, before SIGKILL and after it


def status(pid: int) -> tuple[str, str]:
    """The letter of a process's state, and when it started; both empty where it is gone or a zombie.

    The time tells it from a later process of the same id.
    """
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return "", ""
        state, born = fields[0], fields[19]
    else:
        ps = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        state, _, born = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip().partition(" ")
    return ("", "") if state[:1] in "ZX" else (state[:1], born)


def birth(pid: int) -> str:
    """When a process started; empty where it is gone."""
    return status(pid)[1]


def ended(pid: int, born: str, timeout: float) -> bool:
    """Whether the process has ended, or does within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while born and birth(pid) == born:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def end(pid: int, born: str, number: int) -> None:
    """Send it the signal, and SIGKILL where that is not enough. A session of its own ends as a whole."""
    if not born or birth(pid) != born:
        return
    try:
        os.kill(pid, signal.SIGCONT)
        if number == signal.SIGKILL and os.getpgid(pid) == pid:
            os.killpg(pid, number)
        os.kill(pid, number)
        if not ended(pid, born, PATIENCE):
            os.kill(pid, signal.SIGKILL)
            ended(pid, born, PATIENCE)
    except OSError:
        pass  # it ended meanwhile


def remove_segment(pidfile: Path) -> None:
    """Remove the System V shared memory of a PostgreSQL that was killed, which would stay until the machine restarts,
    and its `postmaster.pid`, whose seventh line names it by key and id. One that ended in order left neither.

    Call it only where the server is gone. What others are attached to is not its own.
    """
    try:
        key, id = (int(word) for word in pidfile.read_text().splitlines()[6].split())
        deadline = time.monotonic() + PATIENCE
        while _attached(key, id) and time.monotonic() < deadline:
            time.sleep(0.01)  # its children notice that it is gone
        if not _attached(key, id):
            ctypes.CDLL(None).shmctl(id, IPC_RMID, None)
            pidfile.unlink()
    except (OSError, IndexError, ValueError):
        pass  # there is none


def _attached(key: int, id: int) -> bool:
    """Whether the segment is in use, or is another one: in another container there are other segments by that id."""
    if sys.platform != "linux":
        return False
    for words in map(str.split, Path("/proc/sysvipc/shm").read_text().splitlines()[1:]):
        if int(words[1]) == id:
            return (int(words[0]) - key) % 2**32 != 0 or words[6] != "0"
    return False


def remove(directory: Path) -> None:
    """Remove a directory whose server is gone, and what that left outside of it."""
    remove_segment(directory / "data" / "postmaster.pid")
    shutil.rmtree(directory, ignore_errors=True)


def main(number: int, directory: str) -> None:
    """Wait for the end of the pipe, and do what is then to do."""
    with os.fdopen(0, "rb", buffering=0) as pipe:
        first = pipe.readline()
        pid = int(first) if first.strip().isdigit() else 0
        born = birth(pid) if pid else ""
        if b"done" in first + pipe.read():
            return
    end(pid, born, number)
    if directory:
        remove(Path(directory))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
