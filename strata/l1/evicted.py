"""What leaves L1 unasked, and why."""

from __future__ import annotations

import enum
from typing import Any

import msgspec


class EvictionReason(enum.Enum):
    """Why a record left L1 unasked."""

    CAPACITY = "capacity"
    EXPIRED = "expired"


class Evicted(msgspec.Struct, frozen=True, gc=False):
    """A record that left L1 unasked; the caller reports it when it holds no lock."""

    key: Any
    value: Any
    reason: EvictionReason
