"""The same benchmark in a process without the compiled part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import strata
from tests.benchmarks.harness import Row, Target
from tests.benchmarks.options import Options


def plain(name: str, options: Options) -> list[Row]:
    """The ratios of the benchmark of this name in plain Python; none where this process is in plain Python itself."""
    if not strata.compiled:
        return []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, "-m", "tests.benchmarks", name, "--json", str(file)]
        command += ["--quick"] * options.quick
        subprocess.run(command, env={**os.environ, "STRATA_PURE": "1"}, stdout=subprocess.DEVNULL, check=True)
        found = [Row(**item) for item in json.loads(file.read_text())["benchmarks"][name]]
    return [
        replace(row, what=f"plain Python: {row.what}", target=None if row.target is None else Target(**row.target))  # type: ignore[arg-type]
        for row in found
        if not row.unit
    ]
