"""Rules of what is added: that it counts once, and on top of what was written before it."""

from __future__ import annotations

from strata.engine.commit import Commit
from strata.l3.standing import RowNote, Standing
from strata.writebehind.dirty.tally import Tallies
from strata.writebehind.writer.encode import Encoder
from tests.simulator.kinds import Tally
from tests.simulator.mutants.behind import calling
from tests.simulator.mutants.mutant import Mutant, code

LOST = ("lose_call", "kill", "freeze", "restart_redis")
ADDING = {
    "what was added counts by its total, so that it counts once": Mutant(
        calling("0:aw 1:aw", "0:awa", model=Tally, faults=LOST),
        1,
        apply=code(Standing, "_add", "total(before, column, at)", "0"),
    ),
    "what several have added meets in the ledger": Mutant(
        calling("0:a 1:a", model=Tally, processes=2, faults=("kill",), span=40),
        1,
        apply=code(Encoder, "merge", "own = _laid(bound, [base, own], replace(own, version=version))", "pass"),
    ),
    "what was made of the row takes away nothing that was not in it": Mutant(
        calling("0:aaa 1:Y", "0:aa 1:YY", model=Tally, config=()),
        1,
        apply=code(Commit, "_write_part", "decision.changes", "False"),
    ),
    "... and no older write takes its place": Mutant(
        calling("0:ss 1:Y", "0:sas 1:YY", model=Tally, config=()),
        1,
        apply=code(RowNote, "decided", "self.changed.get(column, 0)", "0"),
    ),
    "a write of the column takes the place of what was added before it": Mutant(
        calling("0:a 1:s", "0:a 1:b", model=Tally),
        1,
        apply=code(Standing, "_add", "total(after, column, at)", "total(after, column, 0)"),
    ),
    "what was read before something became of it here is not what is added to": Mutant(
        calling("0:a 0:a", "0:Ya 0:a", model=Tally),
        1,
        apply=code(Tallies, "_count", "tally.before == what.seen.number", "True"),
    ),
    "an outcome takes nothing back that was read, heard or done since": Mutant(
        calling("0:aYa", "0:awYwa", "0:aYwa 1:a", model=Tally, l1=False),
        1,
        apply=code(Tallies, "learn", "row.counted <= tally.after", "False"),
    ),
    "what is added on top of an outcome is all that is not in it": Mutant(
        calling("0:aga 1:a", "0:aaa 1:aga", model=Tally),
        1,
        apply=code(Tallies, "learn", "series.after(row.counted)", "0"),
    ),
}
