"""Rules of markers: `invalidate_all` and tags."""

from __future__ import annotations

from dataclasses import replace

from strata.coherence.marking import Marking
from strata.engine.load import Load
from strata.l1.tier import L1Tier
from strata.protocol.markers import SchemaMarkers
from tests.simulator.kinds import KINDS, Kind
from tests.simulator.mutants.mutant import Mutant, code


def calling(*programs: str, kind: str = "tagged", faults: tuple[str, ...] = ("moment",), span: int = 60) -> Kind:
    """Only these calls, and these faults."""
    return replace(KINDS[kind], programs=programs, faults=faults, span=span)


MARKING = {
    "a fill carries what had been heard before L3 was asked": Mutant(
        calling("0:eg 1:H", "0:g 1:Hg"),
        1,
        apply=code(Load, "fill", "bound, allowed =", "self._since = self._bound.l2.since; bound, allowed ="),
    ),
    "an entry is compared with the markers of its tags": Mutant(
        calling("0:gg 1:H"), 0, apply=code(SchemaMarkers, "outdated", "found[0] > since", "False")
    ),
    "... and of its schema": Mutant(
        calling("0:gg 1:V", kind="marked"), 0, apply=code(SchemaMarkers, "outdated", "since < marked or", "")
    ),
    "an entry without a number is older than any marker": Mutant(
        calling("0:gg 1:V", kind="marked"), 0, apply=code(SchemaMarkers, "outdated", "tagged or marked > 0", "False")
    ),
    "L1 drops what has the tag": Mutant(
        calling("0:ggg 1:H"), 0, apply=code(L1Tier, "forget_tag", "self.store.drop(key)", "pass")
    ),
    "what began to be read before a marker was heard of does not enter L1": Mutant(
        calling("0:g 1:Hg", "0:gg 1:H"), 1, apply=code(L1Tier, "_fill", "self._marks.overtaken(tags, loaded)", "False")
    ),
    "a process that starts, or is back, catches up": Mutant(
        calling("0:gg 1:H", faults=("lose_stream", "lose_streams"), span=200),
        1,
        apply=code(Marking, "catch_up", "began, known =", "return; began, known ="),
    ),
}
