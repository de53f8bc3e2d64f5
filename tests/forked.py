"""Python programs that need not import what most of them do: each is forked off a process that has imported it.

A fresh interpreter takes a second of a core until Celery and Strata are imported. `Forked` is for programs to which it
makes no difference; whoever tests imports, command lines, `exec`, other pools than prefork, or Strata without
surroundings takes `subprocess.Popen`.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import functools
import gc
import importlib
import inspect
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "celery.bin.celery", "celery.apps.worker", "celery.concurrency.prefork", "celery.worker.consumer",
    "kombu.transport.redis", "strata.datastore", "strata.l2.client", "strata.l3.listener", "strata.writebehind.service",
    "tests.behind", "tests.models",
)  # fmt: skip
AT_IMPORT = ("PROMETHEUS_", "COVERAGE_")  # variables that are read then
_SUBREAPER = 36  # of prctl(2): who gets the children of those that end before them
_LENGTH = 4  # bytes of what says how long a message is
_asking = threading.Lock()


class Forked(subprocess.Popen[Any]):
    """As `subprocess.Popen` of `[sys.executable, "-m" or "-c", ...]`, whose child this process's child it is."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        execute = super()._execute_child  # type: ignore[misc]
        asked = inspect.signature(execute).bind(args, *given).arguments
        env = dict(os.environ if asked["env"] is None else asked["env"])
        if not _may_fork(list(args), env):
            execute(args, *given)
            return
        pipes = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        request = {
            "words": args[1:], "env": env, "cwd": str(asked["cwd"] or Path.cwd()),
            "session": bool(asked["start_new_session"]),
        }  # fmt: skip
        self.pid = _ask(request, [place if fd == -1 else fd for place, fd in enumerate(pipes)])
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in names))  # type: ignore[attr-defined]


def run(words: list[str], *, timeout: float, **options: Any) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run`, which does not look at how it ended."""
    with Forked(words, **options) as process:
        try:
            said, error = process.communicate(timeout=timeout)
        finally:
            process.kill()  # does nothing where it has ended
    return subprocess.CompletedProcess(words, process.returncode, said, error)


def _may_fork(args: list[str], env: dict[str, str]) -> bool:
    read = any(name.startswith(AT_IMPORT) for name in env)
    alike = all(
        env.get(name) == os.environ.get(name) for name in env if name.startswith("PYTHON") and name[6:] != "PATH"
    )
    return sys.platform == "linux" and args[0] == sys.executable and args[1] in ("-m", "-c") and alike and not read


def _ask(request: dict[str, Any], fds: list[int]) -> int:
    """The id of the process that does it, a child of this one."""
    with _asking:
        sock, prctl = _server(os.getpid())
        prctl(_SUBREAPER, 1, 0, 0, 0)
        try:
            text = json.dumps(request).encode()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            sock.sendmsg([len(text).to_bytes(_LENGTH, "big")], rights)
            sock.sendall(text)
            return int.from_bytes(_exactly(sock, _LENGTH), "big")
        finally:
            prctl(_SUBREAPER, 0, 0, 0, 0)


@functools.cache
def _server(owner: int) -> tuple[socket.socket, Any]:
    """What forks for this process, of that id; it ends with it."""
    ours, theirs = socket.socketpair()
    program = f"from tests import forked; forked.serve({theirs.fileno()})"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    atexit.register(_end, owner, ours, process)
    return ours, ctypes.CDLL(None, use_errno=True).prctl


def _end(owner: int, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
    if os.getpid() == owner:
        sock.close()
        process.wait(10)


def _exactly(sock: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        piece = sock.recv(length - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


# -- in the process that forks ----------------------------------------------------------------------------------------


def serve(fd: int) -> None:
    """Fork for whoever asks; a child returns from here with the program's end."""
    path = [place for place in sys.path if place not in ("", str(ROOT))]
    for name in IMPORTED:
        importlib.import_module(name)
    sock = socket.socket(fileno=fd)
    gc.freeze()  # so that no child copies all of it by looking through it
    while True:
        try:
            head, fds, _, _ = socket.recv_fds(sock, _LENGTH, 3)
            request = json.loads(_exactly(sock, int.from_bytes(head, "big") if head else 1))
        except EOFError:
            os._exit(0)
        told, tells = os.pipe()
        between = os.fork()
        if not between:
            if pid := os.fork():
                os.write(tells, pid.to_bytes(_LENGTH, "big"))
                os._exit(0)  # its child becomes that of who asks
            for ours in (sock.detach(), told, tells):
                os.close(ours)
            _become(request, fds, path)
            return
        os.waitpid(between, 0)
        sock.sendall(os.read(told, _LENGTH))
        fds += [told, tells]
        for passed in fds:
            os.close(passed)


def _become(request: dict[str, Any], fds: list[int], path: list[str]) -> None:
    """Be the process that was asked for."""
    if request["session"]:
        os.setsid()
    for place, fd in enumerate(fds):
        os.dup2(fd, place)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    tempfile.tempdir = None
    kind, what, *words = request["words"]
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:] = [request["cwd"] if kind == "-m" else "", *places, *path]
    importlib.invalidate_caches()
    sys.orig_argv = [sys.executable, *request["words"]]
    sys.argv = [kind, *words]
    if kind == "-m":
        runpy._run_module_as_main(what)  # type: ignore[attr-defined]
    else:
        exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)  # noqa: S102
