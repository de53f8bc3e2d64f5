"""Whether a figure that was taken again and again is still growing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

LEAST = 9  # samples below which nothing can be said
SHARE = 0.1  # of itself by which a figure may rise from one third of the time to the next
# What a figure may rise by, whatever it is: an allocator takes its memory in pieces, and a few of anything are noise.
SLACK = {"MB": 16.0, "objects": 5_000.0, "kB": 512.0, "": 8.0}


@dataclass(frozen=True)
class Verdict:
    """A figure over the settled part of a run: its medians in the three thirds of that time, and whether it grows."""

    name: str
    thirds: tuple[float, float, float]
    grows: bool


def judge(samples: Sequence[Mapping[str, float]], slack: Mapping[str, float] = SLACK) -> list[Verdict]:
    """Every figure of the samples, which were taken at even times; one that a sample lacks is 0 in it.

    A figure grows where it rises from each third of the time to the next, the last time by more than a tenth of
    itself and the unit's slack; a name ends with its unit, as in "worker memory (MB)".
    """
    names = sorted({name for sample in samples for name in sample})
    return [_judged(name, [sample.get(name, 0.0) for sample in samples], slack) for name in names]


def _judged(name: str, values: Sequence[float], slack: Mapping[str, float]) -> Verdict:
    size = len(values) // 3
    if len(values) < LEAST:
        raise ValueError(f"{len(values)} samples say nothing about growth; take {LEAST} or more")
    first, second, third = (median(values[start : start + size]) for start in (0, size, len(values) - size))
    unit = name.rpartition("(")[2].rstrip(")") if name.endswith(")") else ""
    enough = max(SHARE * second, slack.get(unit, slack[""]))
    return Verdict(name, (first, second, third), third - second > enough and second > first)
