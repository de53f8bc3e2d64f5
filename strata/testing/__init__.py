"""For tests of applications: a proxy that injects faults, pytest fixtures, and a checker of histories."""

from strata.testing.history import Count, Report, observe
from strata.testing.proxy import Proxy

__all__ = ["Count", "Proxy", "Report", "observe"]
