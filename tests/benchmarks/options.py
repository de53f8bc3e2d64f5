"""What the command line says to every benchmark."""

from __future__ import annotations

import argparse
import gzip
import lzma
from array import array
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A recorded stream of keys, and the size of the cache to judge by it."""

    path: Path
    entries: int

    @classmethod
    def parse(cls, text: str) -> TraceFile:
        """`FILE:ENTRIES`."""
        path, _, entries = text.rpartition(":")
        if not path or not entries.isdigit() or not int(entries):
            raise argparse.ArgumentTypeError(f"{text!r} is not FILE:ENTRIES, such as web.trace.xz:512")
        return cls(Path(path), int(entries))

    def keys(self) -> list[int]:
        """All keys in order."""
        data = self.path.read_bytes()
        if self.path.suffix == ".xz":
            data = lzma.decompress(data)
        elif self.path.suffix == ".gz":
            data = gzip.decompress(data)
        keys = array("i")
        keys.frombytes(data)
        keys.byteswap()
        return keys.tolist()


@dataclass(frozen=True, slots=True)
class Options:
    """`quick` trades certainty for time."""

    quick: bool = False
    traces: tuple[TraceFile, ...] = ()
    plot: Path | None = None

    def rounds(self, usual: int) -> int:
        """The number of rounds where one usually takes `usual`."""
        return max(5, usual // 10) if self.quick else usual
