"""Write-behind: dirty buffer, ledger in Redis, doorbell to the fleet, and the way of each write to L3."""

from strata.writebehind.buffer import Own
from strata.writebehind.facade import Pending, PendingStats, WriteBehind

__all__ = ["Own", "Pending", "PendingStats", "WriteBehind"]
