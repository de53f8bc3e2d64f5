"""One look for all progress bars."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

WIDTH = 120  # columns, where the output is no terminal


def wide_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; a file or a pipe takes long lines."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH)


def progress_bars(console: Console) -> Progress:
    """Bars with a description, so many of so many, and the time it took; a context manager."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
