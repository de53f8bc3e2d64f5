"""What a writer did, as it tells it: a file for each incarnation, appended to before and after each operation.

Lines: `b <seq> <key> <n>` an operation begins (n: 0 for a deletion, 1 for an increment), `a <seq>` it was acknowledged,
`s <key,key,...>` everything acknowledged so far was handed off, but for these keys,
`w <text>` a read of an own write was wrong, `e <text>` how it ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


class Diary:
    """Written by one thread; what was told survives SIGKILL of the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._seq = 0

    def begins(self, key: int, n: int) -> int:
        self._seq += 1
        self._tell(f"b {self._seq} {key} {n}")
        return self._seq

    def acknowledged(self, seq: int) -> None:
        self._tell(f"a {seq}")

    def handed_off(self, unsent: Iterable[int]) -> None:
        self._tell(f"s {','.join(map(str, unsent))}")

    def wrong(self, text: str) -> None:
        self._tell(f"w {text}")

    def ended(self, text: str) -> None:
        self._tell(f"e {text}")

    def _tell(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


@dataclass(slots=True)
class Write:
    """One operation on a key; `n` is 0 for a deletion. `acknowledged` by `set`; `safe`: handed off."""

    n: int
    acknowledged: bool = False
    safe: bool = False


@dataclass(slots=True)
class Told:
    """A diary as it was read."""

    writes: dict[int, list[Write]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    end: str = ""


def read(path: Path) -> Told:
    """The diary of an incarnation, which may have been killed before its first line."""
    told = Told()
    under_way: dict[int, tuple[int, Write]] = {}
    fresh: dict[int, list[Write]] = {}  # by key what was acknowledged, and not said to be handed off
    for line in path.read_text().splitlines() if path.exists() else []:
        kind, _, rest = line.partition(" ")
        if kind == "b":
            seq, key, n = map(int, rest.split())
            write = Write(n)
            under_way[seq] = key, write
            told.writes.setdefault(key, []).append(write)
        elif kind == "a":
            key, write = under_way.pop(int(rest))
            write.acknowledged = True
            fresh.setdefault(key, []).append(write)
        elif kind == "s":
            unsent = {int(key) for key in rest.split(",") if key}
            for key in fresh.keys() - unsent:
                for write in fresh.pop(key):
                    write.safe = True
        elif kind == "w":
            told.wrong.append(rest)
        elif kind == "e":
            told.end = rest
    return told
