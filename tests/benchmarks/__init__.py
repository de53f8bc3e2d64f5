"""Benchmarks, run by hand: `python -m tests.benchmarks`. Ratios to a reference in the same run; nothing is asserted."""
