"""Memoized functions: `@store.cached`."""
