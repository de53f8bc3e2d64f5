"""The promises of the library, as far as a run shows whether they are kept (docs/coherence.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.simulator.kinds import REFUSED
from tests.simulator.world import World

JOURNALS = "the journals"
STALE = 3.0  # seconds after a commit from which on nobody reads what was before


class Commit(NamedTuple):
    """A row, or its deletion, as L3 took it."""

    at: float
    version: int
    value: str | None
    untold: bool = False  # whether nothing but a repair tells of it


class History:
    """What was written, key by key, and what each process has seen of it. How new something is says, of what is written
    behind, its version; otherwise the order of the commits.

    Without faults what a process has read binds what it reads next; with them its own writes do.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.added_after: Callable[[Any, int], bool] = lambda key, version: False
        self.answers_since: Callable[[], float] = lambda: 0.0  # when L3 last went on, infinite while it stands still
        self.with_l3 = True
        self.begin(calm=True)

    def begin(self, *, calm: bool, deferred: bool = False, stale: float = STALE) -> None:
        """Nothing was written. `stale`: seconds after a commit from which on nobody reads what was before."""
        self.calm = self._faultless = calm
        self._stale = stale
        self.deferred = deferred
        self.commits: dict[Any, list[Commit]] = {}
        self._versions: dict[tuple[Any, str | None], int] = {}  # the last one of each value
        self._taken: dict[tuple[Any, str | None], float] = {}  # when it was given
        self._deletions: dict[Any, list[int]] = {}
        self._seen: dict[tuple[Any, Any], int] = {}
        self._safe: dict[Any, int] = {}  # the newest write of each key that the ledger has, or had
        self._given_up: dict[Any, int] = {}  # the newest write of each key that is
        self._owed: dict[tuple[Any, Any], int] = {}  # the newest deferred write of a process that lives
        self._left: dict[tuple[Any, Any], int] = {}  # those that were let go of, since the ledger had them
        self._ledger_lost = False
        self._decided: dict[tuple[Any, str | None], str | None] = {}  # by what each value was decided on

    def committed(self, key: Any, version: int, values: tuple[Any, ...] | None, untold: bool = False) -> None:
        """L3 has taken a change."""
        value = None if values is None else values[1]
        commits = self.commits.setdefault(key, [])
        if commits:
            self._check_decided(key, value)
        if not self.deferred:
            version = len(commits) + 1
        known = version if value is None else self._versions.get((key, value), version)  # deletions are all alike
        if self.deferred and commits and 0 < known < commits[-1].version:
            self.world.breaks(f"L3 took {value} of {key}, which is older than {commits[-1].value}")
        self.stamped(key, version, value)
        if commits and version <= commits[-1].version:
            self.world.breaks(f"L3 took version {version} of {key} after {commits[-1].version}")
        commits.append(Commit(self.world.now, version, value, untold))

    def decided(self, key: Any, value: str, held: str | None) -> None:
        """A write of a value is decided on, by what the row is seen to hold."""
        self._decided[key, value] = held

    def _check_decided(self, key: Any, value: str | None) -> None:
        """Nobody was in between: L3 had what it was decided by, or gets that with it, as it was still pending."""
        if (key, value) in self._decided:
            held, last = self._decided.pop((key, value)), self.commits[key][-1]
            if held != last.value and not (self.deferred and self.version(key, held) > last.version):
                self.world.breaks(f"L3 took {value} of {key}, decided by {held}, after {last.value}")

    def committed_untold(self, key: Any, values: tuple[Any, ...]) -> Callable[[], None]:
        """Somebody else has changed a row, of which Strata is told when what is returned is called: until then, and
        for a while, it may show what was before, at one time and not at another."""
        self.calm = False
        self.committed(key, 0, values)
        commits, place = self.commits[key], len(self.commits[key]) - 1
        commits[place] = commits[place]._replace(at=math.inf)

        def told() -> None:
            commits[place] = commits[place]._replace(at=self.world.now)

        return told

    def changed_outside(self, key: Any) -> None:
        """The last commit of a key was another program's: until its notification has come L2 may show what was before
        at one time, and L3 what is new at another; and what is a fault's doing is seen to only when that is over."""
        self.calm = False
        if not self._faultless:
            self.commits[key][-1] = self.commits[key][-1]._replace(at=math.inf)

    def stamped(self, key: Any, version: int, value: str | None) -> None:
        """A write has its version."""
        if version > self._versions.get((key, value), 0):
            self._versions[key, value], self._taken[key, value] = version, self.world.now
        if value is None:
            self._deletions.setdefault(key, []).append(version)

    def is_deletion(self, key: Any, version: int) -> bool:
        """Whether it is the version of one."""
        return version in self._deletions.get(key, ())

    def deleted_after(self, key: Any, version: int) -> bool:
        """Whether somebody has deleted it at a later version, even if a newer write has kept the row."""
        return any(at > version for at in self._deletions.get(key, ()))

    def written_after(self, key: Any, version: int) -> bool:
        """Whether somebody has written it, as a whole, at a later version."""
        return any(place[0] == key and place[1] is not None and at > version for place, at in self._versions.items())

    def version(self, key: Any, value: str | None) -> int:
        """That of a value; of an absence, that of the last deletion; -1 where nobody wrote it."""
        return self._versions.get((key, value), 0 if value is None else -1)

    def _surely(self, key: Any, value: str | None, floor: int) -> int:
        """As `version`, but of an absence that of the first deletion it may be by, not below `floor`."""
        if value is not None:
            return self.version(key, value)
        return min((version for version in self._deletions.get(key, ()) if version >= floor), default=0)

    def latest(self, key: Any) -> int:
        """The highest version that a value of the key has."""
        return max((version for place, version in self._versions.items() if place[0] == key), default=0)

    def newest(self, key: Any) -> Commit:
        """What L3 holds."""
        commits = self.commits.get(key)
        return commits[-1] if commits else Commit(0.0, 0, None)

    def floor(self, process: Any, key: Any) -> int:
        """The version below which the process reads nothing any more."""
        return self._seen.get((process, key), 0)

    def gave_up(self, key: Any, version: int, *, orphan: bool = False) -> None:
        """A deferred write is given up: where L3 refuses it, or it is an `orphan`, a part of a row that was deleted,
        everybody is to see again what L3 holds. What was written before it, by a process that lives, is to
        be there then; the ledger has it no more."""
        if not orphan and not any(
            place[0] == key and _is_refused(place[1]) and version == at for place, at in self._versions.items()
        ):
            return
        self._given_up[key] = max(version, self._given_up.get(key, 0))
        self._owed = {place: owed for place, owed in self._owed.items() if place[1] != key or owed != version}
        if self._safe.get(key, 0) <= version:
            self._safe.pop(key, None)

    def handed_off(self, key: Any, version: int) -> None:
        """The ledger has a write, or a newer one: it outlives its writer. One that has been given up took it along."""
        if version > self._given_up.get(key, 0):
            self._safe[key] = max(version, self._safe.get(key, 0))

    def ledger_lost(self) -> None:
        """What nobody has in memory is lost."""
        self._safe.clear()
        self._ledger_lost = True

    def left(self, process: Any, key: Any, version: int) -> None:
        """A full buffer let go of a write that was handed off: it is lost with the ledger."""
        self._left[process, key] = max(version, self._left.get((process, key), 0))

    def wrote(
        self, process: Any, key: Any, value: str | None, stamp: int | None = None, since: int | None = None
    ) -> None:
        """A write returned; `stamp`: it is deferred, and has this version. `since`: the newest when it began, if it
        depended on none."""
        version = self._surely(key, value, (since or 0) + 1) if stamp is None else stamp
        if stamp is None and not any(commit.value == value for commit in self.commits.get(key, ())):
            if self._overtaken(key, since):
                return
            self.world.breaks(f"{process} was told that {key} is {value}, which L3 never took")
        if value is None and stamp is not None and stamp < self.newest(-key).version:
            return  # a newer write of the other column has kept the row
        if stamp is None or stamp != self._given_up.get(key):  # else it was given up before the call returned
            self._saw(process, key, version)
        if stamp is not None and version > self._given_up.get(key, 0):
            self._owed[process, key] = max(version, self._owed.get((process, key), 0))

    def _overtaken(self, key: Any, since: int | None) -> bool:
        """Whether a write of a schema without L3 may have been before one that came since: it met another, stamped
        itself anew, and met that one."""
        later = [commit for commit in self.commits.get(key, ()) if since is not None and commit.version > since]
        return not self.with_l3 and len(later) > 1

    def read(self, process: Any, key: Any, value: str | None, floor: int, began: float) -> None:
        """A read returned that began at that time, when `floor` was the process's."""
        found = self.version(key, value)
        if found < 0:
            self.world.breaks(f"{process} read {value} of {key}, which nobody wrote")
        elif found < self._still(key, floor):
            self.world.breaks(f"{process} read {value} of {key}, older than what it had seen or written before")
        taken = self._taken.get((key, value), 0.0)  # a clock that was set back stamps below what was committed before
        for later in self.commits.get(key, ()):
            known = max(later.at, taken, self.answers_since() if later.untold else 0.0)
            if later.version > found and known < began - self._stale:
                age = began - later.at
                self.world.breaks(f"{process} read {value} of {key}, {age:.1f} s after {later.value} was committed")
        if self.calm:
            self._saw(process, key, self._surely(key, value, floor))

    def forget(self, process: Any, *, durable: bool = False) -> None:
        """The process ended: what comes after it has seen nothing, and what it had in memory only is lost. `durable`:
        it had nothing in memory only."""
        self._seen = {place: version for place, version in self._seen.items() if place[0] is not process}
        left = {place[1]: version for place, version in self._owed.items() if place[0] is process and durable}
        self._owed = {place: version for place, version in self._owed.items() if place[0] is not process}
        for key, version in left.items():
            self._owed[JOURNALS, key] = max(version, self._owed.get((JOURNALS, key), 0))

    def check_persisted(self) -> None:
        """At rest: L3 has what it was owed, or what is newer."""
        for (process, key), version in self._owed.items():
            gone = self._ledger_lost and version <= self._left.get((process, key), 0)
            if self.newest(key).version < version and not gone and not self._is_outlived(key, version):
                self.world.breaks(f"a write of {key} by {process} is not in L3")
        for key, version in self._safe.items():
            if self.newest(key).version < version and not self._is_outlived(key, version):
                self.world.breaks(f"a write of {key} that was handed off is not in L3")

    def _is_outlived(self, key: Any, version: int) -> bool:
        """Whether it is a deletion that something newer was added after, which keeps the row."""
        return version in self._deletions.get(key, ()) and self.added_after(key, version)

    def _still(self, key: Any, floor: int) -> int:
        """What is left of a floor where writes were given up."""
        if floor > self._given_up.get(key, 0):
            return floor
        return max((commit.version for commit in self.commits.get(key, ()) if commit.version <= floor), default=0)

    def _saw(self, process: Any, key: Any, version: int) -> None:
        self._seen[process, key] = max(version, self._seen.get((process, key), 0))


def _is_refused(value: str | None) -> bool:
    return value is not None and value.startswith(REFUSED)
