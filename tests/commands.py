"""Strata's commands in this process, with an application of the test's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
from click.testing import CliRunner

from strata.cli.main import main

Strata = Callable[..., click.testing.Result]


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, app: str, dsn: str, redis_addr: str) -> Strata:
    """What runs a command on these servers; each run imports the application, the module `name`, anew, as a process
    does."""
    (folder / f"{name}.py").write_text(app)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setenv("STRATA_APP", f"{name}:store")
    monkeypatch.setenv("STRATA_POSTGRES_DSN", dsn)
    monkeypatch.setenv("STRATA_REDIS_ADDR", redis_addr)

    def run(*words: str) -> click.testing.Result:
        sys.modules.pop(name, None)
        result = CliRunner().invoke(main, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
