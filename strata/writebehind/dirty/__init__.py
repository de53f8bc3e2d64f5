"""What this process has taken and not handed off: in memory, and in its journal."""
