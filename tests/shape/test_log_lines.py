"""Every line of the log that an operator may see is in the documentation, which names no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "observability.md"
OWN = ROOT / "strata" / "observe" / "log.py"  # passes lines on, and says nothing of its own
LEVELS = {"info", "warning", "error", "critical", "exception"}


def said() -> Iterator[tuple[str, str]]:
    """Level and message of each line that the code can say."""
    for path in sorted((ROOT / "strata").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())) if path != OWN else ():
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            if node.func.attr in LEVELS and re.fullmatch(r"(.*\.)?_?log(ger)?", ast.unparse(node.func.value)):
                yield node.func.attr.upper(), literal(node.args[0], where)
            elif node.func.attr == "outage":
                gone, back = (literal(node.args[place], where) for place in range(2))
                yield "WARNING", gone
                yield "INFO", back


def literal(node: ast.expr, where: str) -> str:
    assert isinstance(node, ast.Constant) and isinstance(node.value, str), f"{where}: what varies belongs into a field"
    return node.value


def documented() -> list[tuple[str, str]]:
    """The rows of the tables of lines: level and message, each with what it means and what to do."""
    rows = re.findall(r"^\| (INFO|WARNING|ERROR) \| `` ?(.+?) ?`` \|(.*)\|(.*)\|$", DOCS.read_text(), re.MULTILINE)
    assert all(means.strip() and do.strip() for _, _, means, do in rows)
    return [(level, msg) for level, msg, _, _ in rows]


def test_every_line_is_documented_and_every_documented_line_can_be_said() -> None:
    assert sorted(set(said())) == sorted(documented())


def test_nobody_logs_past_the_one_that_counts_and_holds_back() -> None:
    loggers = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "strata").rglob("*.py")
        if re.search(r"\bget_?logger\((?!.*\.addFilter)", path.read_text(), re.IGNORECASE)
    ]
    assert sorted(loggers) == ["strata/cli/main.py", "strata/observe/log.py"]
