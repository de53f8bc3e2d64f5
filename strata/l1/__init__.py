"""L1: memory. One dict a schema, entries that are stamped on a hit and ordered only when something must go."""
