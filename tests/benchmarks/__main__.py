"""`python -m tests.benchmarks [names] [--json FILE] [--trace FILE:ENTRIES]`: run some or all benchmarks.

A benchmark is a module `bench_<name>.py` in this folder with `run(options) -> list[Row]`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

from rich.console import Console

import tests.benchmarks
from tests.benchmarks.harness import Row
from tests.benchmarks.options import Options, TraceFile
from tests.benchmarks.report import save, show

PREFIX = "bench_"


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line names."""
    known = _names()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of: {', '.join(known)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument(
        "--trace", type=TraceFile.parse, action="append", default=[], metavar="FILE:ENTRIES",
        help="judge eviction on a trace too: big-endian 32-bit keys, .xz, .gz or raw",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="sizes that take many minutes, too")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE",
        help="draw the calls of `outages`, or the curves of a benchmark `scale_...`, as SVG into FILE",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(known)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    options = Options(quick=given.quick, full=given.full, traces=tuple(given.trace), plot=given.plot)
    results = _run(given.names or known, options)
    if given.json:
        save(given.json, results)


def _names() -> list[str]:
    modules = pkgutil.iter_modules(tests.benchmarks.__path__)
    return sorted(module.name.removeprefix(PREFIX) for module in modules if module.name.startswith(PREFIX))


def _run(names: list[str], options: Options) -> dict[str, list[Row]]:
    console = Console(width=None if sys.stdout.isatty() else 140)
    results: dict[str, list[Row]] = {}
    for name in names:
        module = importlib.import_module(f"tests.benchmarks.{PREFIX}{name}")
        results[name] = module.run(options)
        show(name, results[name], console)
    return results


if __name__ == "__main__":
    main()
