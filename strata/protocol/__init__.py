"""What is written for others to read: versions, names of keys, shards, messages, entries of the ledger."""
