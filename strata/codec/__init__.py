"""Codecs: records as the bytes that L2 keeps."""

from strata.codec.builtin import JSON, MsgPack

__all__ = ["JSON", "MsgPack"]
