"""What a package exports: all that `dir` shows of it, and where its classes and functions say that they are from."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, get_type_hints


def export(namespace: dict[str, Any]) -> Callable[[], list[str]]:
    """The `__dir__` of the package whose `globals()` are given: the names of its `__all__`.

    Its classes and functions then say that they are from where users import them, whichever module has their code: in
    reprs, tracebacks and documentation, and in pickles, which so outlive the move of a module. Annotations are
    evaluated before, while their own module is known. `inspect.getsource` finds functions and methods as ever, and
    raises `OSError` for such a class.
    """
    package = namespace["__name__"]
    for item in map(namespace.get, namespace["__all__"]):
        if isinstance(item, type) and item.__module__ != package:
            _move(item, package)
        elif isinstance(item, FunctionType):
            item.__module__ = package
    names = sorted(namespace["__all__"])
    return lambda: list(names)


def _move(kind: type, package: str) -> None:
    if own := kind.__annotations__:
        known = get_type_hints(kind, include_extras=True)
        kind.__annotations__ = {name: known[name] for name in own}
    if "__firstlineno__" in vars(kind):  # of Python 3.13: a line, but of another file from now on
        delattr(kind, "__firstlineno__")
    kind.__module__ = package
