"""The doctor tries each command of Redis that Strata uses."""

from __future__ import annotations

import re
from pathlib import Path

import strata
from strata.cli.doctor.rights import TRIES

ROOT = Path(strata.__file__).parent


def test_every_command_that_a_script_runs_is_tried() -> None:
    used = {name for file in ROOT.rglob("*.lua") for name in re.findall(r"call\('([A-Z]+)'", file.read_text())}
    assert used - {str(command[0]) for command in TRIES} == {"PUBLISH"}  # tried on the invalidation channel
