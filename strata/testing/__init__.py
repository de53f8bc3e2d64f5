"""For tests of applications: a proxy that injects faults, pytest fixtures, and a checker of histories.

`inspect` is for tests of Strata itself, which look behind a store.
"""

from strata.exports import export
from strata.testing.history import Count, Report, observe
from strata.testing.inspection import Inspection, inspect
from strata.testing.proxy import Proxy

__all__ = ["Count", "Inspection", "Proxy", "Report", "inspect", "observe"]

__dir__ = export(globals())
