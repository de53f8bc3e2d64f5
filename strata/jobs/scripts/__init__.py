"""The Lua files of jobs."""
