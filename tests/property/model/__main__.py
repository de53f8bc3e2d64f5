"""The long search: `python -m tests.property.model [part of a name]` looks at every state of every scenario."""

from __future__ import annotations

import sys

from tests.property.model.explore import explore
from tests.property.model.scenarios import SCENARIOS


def main(part: str = "") -> int:
    """Returns how many scenarios broke a promise; prints the shortest way there."""
    broken = 0
    for name, scenario in SCENARIOS.items():
        if part in name:
            found = explore(scenario, bound=None)
            print(f"{found.states:9} states {found.seconds:7.1f} s  {name}", flush=True)
            if found.violation is not None:
                broken += 1
                print(found.violation, flush=True)
    return broken


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]) > 0)
