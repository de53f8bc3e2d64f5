"""Who goes on without a server does so whether it is away or refuses: both are caught together, but where said."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "strata"
TIERS = {"L2UnavailableError", "L3UnavailableError"}
ALONE = {
    "l3/pool.py",  # a lost connection is tried again, and says whether the outcome is known
    "engine/insert.py",  # which says what the outcome is not known of, and tries nothing
    "cli/stats.py",  # which asks by a connection of its own
}


def caught(path: Path) -> Iterator[str]:
    """The names in `except` and in `suppress(...)`."""
    for node in ast.walk(ast.parse(path.read_text())):
        where: list[ast.expr] = []
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            where = [node.type]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "suppress":
            where = node.args
        for part in where:
            yield from (name.id for name in ast.walk(part) if isinstance(name, ast.Name))


def test_an_outage_of_a_tier_is_not_caught_without_its_refusals() -> None:
    found = {
        str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py") if TIERS & set(caught(path))
    } - ALONE  # fmt: skip
    assert found == set(), "catch WITHOUT_L2 or WITHOUT_L3 (strata/errors.py), or say here why not"
