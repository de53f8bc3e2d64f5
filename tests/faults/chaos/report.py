"""The table of a run."""

from __future__ import annotations

from rich.table import Table

from tests.faults.chaos.run import Outcome, Plan


def table(plan: Plan, outcome: Outcome) -> Table:
    """What was injected, what was done, and what came of it."""
    verdict = outcome.verdict
    shown = Table(title=f"chaos, seed {plan.seed}, {plan.seconds:g} s", show_header=False)
    shown.add_column()
    shown.add_column(justify="right")
    for name, count in sorted(outcome.faults.items()):
        shown.add_row(name, f"{count}")
    shown.add_section()
    shown.add_row("faults", f"{outcome.faults.total()}")
    for name, count in sorted(outcome.planted.items()):
        shown.add_row(f"garbage: {name}", f"{count}")
    shown.add_section()
    shown.add_row("operations", f"{verdict.operations:,}")
    shown.add_row("keys", f"{verdict.keys:,}")
    shown.add_row("increments that L3 has, each once", f"{verdict.increments:,}")
    shown.add_row("lost with killed MEMORY writers, as said", f"{verdict.forfeited:,}")
    shown.add_row("dead letters", f"{verdict.letters:,}")
    shown.add_row("of these, told by none: its process was killed", f"{verdict.untold:,}")
    shown.add_row("time to drain", f"{outcome.drain:.1f} s")
    shown.add_section()
    shown.add_row("wrong", f"{len(verdict.wrong)}", style="red" if verdict.wrong else "green")
    return shown
