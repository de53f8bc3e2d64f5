"""The command line: `strata --help`."""

from strata.cli.main import main

__all__ = ["main"]
