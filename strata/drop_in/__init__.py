"""What the caches of frameworks have in common: entries of bytes in L1 and L2, signed where they are in Redis."""
