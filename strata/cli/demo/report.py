"""What the demonstration found: measured values, and proofs that held or did not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report; `holds` is None for what is only measured."""

    what: str
    found: str
    holds: bool | None = None


def failed(lines: Iterable[Line]) -> list[Line]:
    """The proofs that did not hold."""
    return [line for line in lines if line.holds is False]


def table(lines: Sequence[Line], title: str) -> Table:
    """The report as a table."""
    shown = Table("", "measured in this run", "proof", title=title)
    words = {None: Text(""), True: Text("holds", style="green"), False: Text("FAILS", style="bold red")}
    for line in lines:
        shown.add_row(Text(line.what), Text(line.found), words[line.holds])
    return shown


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.1f} µs" if seconds < 0.0001 else f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
