"""What can be seen of a store: its log, its metrics, its counters."""

from strata.observe.log import SafeLogger, StandardLogger
from strata.observe.metrics import SafeMetrics

__all__ = ["SafeLogger", "SafeMetrics", "StandardLogger"]
