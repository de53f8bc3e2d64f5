"""L2: Redis. Versioned entries under one key a record, changed by Lua scripts only."""
