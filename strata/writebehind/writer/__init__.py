"""From this process to the ledger: encode, hand off, flush, and hand off again."""
