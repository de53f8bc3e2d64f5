"""What needs more than a few things to be made takes those that belong together as one value."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "strata"
MOST = 7


def constructors() -> Iterator[tuple[str, int]]:
    """Each `__init__` that is written out, and how many parameters it has."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            for made in node.body:
                if isinstance(made, ast.FunctionDef) and made.name == "__init__":
                    given = made.args
                    count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
                    yield f"{path.relative_to(SOURCES)}: {node.name}", count


def test_no_constructor_has_more_than_seven_parameters() -> None:
    assert [where for where, count in constructors() if count > MOST] == []


def test_no_file_but_the_faces_and_their_wiring_has_many_more_than_four_hundred_lines() -> None:
    long = {
        str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py") if len(path.read_text().splitlines()) > 410
    }
    assert long <= {"datastore.py", "collection.py", "aio/store.py", "_wiring/wiring.py"}
