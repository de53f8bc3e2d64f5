"""Streams of keys made up.

Some are skewed, and those LFU is for; in others what was used last is used next, and LRU is hard to beat.
"""

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


def mixed(requests: int, keys: int, length: int, part: float) -> list[int]:
    """A skewed stream, and between its requests those of a loop, which are a part of all."""
    rng = random.Random(SEED + 1)
    steps = itertools.cycle(range(keys, keys + length))
    return [next(steps) if rng.random() < part else key for key in zipf(requests, keys, 0.9)]


def days(requests: int, keys: int, day: int) -> list[int]:
    """Day and night have popular keys of their own, and a few in common; each night reads all keys once, in order."""
    out: list[int] = []
    for position, key in enumerate(zipf(requests, keys, 0.9)):
        if position % day == day * 3 // 4:
            out += range(keys)
        out.append(key if key < keys // 100 or position % day < day // 2 else keys - 1 - key)
    return out


def pages(requests: int, keys: int, size: int) -> list[int]:
    """Lists of neighbours, the newest first: most ask for the first page, and every third time there is a new key."""
    rng = random.Random(SEED)
    weights = list(itertools.accumulate(1 / (rank + 1) ** 1.1 for rank in range(keys // size)))
    out: list[int] = []
    while len(out) < requests:
        first = keys - bisect.bisect(weights, rng.random() * weights[-1]) * size
        out += range(first, first - size, -1)
        keys += rng.random() < 0.3
    return out


def lives(requests: int, alive: int, skew: float, life: int) -> list[int]:
    """Keys of different popularity, each for a while; when its time is up another takes its place."""
    rng = random.Random(SEED + 1)
    names = list(range(alive))
    ends = [int(rng.expovariate(1 / life)) for _ in names]
    fresh = itertools.count(alive)
    out: list[int] = []
    for position, rank in enumerate(zipf(requests, alive, skew)):
        if ends[rank] < position:
            names[rank] = next(fresh)
            ends[rank] = position + int(rng.expovariate(1 / life))
        out.append(names[rank])
    return out


def recency(requests: int, spread: float, middle: int, fresh: float) -> list[int]:
    """What was used last is used next: by log-normal distances in the stack of LRU; a part are keys never seen."""
    rng = random.Random(SEED)
    stack: list[int] = []
    out: list[int] = []
    unseen = itertools.count()
    for _ in range(requests):
        distance = int(rng.lognormvariate(0, spread) * middle)
        new = rng.random() < fresh or distance >= len(stack)
        stack.append(next(unseen) if new else stack.pop(-1 - distance))
        out.append(stack[-1])
    return out


def sessions(requests: int, users: int, mean: int, keys: int) -> list[int]:
    """Bursts: so many users at a time ask a few times for one key of their own and two popular ones, and go."""
    rng = random.Random(SEED + 1)
    popular = iter(zipf(4 * requests, keys, 0.8))
    fresh = itertools.count(keys)

    def session() -> list[int]:
        wanted = (next(fresh), next(popular), next(popular))
        return [rng.choice(wanted) for _ in range(1 + int(rng.expovariate(1 / mean)))]

    open_ = [session() for _ in range(users)]
    out: list[int] = []
    while len(out) < requests:
        user = rng.randrange(users)
        out.append(open_[user].pop())
        open_[user] = open_[user] or session()
    return out


def paired(requests: int, gap: int) -> list[int]:
    """Each key twice, and never again: the second time after at most so many other keys."""
    rng = random.Random(SEED)
    due: dict[int, list[int]] = {}
    out: list[int] = []
    for key in itertools.count():
        if len(out) >= requests:
            return out
        out += [*due.pop(key, ()), key]
        due.setdefault(key + 1 + rng.randrange(gap), []).append(key)
    return out


def wandering(requests: int, keys: int, width: float) -> list[int]:
    """What is asked for lies near a place that moves on over the keys."""
    rng = random.Random(SEED)
    return [int(position * keys / requests + abs(rng.gauss(0, width))) for position in range(requests)]
