"""All that waits, and all that asks for the time or for chance, does so by `strata.waits`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What runs beside the engine: commands, servers, what tests use, a worker; and the event loop, which is a hub.
AROUND = {"aio", "application", "cli", "embedded", "integrations", "testing", "waits", "worker"}
WAITING = {
    "_thread", "asyncio", "concurrent", "queue", "random", "sched", "secrets", "select", "selectors", "signal",
    "socket", "subprocess", "threading", "time",
}  # fmt: skip
CALLS = {
    "os.urandom", "uuid.uuid1", "uuid.uuid4", "datetime.now", "datetime.utcnow", "datetime.datetime.now",
    "datetime.datetime.utcnow", "waiting.wait", "waiting.wait_conn", "waiting.wait_select",
}  # fmt: skip

# What does not wait, though it bears such a name; each with the reason.
ALLOWED = {
    ("strata/observe/causes.py", "socket.gaierror"): "an error, to be known by its class",
    ("strata/writebehind/endings.py", "_thread"): "the thread of a signal's handler, which `Thread.start` would hang",
    ("strata/writebehind/endings.py", "signal"): "the end of the process, which is the system's",
    ("strata/writebehind/endings.py", "threading"): "whether this is the main thread, which alone handles signals",
    ("strata/collection.py", "time.monotonic"): "the hit of L1: the name of a module costs least",
    ("strata/datastore.py", "time.monotonic"): "as above",
    ("strata/engine/hot.py", "time.monotonic"): "as above",
    ("strata/datastore.py", "threading"): "whether gevent or eventlet has put locks of its own into it meanwhile",
    ("strata/l3/greenlets.py", "waiting.wait_select"): "how psycopg waits under gevent and eventlet",
}


def used(tree: ast.Module) -> Iterator[str]:
    """Modules that wait, and calls that do, as a file names them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in WAITING)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in WAITING:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in CALLS:
            yield name


def test_all_waits_clocks_and_chance_are_those_of_one_room() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in sorted((ROOT / "strata").rglob("*.py"))
        if path.relative_to(ROOT / "strata").parts[0].removesuffix(".py") not in AROUND
        for name in used(ast.parse(path.read_text()))
    }
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set(), "allowed, and not used any more"
