"""Rules of lives of their own: that no copy outlives the record."""

from __future__ import annotations

from strata.l2.content import Contents
from tests.simulator.mutants.mutant import Mutant, code, script
from tests.simulator.mutants.through import calling

LIVES = {
    "a copy has what L2 has left of a life of its own": Mutant(
        calling("0:v 1:wgwg", "0:v 1:wGwG", l3=False, faults=()),
        0,
        apply=code(Contents, "_aged", "math.inf if left < 0 else max(left, 0.5) / 1000", "60.0"),
    ),
    "those who have a copy are told of a life that gets shorter": Mutant(
        calling("0:swT 1:wgwg", "0:swT 1:wgwgwg", l3=False, faults=()),
        0,
        script("touch", "if shortened or not has_own_life(raw) then", "if false then"),
    ),
}
