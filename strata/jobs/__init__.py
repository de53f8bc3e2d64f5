"""Work for the fleet that takes long: a job's record, its parts and leases, and what a task does."""
