"""Strata among what companies run: poolers, restricted Redis users, other frameworks and other applications."""
