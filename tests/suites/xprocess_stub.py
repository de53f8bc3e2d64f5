"""Stands for pytest-xprocess, which the conftest of cachelib and of Flask-Caching import to start servers: ours run."""

ProcessStarter = object
