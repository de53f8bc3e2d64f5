"""The operations: how reads and writes travel through the tiers of one schema."""
