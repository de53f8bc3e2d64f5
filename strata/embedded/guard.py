"""Ends a server that its parent left behind: a program of its own, which imports nothing of Strata.

    python -I -S guard.py SIGNAL [DIRECTORY]

Its standard input is a pipe that the parent alone holds open. The server writes its process id there before it
becomes the server; the parent writes `done` once it has ended the server itself. An end without `done` means that
the parent is gone, however it died: then the server gets SIGNAL, and DIRECTORY is removed.

PR_SET_PDEATHSIG would not do: it fires when the *thread* ends that started the server, and a server that changes its
user loses it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

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
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
