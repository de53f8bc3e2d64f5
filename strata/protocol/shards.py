"""Which shard of its schema a key belongs to: ledger, doorbell and advisory lock agree on it."""

from __future__ import annotations

from zlib import crc32

SHARDS = 16


def shard_of(key_text: str) -> int:
    """The shard of a key's canonical text, 0 to `SHARDS` - 1; the same in every process, for ever."""
    return crc32(key_text.encode()) % SHARDS
