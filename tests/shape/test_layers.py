"""The house: every module has its room, and a room imports only what stands above it in one list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# From the ground up. Rooms of one line do not know each other.
ROOMS = """
errors contracts exports forks _compiled
waits
runtime
observe
query model
paging
protocol addresses durations
endpoints
policies hooks
schema aging
freshness
encryption_keys codec
crypto environment
config
l1 l2 l3
bound
coherence
writebehind.ledger
writebehind.fleet
writebehind.dirty
writebehind.persist
writebehind.writer
writebehind
engine
maintenance memo
_wiring
jobs
collection
datastore
aio
__init__
application
embedded drop_in
testing
cli
integrations
worker
"""
LINES = [line.split() for line in ROOMS.split("\n") if line]
FLOOR = {room: number for number, line in enumerate(LINES) for room in line}


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted((ROOT / "strata").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    """The longest name in the list that the module's name begins with."""
    parts = module.split(".")[1:] or ["__init__"]
    inner = ".".join(parts[:2])
    return inner if inner in FLOOR else parts[0]


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file needs when it runs."""
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "strata")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "strata":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def test_every_room_has_its_place_in_the_list_and_each_place_is_a_room() -> None:
    assert {room_of(module) for module in MODULES} == set(FLOOR)


def test_a_room_imports_only_what_stands_above_it() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        for other in imported(path)
        if room_of(other) != room_of(module) and FLOOR[room_of(other)] >= FLOOR[room_of(module)]
    ]
    assert wrong == []


def test_the_library_imports_neither_workers_nor_celeryconfig_which_are_names_of_the_application_s() -> None:
    for path in (ROOT / "strata").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        assert not {name.split(".")[0] for name in names} & {"workers", "celeryconfig"}, path


def test_a_duration_becomes_seconds_where_it_is_given_and_nowhere_below() -> None:
    told = {module for module, path in MODULES.items() if "strata.durations" in set(imported(path))}
    assert told == {
        "strata.aio.collection", "strata.aio.jobs", "strata.aio.store", "strata.collection",
        "strata.config", "strata.policies", "strata.datastore", "strata.integrations.cachelib",
        "strata.integrations.django.asgi", "strata.integrations.django.project",
        "strata.integrations.dogpile", "strata.integrations.starlette",
        "strata.jobs.job", "strata.embedded.standby",
        "strata.testing.history", "strata.testing.proxy",
    }  # fmt: skip
    assert [module for module, path in MODULES.items() if ".total_seconds()" in path.read_text()] == [
        "strata.durations"
    ]


def test_no_name_in_a_redis_is_made_outside_the_keyspace() -> None:
    made = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "strata").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("strata:")
    ]
    assert len(made) == 1 and made[0].startswith("strata/config.py"), made  # the channel's name, without its namespace


# Where a driver is imported that the settings turn out to need: by the check of its address, for a store's parts, and
# by the first call of the asynchronous face; and the command line, which web processes do not need.
LATE = [
    *(f"strata/_wiring/{name}.py" for name in ("servers", "tiers", "wiring")),
    "strata/aio/here.py",
    "strata/endpoints/__init__.py",
    "strata/integrations/flask/commands.py",
]


def test_no_import_hides_in_a_function_but_for_those_of_what_not_every_process_needs() -> None:
    hidden = set()
    for path in sorted((ROOT / "strata").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden |= {
                    str(path.relative_to(ROOT))
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Import | ast.ImportFrom)
                }
    assert sorted(hidden) == LATE
