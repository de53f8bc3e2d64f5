"""The dirty ledger in Redis: entries, claims, letters, and when they are due."""
