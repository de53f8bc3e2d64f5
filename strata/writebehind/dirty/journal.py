"""The journal of one process: what it wrote behind, in local files, until L3 has it. Survives SIGKILL of the process.

A directory holds segments `strata-<instance>-<number>.journal`, appended to without fsync, each locked (flock) by the
process that writes it; one that can be locked belongs to a process that is gone, and whoever comes next replays it.
A record is its length and CRC-32 (4 bytes each, little-endian) and a msgpack array: schema, key text, an entry as in
the ledger, with ciphertext for Encrypted columns, and, where it has a life of its own in L2, when that ends. A record
that is torn, or damaged, ends its segment. A file that cannot be read to its end, or is none of ours, is set aside, so
that it never holds up anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.waits.locks import is_inside, memory_lock
from strata.writebehind.dirty import directory as directories
from strata.writebehind.dirty.orphan import (
    HEAD,
    RECORD_BYTES,
    SEGMENT_BYTES,
    JournalRecord,
    Orphan,
    StrangeFileError,
)

SEGMENTS = 64  # more are pinned by few records each, which are then appended once more


class Segment:
    """One file. `live` is the number of writes of which it holds the newest record."""

    __slots__ = ("file", "live", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX)
        except OSError:
            os.close(self.file)
            raise
        self.live = 0
        self.size = 0


class Keeper(Protocol):
    """What holds a record in its segment: a slot of the dirty buffer."""

    segment: Segment | None


class Journal:
    """Thread-safe: `_lock` guards every field, the counts of the segments, and each `segment` of a keeper.

    In the child of a fork `abandon` gives the parent's files back to it alone, and the child makes a journal of its
    own. At exit the files stay unless `close` finds them empty.
    """

    def __init__(self, directory: Path, instance: str, log: SafeLogger, metrics: SafeMetrics) -> None:
        self._directory = directory
        self._instance = instance
        self._log = log
        self._metrics = metrics
        self._fixed: set[str] = set()  # names of files that could not be set aside; the flusher's thread's alone
        self._lock = memory_lock()
        self._segments: list[Segment] = []
        self._number = 0

    def append(self, keeper: Keeper, pack: Callable[[], JournalRecord]) -> None:
        """Write the keeper's record, which takes the place of its earlier one. Raises `OSError`.

        `pack` gives its content; it is called under the lock, so that of two threads that write a key
        at once the later one appends what is newest then.
        """
        with self._lock:
            body = pack().encode()
            if len(body) > RECORD_BYTES:
                raise OSError(errno.EFBIG, "a record is too large for the journal")
            record = HEAD.pack(len(body), zlib.crc32(body)) + body
            segment = self._current()
            if os.write(segment.file, record) != len(record):
                # The disk is full: the torn record would end the segment for a reader, so nothing may follow it.
                with contextlib.suppress(OSError):
                    os.ftruncate(segment.file, segment.size)
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

    @property
    def interrupted(self) -> bool:
        """Whether the caller is a signal's handler that has interrupted a change of this journal."""
        return is_inside(self._lock)

    def crowded(self) -> Segment | None:
        """The oldest segment, where there are too many: its few records are to be appended once more."""
        with self._lock:
            return self._segments[0] if len(self._segments) > SEGMENTS else None

    def close(self) -> None:
        """Close the files, and remove those of which nothing is needed; the others are replayed by who comes next."""
        with self._lock:
            for segment in self._segments:
                if not segment.live:
                    self._remove(segment)
                os.close(segment.file)
            self._segments.clear()

    def abandon(self) -> None:
        """In the child of a fork: the files, and their locks, are the parent's."""
        for segment in self._segments:
            with contextlib.suppress(OSError):
                os.close(segment.file)

    def has_orphans(self) -> bool:
        """Whether there may be segments of other processes, gone or alive."""
        try:
            return any(self._others())
        except OSError:
            return True  # whoever looks for them will say what is wrong

    def orphans(self) -> Iterator[Orphan]:
        """The segments that processes left which are gone, each locked until it is let go. Raises `OSError`."""
        for path in self._others():
            try:
                orphan = Orphan(path)
            except (BlockingIOError, FileNotFoundError):
                continue
            except StrangeFileError as error:
                self.set_aside(path, str(error))
                continue
            yield orphan

    def set_aside(self, path: Path, reason: str) -> None:
        """Leave a file for a person to look at; where it cannot be moved, it is not looked at any more."""
        self._metrics.count("strata_write_behind_journal_unreadable")
        told = {"file": path.name, "reason": reason}
        try:
            directories.set_aside(path)
        except FileNotFoundError:
            pass  # somebody else was faster
        except OSError as error:
            self._fixed.add(path.name)
            told["error"] = type(error).__name__
            self._log.error("a file among the journals cannot be read, nor be set aside", **told)
        else:
            self._log.error("a file among the journals cannot be read; it was set aside", **told)

    def _others(self) -> Iterator[Path]:
        if wrong := directories.refusal(self._directory):
            raise PermissionError(f"the directory of the journals {wrong}")
        own = f"strata-{self._instance}-"
        if self._directory.is_dir():
            paths = sorted(self._directory.glob("strata-*.journal"))
            yield from (path for path in paths if not path.name.startswith(own) and path.name not in self._fixed)

    def _current(self) -> Segment:
        if self._segments and self._segments[-1].size < SEGMENT_BYTES:
            return self._segments[-1]
        directories.make(self._directory)
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
            self._remove(segment)
            os.close(segment.file)

    def _remove(self, segment: Segment) -> None:
        """Nothing of it is needed any more."""
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(segment.file, 0)  # so that nobody reads it again, whatever its directory has become
            told = {"file": segment.path.name, "error": type(error).__name__}
            self._log.warning("a file of the journal could not be removed; it was emptied", **told)
