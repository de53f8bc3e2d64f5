"""Streams of keys made up: skewed, swept by scans, running in loops, and drifting."""

from __future__ import annotations

import bisect
import itertools
import random

SEED = 20_240_521


def zipf(requests: int, keys: int, skew: float, seed: int = SEED) -> list[int]:
    """Key k is asked for in proportion to 1 / (k + 1) ** skew."""
    rng = random.Random(seed)
    weights = list(itertools.accumulate(1 / (rank + 1) ** skew for rank in range(keys)))
    return [bisect.bisect(weights, rng.random() * weights[-1]) for _ in range(requests)]


def scanned(requests: int, keys: int, every: int, length: int) -> list[int]:
    """A skewed stream; after every so many requests a scan of keys that never come again."""
    out: list[int] = []
    fresh = itertools.count(keys)
    for position, key in enumerate(zipf(requests, keys, 0.9), 1):
        out.append(key)
        if position % every == 0:
            out += itertools.islice(fresh, length)
    return out


def looped(requests: int, length: int) -> list[int]:
    """The same keys over and over in the same order, the worst case of LRU where they do not fit."""
    return [position % length for position in range(requests)]


def drifting(requests: int, keys: int, every: int) -> list[int]:
    """A skewed stream whose popular keys move on, so that counts which do not age mislead."""
    return [key + position // every * keys // 10 for position, key in enumerate(zipf(requests, keys, 1.0))]
