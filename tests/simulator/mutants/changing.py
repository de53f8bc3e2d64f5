"""Rules of what depends on the record as it is: `insert`, `update` with `expect`, `modify`."""

from __future__ import annotations

from strata.engine.commit import Commit
from tests.simulator.mutants import behind
from tests.simulator.mutants.mutant import Mutant, code, script
from tests.simulator.mutants.through import calling

CHANGING = {
    "a row that is decided on is locked": Mutant(
        calling("0:y 1:y", "0:u 1:u", faults=("moment",), span=30),
        1,
        apply=code(Commit, "_decide", "table.hold(", "table.get("),
    ),
    "a row that is inserted takes no other's place": Mutant(
        calling("0:dn 1:n", "0:d 0:n 1:n", faults=("moment",), span=60),
        1,
        apply=code(Commit, "_write_part", "if part.inserting:", "if False:"),
    ),
    "what is pending is brought to L3 before it is decided": Mutant(
        behind.calling("0:sy", "0:su", "0:s 1:wy", "0:dn"),
        1,
        apply=code(Commit, "_meet_ledger", "elif not part.inserting:", "if change.open or not part.inserting:"),
    ),
    "a decision in L2 holds for what stood there": Mutant(
        calling("0:y 1:y", "0:u 1:u", "0:dn 1:n", l3=False, faults=("moment",), span=20),
        1,
        script("swap", "if there == ARGV[at + 5] and", "if"),
    ),
}
