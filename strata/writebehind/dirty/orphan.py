"""A segment of a journal whose process is gone, read with the care that a file of unknown origin asks for.

After a power cut its end may be zeros, since a file grows before its data is there; a bad disk or another program may
have left anything. What stands before a damaged place is good, and nothing here waits, spins, or asks for much memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

import msgspec

from strata.errors import DecodeError
from strata.protocol.entry import UNDECODABLE, Entry, decode, is_newer

SEGMENT_BYTES = 8 << 20  # from which on a segment is not appended to
RECORD_BYTES = 64 << 20  # of the largest record; larger ones go to the ledger at once
CHUNK = 1 << 20

LATEST = 10**17  # ms since 1970; later than any duration that is taken ends

HEAD = struct.Struct("<II")

_decode_any = msgspec.msgpack.Decoder().decode
_UNREADABLE = (*UNDECODABLE, DecodeError)


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    schema: str
    key_text: str
    entry: bytes
    ends: Annotated[int, msgspec.Meta(ge=0, le=LATEST)] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Body).decode


class JournalRecord(NamedTuple):
    """A write as a journal holds it. `ends`: when a life of its own ends in L2, in ms since 1970, 0 being never; None
    where it has none, which a release that does not know of such lives can read."""

    schema: str
    key_text: str
    entry: Entry
    ends: int | None = None

    def encode(self) -> bytes:
        """Its bytes."""
        body = (self.schema, self.key_text, self.entry.encode())
        return _encode(body if self.ends is None else (*body, self.ends))


class StrangeFileError(Exception):
    """A file of a segment's name that is none; the text says what it is instead."""


@dataclass(slots=True)
class SegmentContents:
    """What a segment holds: its records, in the order in which they were written; whether a newer release wrote some;
    and whether some, or its end, cannot be read."""

    records: list[JournalRecord] = field(default_factory=list)
    newer: bool = False
    damaged: bool = False

    def add(self, body: bytes) -> None:
        """One record more."""
        try:
            found = _decode(body)
            self.records.append(JournalRecord(found.schema, found.key_text, decode(found.entry), found.ends))
        except _UNREADABLE:
            newer = _is_newer(body)
            self.newer |= newer
            self.damaged |= not newer


class Orphan:
    """Locked until it is let go. Raises `BlockingIOError` or `FileNotFoundError` where its process lives, or somebody
    else was faster; `StrangeFileError`; `OSError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            _check(os.fstat(self._file))
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(self._file)
            if not os.path.samestat(found, os.lstat(path)):
                raise FileNotFoundError("somebody else has replayed it")
            if found.st_size > SEGMENT_BYTES + HEAD.size + RECORD_BYTES:
                raise StrangeFileError("larger than any segment")
        except BaseException:
            os.close(self._file)
            raise

    def read(self) -> SegmentContents:
        """Everything in it."""
        contents = SegmentContents()
        with os.fdopen(os.dup(self._file), "rb") as stream:
            try:
                at = 0
                for body in _bodies(stream):
                    at += HEAD.size + len(body)
                    contents.add(body)
                stream.seek(at)
                contents.damaged |= any(chunk.strip(b"\0") for chunk in iter(lambda: stream.read(CHUNK), b""))
            except OSError:  # a bad place of the disk
                contents.damaged = True
        return contents

    def remove(self) -> None:
        """Everything in it was taken over."""
        self.path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Let it go."""
        os.close(self._file)


def _open(path: Path) -> int:
    try:
        # Not through a symlink, and without waiting for whoever might write to a FIFO.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise StrangeFileError("a symbolic link") from None
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise StrangeFileError("no regular file") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise StrangeFileError("not readable for this user") from None
        raise


def _check(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StrangeFileError("no regular file")
    if found.st_uid != os.geteuid():
        raise StrangeFileError("a file of another user")


def _bodies(stream: BinaryIO) -> Iterator[bytes]:
    """The bodies of the records, up to the end or to the first that is torn or damaged."""
    left = os.fstat(stream.fileno()).st_size
    while len(head := stream.read(HEAD.size)) == HEAD.size:
        length, crc = HEAD.unpack(head)
        left -= HEAD.size + length
        if not length or length > RECORD_BYTES or left < 0:
            return
        body = stream.read(length)
        if len(body) < length or zlib.crc32(body) != crc:
            return
        yield body


def _is_newer(body: bytes) -> bool:
    """Whether a newer release wrote the record: its entry has a later format, or fields follow those that we know."""
    try:
        fields = _decode_any(body)
    except _UNREADABLE:
        return False
    if not isinstance(fields, list) or [type(field) for field in fields[:3]] != [str, str, bytes]:
        return False
    return len(fields) > len(_Body.__struct_fields__) or is_newer(fields[2])
