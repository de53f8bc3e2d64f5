"""L1: this process's memory. A plain dict of stamped entries, what leaves it when it is full, and who sweeps it."""
