"""The shipped code with one rule left out, which the simulator must find: by whom the rules are needed."""

from __future__ import annotations

from tests.simulator.mutants.adding import ADDING
from tests.simulator.mutants.behind import BEHIND
from tests.simulator.mutants.changing import CHANGING
from tests.simulator.mutants.found import FOUND
from tests.simulator.mutants.lives import LIVES
from tests.simulator.mutants.marking import MARKING
from tests.simulator.mutants.mutant import Mutant
from tests.simulator.mutants.through import THROUGH

MUTANTS: dict[str, Mutant] = {**THROUGH, **BEHIND, **CHANGING, **ADDING, **LIVES, **MARKING, **FOUND}
