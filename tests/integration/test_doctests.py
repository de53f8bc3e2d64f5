"""The examples in docstrings run, on a store as an application may have."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

import strata
from strata import DataStore, Encrypted, EncryptionKeys, PrimaryKey, WriteMode
from strata.embedded import EmbeddedValkey
from tests.stores import MakeStore, schema
from tests.surroundings import django_beside  # noqa: F401 which has settings for Django

ROOT = Path(__file__).parents[2]
AWAITED = "strata.aio."
OLD, NEW = b"1" * 32, b"2" * 32


@dataclass
class Player:
    id: Annotated[str, PrimaryKey]
    name: str


@dataclass
class Session:
    id: Annotated[str, PrimaryKey]


@dataclass
class Account:
    id: Annotated[str, PrimaryKey]
    token: Annotated[str, Encrypted]


@dataclass
class Score:
    id: Annotated[int, PrimaryKey]
    points: int = 0


def registered(store: DataStore) -> DataStore:
    store.register(schema(Player, name="players", write_mode=WriteMode.WRITE_BEHIND))
    store.register(schema(Session, name="sessions"))
    store.register(schema(Score, name="scores", write_mode=WriteMode.WRITE_BEHIND))
    store.register(schema(Account, name="accounts"))
    store.migrate()
    return store


@pytest.fixture
def names(make: MakeStore) -> dict[str, Any]:
    """What examples may name: what `strata` exports, four models, and a store of them whose key is a new one."""
    registered(make(encryption_key=EncryptionKeys(current="k1", keys={"k1": OLD}))).set_many(
        "accounts", {id: Account(id, "sesame") for id in "ab"}
    )
    store = registered(make(encryption_key=EncryptionKeys(current="k2", keys={"k1": OLD, "k2": NEW})))
    exported = {name: getattr(strata, name) for name in strata.__all__}
    return exported | {"EmbeddedValkey": EmbeddedValkey, "Player": Player, "Score": Score, "store": store}


def examples() -> list[doctest.DocTest]:
    found = []
    for path in sorted((ROOT / "strata").rglob("*.py")):
        if ">>>" in path.read_text():
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.ClassDef | ast.FunctionDef):
                    continue
                text = ast.get_docstring(node) or ""
                if ">>>" in text:
                    name, names = f"{module.__name__}.{node.name}", dict(vars(module))
                    found.append(doctest.DocTestParser().get_doctest(text, names, name, str(path), node.lineno))
    return found


def test_the_examples_in_docstrings_say_what_they_print_and_print_it(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    runner = doctest.DocTestRunner(verbose=False)
    for test in examples():
        if AWAITED in test.name:
            continue
        test.globs = names | test.globs
        runner.run(test)
    failed, tried = runner.summarize(verbose=False)
    assert failed == 0 and tried > 20, capsys.readouterr().out


class _Shown(ast.NodeTransformer):
    """What a line is worth is printed, as at a prompt."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        call = ast.Call(ast.Name("_shown", ast.Load()), [node.value], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), node))


def _shown(value: object) -> None:
    if value is not None:
        print(repr(value))


@pytest.mark.parametrize("test", [test for test in examples() if AWAITED in test.name], ids=lambda test: test.name)
def test_the_examples_of_the_asynchronous_face_print_what_they_say(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str], test: doctest.DocTest
) -> None:
    body = [node for one in test.examples for node in _Shown().visit(ast.parse(one.source)).body]
    main: Any = ast.parse("async def main(): pass").body[0]
    main.body = body
    names |= test.globs | {"_shown": _shown, "store": names["store"].aio}
    exec(compile(ast.Module([main], []), test.name, "exec"), names)  # noqa: S102
    asyncio.run(names["main"]())
    assert capsys.readouterr().out == "".join(one.want for one in test.examples)


def test_no_example_is_left_out() -> None:
    assert [test.name for test in examples() for one in test.examples if one.options.get(doctest.SKIP)] == []
