"""How a rule is left out of the shipped scripts and functions: some of their words are replaced by others."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.simulator.kinds import Kind
from tests.simulator.process import Mutate, as_shipped


class Mutant(NamedTuple):
    """What is left out: of the scripts, or by `apply` of the code, for good; and where that shows, with how many faults
    an episode."""

    kind: Kind
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


def code(owner: Any, name: str, rule: str, instead: str) -> Callable[[], None]:
    """Replaces some words of a function, of a module or a class, which must be there."""

    def apply() -> None:
        function = inspect.getattr_static(owner, name)
        text = textwrap.dedent(inspect.getsource(function))
        assert rule in text, (name, rule)
        namespace: dict[str, Any] = {}
        exec(text.replace(rule, instead), vars(sys.modules[function.__module__]), namespace)  # noqa: S102 a function of ours
        setattr(owner, name, namespace[name])

    return apply
