"""What the command line says to every benchmark."""

from __future__ import annotations

import argparse
import gzip
import lzma
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A recorded stream of keys, and the size of the cache to judge by it."""

    path: Path
    entries: int
    form: str

    @classmethod
    def parse(cls, text: str) -> TraceFile:
        """`FILE:ENTRIES`, or `FILE:ENTRIES:FORMAT` with one of the module struct, such as <I or >Q."""
        found = re.fullmatch(r"(.+):0*([1-9]\d*)(?::([<>][IQ]))?", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not FILE:ENTRIES, such as web.trace.xz:512")
        return cls(Path(found[1]), int(found[2]), found[3] or ">I")

    def keys(self) -> list[int]:
        """All keys in order: numbers of the format, or, where the file is text, one a line, other lines left out."""
        data = self.path.read_bytes()
        if self.path.suffix == ".xz":
            data = lzma.decompress(data)
        elif self.path.suffix == ".gz":
            data = gzip.decompress(data)
        size = struct.calcsize(self.form)
        if re.fullmatch(rb"[\d*\s]*", data):
            return [int(line) for line in data.split() if line.isdigit()]
        return [key for (key,) in struct.iter_unpack(self.form, data[: len(data) // size * size])]


@dataclass(frozen=True, slots=True)
class Options:
    """`quick` trades certainty for time, `full` time for the last point of a curve."""

    quick: bool = False
    full: bool = False
    traces: tuple[TraceFile, ...] = ()
    plot: Path | None = None

    def rounds(self, usual: int) -> int:
        """The number of rounds where one usually takes `usual`."""
        return max(5, usual // 10) if self.quick else usual

    def sizes(self, *usual: int, full: Sequence[int] = ()) -> list[int]:
        """The points of a curve: of the usual ones all but the last where one is in a hurry."""
        return [*(usual[:-1] if self.quick else usual), *(full if self.full else ())]
