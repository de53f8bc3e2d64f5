"""How commands fail: usage errors 2, errors of the family one line and 1, signals 128 and their number."""

from __future__ import annotations

import signal

import click
import pytest
from click.testing import CliRunner

import strata
from strata.cli.main import main
from strata.cli.signals import Ended

COMMANDS = [
    "adopt",
    "audit",
    "dead-letters",
    "demo",
    "dev",
    "doctor",
    "inspect-table",
    "keys",
    "migrate",
    "stats",
    "warm",
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.delenv("STRATA_APP", raising=False)
    return CliRunner()


@pytest.fixture
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A command that raises what the test names."""
    error = request.param

    @click.command("failing")
    def command() -> None:
        raise error

    monkeypatch.setitem(main.commands, "failing", command)
    return "failing"


def test_the_commands_are_those_of_the_contract(run: CliRunner) -> None:
    assert sorted(main.commands) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: CliRunner, command: str) -> None:
    result = run.invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert main.commands[command].help


def test_the_version_is_the_packages(run: CliRunner) -> None:
    assert strata.__version__ in run.invoke(main, ["--version"]).output


@pytest.mark.parametrize(
    "words",
    [["nope"], ["warm"], ["stats"], ["warm", "x", "--limit", "-1"], ["dead-letters", "retry", "--app", "a:b"]],
)
def test_wrong_usage_ends_with_2(run: CliRunner, words: list[str]) -> None:
    assert run.invoke(main, words).exit_code == 2


@pytest.mark.parametrize("failing", [strata.L3UnavailableError("PostgreSQL is away")], indirect=True)
def test_an_error_of_the_family_is_one_line(run: CliRunner, failing: str) -> None:
    result = run.invoke(main, [failing])
    assert result.exit_code == 1
    assert result.output.strip() == "L3UnavailableError: PostgreSQL is away"


@pytest.mark.parametrize("failing", [ZeroDivisionError("a mistake in an application")], indirect=True)
def test_another_error_keeps_its_traceback(run: CliRunner, failing: str) -> None:
    assert isinstance(run.invoke(main, [failing]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("failing", "status"), [(KeyboardInterrupt(), 130), (Ended(signal.SIGTERM), 143)], indirect=["failing"]
)
def test_a_signal_is_told_by_the_exit_status(run: CliRunner, failing: str, status: int) -> None:
    assert run.invoke(main, [failing]).exit_code == status
