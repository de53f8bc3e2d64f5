"""How a rule is left out of the shipped scripts and functions: some of their words are replaced by others."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
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


def script(name: str, *words: str) -> Mutate:
    """Replaces some words of one script, which must be there, by those that follow them."""
    return scripts((name,), *words)


def scripts(names: Sequence[str], *words: str) -> Mutate:
    """As `script`, in each of several."""

    def mutate(found: str, text: str) -> str:
        return _replaced(found, text, words) if found in names else text

    return mutate


def code(owner: Any, name: str, *words: str) -> Callable[[], None]:
    """Replaces some words of a function, of a module or a class, which must be there, by those that follow them."""

    def apply() -> None:
        function = inspect.getattr_static(owner, name)
        text = _replaced(name, textwrap.dedent(inspect.getsource(function)), words)
        namespace: dict[str, Any] = {}
        exec(text, vars(sys.modules[function.__module__]), namespace)  # noqa: S102 a function of ours
        setattr(owner, name, namespace[name])

    return apply


def each(*changes: Callable[[], None]) -> Callable[[], None]:
    """Several of them."""

    def apply() -> None:
        for change in changes:
            change()

    return apply


def _replaced(name: str, text: str, words: Sequence[str]) -> str:
    for rule, instead in zip(words[::2], words[1::2], strict=True):
        assert rule in text, (name, rule)
        text = text.replace(rule, instead)
    return text
