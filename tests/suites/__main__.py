"""`python -m tests.suites [names]`: run frameworks' own tests of caches on Strata's backends, with a real Redis.

Each comes, by pip, from the source distribution of the version that is installed. The exit status is 1 where a test
failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from strata.embedded import EmbeddedValkey
from tests.suites.suites import SUITES, Outcome, Suite


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="./ops/peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of: {', '.join(SUITES)} (default: all)")
    names = parser.parse_args().names or list(SUITES)
    if unknown := set(names) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    outcomes = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="strata-suite-") as folder, EmbeddedValkey(password="") as server:
            outcomes[name] = SUITES[name].run(
                _fetched(SUITES[name], folder), {**os.environ, "SUITE_REDIS": server.addr}
            )
    _show(outcomes)
    return int(any(outcome.failed or not outcome.passed for outcome in outcomes.values()))


def _fetched(suite: Suite, folder: str) -> Path:
    """The source distribution of the version that is installed, unpacked."""
    wanted = f"{suite.project}=={version(suite.project)}"
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--disable-pip-version-check", "--dest", folder]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=True)
    (packed,) = Path(folder).glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return packed.with_name(packed.name.removesuffix(".tar.gz"))


def _show(outcomes: dict[str, Outcome]) -> None:
    table = Table("suite", "version", "passed", "failed", "skipped, and why", "left out, and why")
    for name, outcome in outcomes.items():
        suite = SUITES[name]
        skipped = "\n".join(f"{count}: {why}" for why, count in outcome.skipped.items())
        left_out = "\n".join(f"{', '.join(names)}: {why}" for why, names in suite.left_out.items())
        table.add_row(
            name, version(suite.project), str(outcome.passed), str(outcome.failed), skipped or "0", left_out,
            end_section=True,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
