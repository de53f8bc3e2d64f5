"""Results of `search_cached` as those see them who ask for them: kept in L2 (`strata.l2.searches`), or not at all."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Kept(NamedTuple):
    """What was kept, or None; and the generation under which a result that is loaded now may be kept, or None."""

    data: bytes | None
    generation: bytes | None


class Searches(Protocol):
    """The kept results of one schema. Thread-safe; methods raise `L2UnavailableError`."""

    drops: bool

    def find(self, fingerprint: str) -> Kept: ...

    def keep(self, fingerprint: str, generation: bytes, data: bytes, life: float) -> None:
        """Keep a result for as long as all are kept, and for `life` seconds at most."""

    def committing(self, token: str, lasting: float) -> None:
        """A writer is about to commit, which has surely ended after `lasting` seconds."""

    def committed(self, token: str) -> None:
        """The writer's commit has ended, one way or the other."""

    def drop(self) -> None:
        """Something was written: no result is good any more."""


class NotKept:
    """Without L2, or without L3: there are no results, and writes need not mind them."""

    drops = False

    def find(self, fingerprint: str) -> Kept:
        return Kept(None, None)

    def keep(self, fingerprint: str, generation: bytes, data: bytes, life: float) -> None:
        pass

    def committing(self, token: str, lasting: float) -> None:
        pass

    def committed(self, token: str) -> None:
        pass

    def drop(self) -> None:
        pass
