"""The Lua files of L2."""
