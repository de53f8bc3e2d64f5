"""From the ledger to the rows, and what becomes of what cannot be persisted."""
