"""What is there at once, in a face where calls are awaited."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NoReturn, Self

from strata.errors import StrataError


class Ready:
    """May be awaited, as what the other calls return; there is nothing to wait for, so it need not be."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Self]:
        return self
        yield


class AsyncWith:
    """Says what would be right where `with` stands in the place of `async with`. Type checkers see no such method."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __enter__(self) -> NoReturn:
            raise StrataError(f"{type(self).__name__} is entered by `async with`, not by `with`")

        def __exit__(self, *raised: object) -> None: ...
