"""The house: imports run downward only."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

# From the ground up: a room may import its own and lower floors' modules, never a higher floor's.
FLOORS: list[set[str]] = [
    {"errors", "clock", "contracts", "shards", "aging", "ticker", "versions", "interrupts", "threads", "silence"},
    {"keyspace", "policies", "hooks", "query", "breaker"},
    {"model", "schema"},
    {"freshness"},
    {"codec", "crypto", "observe"},
    {"config"},
    {"l1", "l2", "l3"},
    {"coherence", "bound"},
    {"writebehind"},
    {"engine"},
    {"_wiring"},
    {"fleet"},
    {"collection", "datastore"},
    {"__init__"},
    {"application"},
    {"embedded", "cli", "testing", "integrations", "worker"},
]
TIERS = {"l1", "l2", "l3"}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "strata").parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms of `strata` that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "strata":
            names = node.module.split(".")
            found.add(names[1] if len(names) > 1 else "__init__")
        elif isinstance(node, ast.Import):
            found |= {[*a.name.split("."), "__init__"][1] for a in node.names if a.name.split(".")[0] == "strata"}
    return found


def floor_of(name: str) -> int:
    for number, floor in enumerate(FLOORS):
        if name in floor:
            return number
    raise AssertionError(f"strata/{name} is on no floor; give it one in tests/shape/test_layers.py")


def test_imports_run_downward_only() -> None:
    wrong = []
    for path in sorted((ROOT / "strata").rglob("*.py")):
        own = room(path)
        wrong += [
            f"{path.relative_to(ROOT)} imports strata.{other}"
            for other in imports(path) - {own}
            if floor_of(other) > floor_of(own)
        ]
    assert wrong == []


def test_the_tiers_do_not_know_each_other() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports strata.{other}"
        for tier in TIERS
        for path in sorted((ROOT / "strata" / tier).rglob("*.py"))
        for other in imports(path) & (TIERS - {tier})
    ]
    assert wrong == []


def test_the_library_imports_neither_workers_nor_celeryconfig_which_are_names_of_the_application_s() -> None:
    for path in (ROOT / "strata").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        assert not {name.split(".")[0] for name in names} & {"workers", "celeryconfig"}, path


def test_no_name_in_a_redis_is_made_outside_the_keyspace() -> None:
    made = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "strata").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("strata:")
    ]
    assert len(made) == 1 and made[0].startswith("strata/config.py"), made  # the channel's name, without its namespace


def test_no_import_hides_in_a_function() -> None:
    hidden = []
    for path in sorted((ROOT / "strata").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                hidden += [
                    f"{path.relative_to(ROOT)}:{inner.lineno}"
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Import | ast.ImportFrom)
                ]
    assert hidden == []
