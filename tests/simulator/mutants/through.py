"""Rules of what is written through, of reads, and of the caches."""

from __future__ import annotations

from tests.simulator.kinds import KINDS
from tests.simulator.mutants.mutant import Mutant, code, script
from tests.simulator.postgres import SimTable

THROUGH = {
    "a fill is stored only where the reader's very lease stands": Mutant(
        KINDS["through"], 0, script("fill", "if redis.call('MGET', key)[1] == lease then", "if true then")
    ),
    "intents that meet are spoiled: none of their puts is stored": Mutant(
        KINDS["through"],
        0,
        script("intent", "keep_intent(key, list, spoiled, now)\nend", "keep_intent(key, list, false, now)\nend"),
    ),
    "a commit that L2 was not told of leaves a repair row": Mutant(
        KINDS["through"], 1, apply=code(SimTable, "record_repair", "conn.ask(", "lambda *_: (")
    ),
}
