"""The shipped code with one rule left out, which the simulator must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.simulator.postgres import SimTable
from tests.simulator.process import Mutate, as_shipped


class Mutant(NamedTuple):
    """What is left out: of the scripts, or by `apply` of the code; and in which schedules that shows."""

    kind: str
    faults: int
    mutate: Mutate = as_shipped
    apply: Callable[[], None] = lambda: None


def script(name: str, rule: str, instead: str) -> Mutate:
    """Replaces some words of one script, which must be there."""

    def mutate(found: str, text: str) -> str:
        if found != name:
            return text
        assert rule in text, (name, rule)
        return text.replace(rule, instead)

    return mutate


def _no_repairs() -> None:
    SimTable.record_repair = lambda *_: None  # type: ignore[method-assign]


MUTANTS = {
    "a fill needs no lease": Mutant(
        "through", 0, script("fill", "if redis.call('MGET', key)[1] == lease then", "if true then")
    ),
    "intents that meet are not spoiled": Mutant(
        "through",
        0,
        script("intent", "keep_intent(key, list, spoiled, now)\nend", "keep_intent(key, list, false, now)\nend"),
    ),
    "a commit that L2 was not told of leaves no repair": Mutant("through", 1, apply=_no_repairs),
}
