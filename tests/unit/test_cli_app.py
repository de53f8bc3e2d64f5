"""A command finds its store, or says in one line why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import strata
from strata.application import load_store

APP = "import strata\nstore = strata.DataStore(strata.Config())\nnumber = 1\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_store_is_found_from_the_current_directory(folder: Path) -> None:
    (folder / "cli_app_one.py").write_text(APP)
    assert isinstance(load_store("cli_app_one:store"), strata.DataStore)


def test_a_store_for_event_loops_is_taken_for_the_store_that_it_is(folder: Path) -> None:
    (folder / "cli_app_three.py").write_text(APP.replace("DataStore", "AsyncDataStore"))
    assert isinstance(load_store("cli_app_three:store"), strata.DataStore)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("cli_app_two", "package.module:store"),
        (":store", "package.module:store"),
        ("cli_app_two:", "package.module:store"),
        ("no_such_module_here:store", "no module 'no_such_module_here'"),
        ("cli_app_two:missing", "has no 'missing'"),
        ("cli_app_two:number", "is a int, not a DataStore"),
    ],
)
def test_a_wrong_target_is_said_in_one_line(folder: Path, target: str, said: str) -> None:
    (folder / "cli_app_two.py").write_text(APP)
    with pytest.raises(strata.InvalidConfigError, match=said) as caught:
        load_store(target)
    assert "\n" not in str(caught.value)


def test_what_the_module_itself_raises_passes_through(folder: Path) -> None:
    (folder / "cli_app_three.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_store("cli_app_three:store")


def test_an_attribute_error_inside_the_module_is_not_taken_for_a_missing_store(folder: Path) -> None:
    (folder / "cli_app_four.py").write_text("import strata\nstrata.no_such_name\n")
    with pytest.raises(AttributeError, match="no_such_name"):
        load_store("cli_app_four:store")
