"""Whether the compiled part runs, which changes nothing but speed."""

from __future__ import annotations

from collections.abc import Iterator

from strata import _compiled
from strata.cli.doctor.finding import Finding, good


def compiled() -> Iterator[Finding]:
    """The finding about this machine's Python; a worker's may be another one."""
    yield good("compiled part", f"no: {_compiled.lacking}" if _compiled.lacking else "yes")
