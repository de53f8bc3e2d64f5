"""Tables that are there already, and the modules that `strata inspect-table` prints for them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click.testing
import psycopg
import pytest
from click.testing import CliRunner

from strata.cli.main import main

Adopt = Callable[..., Any]


def run(dsn: str, *statements: str) -> list[Any]:
    """Run SQL as another tool would; the rows of the last statement."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def inspect_table(*words: str) -> click.testing.Result:
    """Run the command; what it raises beside Strata's own errors passes through."""
    result = CliRunner().invoke(main, ["inspect-table", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def printed(table: str) -> str:
    """The module for a table of the database that the environment names."""
    result = inspect_table(table)
    assert result.exit_code == 0, result.output
    return result.output


@contextmanager
def adopting(
    folder: Path, dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch, *, managed: bool = False
) -> Iterator[Adopt]:
    """What has a table inspected, imports the module that was printed, and gives the table what it lacks: the module.

    Where it is `managed`, the module says that Strata may alter the table.
    """
    monkeypatch.setenv("STRATA_POSTGRES_DSN", dsn)
    monkeypatch.setenv("STRATA_REDIS_ADDR", redis_addr)
    monkeypatch.syspath_prepend(str(folder))
    adopted: list[Any] = []

    def adopt(table: str) -> Any:
        name = f"adopted_{table}"
        source = printed(table)
        (folder / f"{name}.py").write_text(source.replace("managed=False, ", "") if managed else source)
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        adopted.append(module)
        report = module.store.migrate()
        if not managed:
            run(dsn, *(change.sql for change in report.manual))
            assert module.store.migrate().manual == ()
        return module

    try:
        yield adopt
    finally:
        for module in adopted:
            module.store.close(timeout=5)
            del sys.modules[module.__name__]
