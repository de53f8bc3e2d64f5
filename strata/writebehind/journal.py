"""The journal of one process: what it wrote behind, in local files, until L3 has it. Survives SIGKILL of the process.

A directory holds segments `strata-<instance>-<number>.journal`, appended to without fsync, each locked (flock) by the
process that writes it; one that can be locked belongs to a process that is gone, and whoever comes next replays it.
A record is its length and CRC-32 (4 bytes each, little-endian) and a msgpack array: schema, key text, an entry as in
the ledger, with ciphertext for Encrypted columns. A record that is torn, or damaged, ends its segment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from strata.observe.log import SafeLogger
from strata.writebehind.entry import Entry, decode

SEGMENT_BYTES = 8 << 20
SEGMENTS = 64  # more are pinned by few records each, which are then appended once more

_HEAD = struct.Struct("<II")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, str, bytes]).decode


class Segment:
    """One file. `live` is the number of writes of which it holds the newest record."""

    __slots__ = ("file", "live", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.live = 0
        self.size = 0

    def remove(self) -> None:
        """Nothing of it is needed any more."""
        self.path.unlink(missing_ok=True)
        os.close(self.file)


class Keeper(Protocol):
    """What holds a record in its segment: a slot of the dirty buffer."""

    segment: Segment | None


class Journal:
    """Thread-safe: `_lock` guards every field, the counts of the segments, and each `segment` of a keeper.

    In the child of a fork `abandon` gives the parent's files back to it alone, and the child makes a journal of its
    own. At exit the files stay unless `close` finds them empty.
    """

    def __init__(self, directory: Path, instance: str, log: SafeLogger) -> None:
        self._directory = directory
        self._instance = instance
        self._log = log
        self._lock = threading.Lock()
        self._segments: list[Segment] = []
        self._number = 0

    def append(self, keeper: Keeper, pack: Callable[[], tuple[str, str, Entry]]) -> None:
        """Write the keeper's record, which takes the place of its earlier one. Raises `OSError`.

        `pack` gives schema, key text and entry; it is called under the lock, so that of two threads that write a key
        at once the later one appends what is newest then.
        """
        with self._lock:
            schema, key_text, entry = pack()
            body = _encode((schema, key_text, entry.encode()))
            record = _HEAD.pack(len(body), zlib.crc32(body)) + body
            segment = self._current()
            if os.write(segment.file, record) != len(record):
                # The disk is full: the torn record would end the segment for a reader, so nothing may follow it.
                segment.size = SEGMENT_BYTES
                raise OSError("a record of the journal could not be written whole")
            segment.size += len(record)
            segment.live += 1
            self._let_go(keeper)
            keeper.segment = segment

    def release(self, keeper: Keeper) -> None:
        """L3 has the keeper's write, or it was given up."""
        if keeper.segment is not None:
            with self._lock:
                self._let_go(keeper)
                keeper.segment = None

    def crowded(self) -> Segment | None:
        """The oldest segment, where there are too many: its few records are to be appended once more."""
        with self._lock:
            return self._segments[0] if len(self._segments) > SEGMENTS else None

    def close(self) -> None:
        """Close the files, and remove those of which nothing is needed; the others are replayed by who comes next."""
        with self._lock:
            for segment in self._segments:
                if not segment.live:
                    segment.path.unlink(missing_ok=True)
                os.close(segment.file)
            self._segments.clear()

    def abandon(self) -> None:
        """In the child of a fork: the files, and their locks, are the parent's."""
        for segment in self._segments:
            with contextlib.suppress(OSError):
                os.close(segment.file)

    def has_orphans(self) -> bool:
        """Whether there are segments of other processes, gone or alive."""
        return any(self._others())

    def orphans(self) -> Iterator[Orphan]:
        """The segments that processes left which are gone, each locked until it is let go."""
        for path in self._others():
            try:
                orphan = Orphan(path, self._log)
            except OSError:
                continue
            yield orphan

    def _others(self) -> Iterator[Path]:
        own = f"strata-{self._instance}-"
        if self._directory.is_dir():
            paths = sorted(self._directory.glob("strata-*.journal"))
            yield from (path for path in paths if not path.name.startswith(own))

    def _current(self) -> Segment:
        if self._segments and self._segments[-1].size < SEGMENT_BYTES:
            return self._segments[-1]
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        segment = self._new()
        while os.fstat(segment.file).st_nlink == 0:
            # Between making and locking it somebody took it for an orphan, and removed it.
            os.close(segment.file)
            segment = self._new()
        self._segments.append(segment)
        self._sweep()
        return segment

    def _new(self) -> Segment:
        self._number += 1
        return Segment(self._directory / f"strata-{self._instance}-{self._number:08d}.journal")

    def _let_go(self, keeper: Keeper) -> None:
        segment = keeper.segment
        if segment is not None:
            segment.live -= 1
            if not segment.live and self._segments and segment is not self._segments[-1]:
                self._sweep()

    def _sweep(self) -> None:
        for segment in [segment for segment in self._segments[:-1] if not segment.live]:
            self._segments.remove(segment)
            segment.remove()


class Orphan:
    """A segment of a process that is gone. Raises `OSError` where that process lives, or somebody else was faster."""

    def __init__(self, path: Path, log: SafeLogger) -> None:
        self.path = path
        self._log = log
        self._file = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file).st_nlink == 0:
                raise OSError("somebody else has replayed it")
        except OSError:
            os.close(self._file)
            raise

    def records(self) -> Iterator[tuple[str, str, Entry]]:
        """Schema, key text and entry of each record, in the order in which they were written."""
        data = self.path.read_bytes()
        at = 0
        while at + _HEAD.size <= len(data):
            length, crc = _HEAD.unpack_from(data, at)
            body = data[at + _HEAD.size : at + _HEAD.size + length]
            if len(body) < length or zlib.crc32(body) != crc:
                break
            at += _HEAD.size + length
            schema, key_text, raw = _decode(body)
            yield schema, key_text, decode(raw)
        if at != len(data):
            self._log.warning("the end of a journal was not written whole", bytes=len(data) - at)

    def done(self) -> None:
        """Everything in it was taken over."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def leave(self) -> None:
        """It is for somebody else, or for later."""
        os.close(self._file)
