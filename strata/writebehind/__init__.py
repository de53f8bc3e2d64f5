"""Write-behind: dirty buffer, ledger in Redis, doorbell to the fleet, and the way of each write to L3."""
