"""The compiled part: what runs in C in the place of its plain twin, where it was built.

One place decides, once, when `strata` is imported: all of it runs, or none does. `hits` (hits.pyx) is the hit path and
what it reads and stamps; the other modules (parts.py) are made of the very sources that run otherwise. A plain module
calls `replace`, which puts the compiled classes in the place of its own. STRATA_PURE=1 in the environment leaves all of
it out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from strata._compiled.parts import PARTS

F = TypeVar("F", bound=Callable[..., Any])


def _lacking() -> str:
    """Why it does not run; "" where it does."""
    if os.environ.get("STRATA_PURE", "0") not in ("", "0"):
        return "STRATA_PURE is set"
    if not all(find_spec(f"{__name__}.{name}") for name in PARTS):
        return "it was not built for this Python: there was no compiler, or it is a free-threaded build, or PyPy"
    try:
        import_module(f"{__name__}.hits")
    except ImportError as error:
        return f"it cannot be loaded: {error}"
    return ""


lacking = _lacking()
compiled = not lacking


def replace(namespace: dict[str, Any], module: str, *names: str) -> None:
    """Put the compiled classes of these names in the place of those in a module's `globals()`. Where the module itself
    is a compiled one, made of the same source, they are its own."""
    if compiled and not namespace["__name__"].startswith(f"{__name__}."):
        twins = import_module(f"{__name__}.{module}")
        for name in names:
            namespace[name] = getattr(twins, name)


def hit(name: str) -> Callable[[F], F]:
    """Has a method run compiled, as the function of this name, which is shown as the plain one: signature, docstring
    and source are its. What is no hit goes the way that the plain one goes then."""

    def twin(plain: F) -> F:
        if not compiled:
            return plain
        made: Any = getattr(import_module(f"{__name__}.hits"), name)
        return update_wrapper(made, plain)  # type: ignore[return-value]

    return twin
