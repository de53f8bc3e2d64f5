"""What somebody else may leave where Strata looks: for each place the shapes that nothing of ours has.

Tests, the chaos program and the fuzzing of decoders share them."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from hypothesis import example

from strata.protocol.entry import Entry, EntryOp
from strata.protocol.versions import NODE_BITS, text
from strata.writebehind.dirty.orphan import HEAD
from strata.writebehind.persist.outcomes import Failed, OutcomeReport, Persisted

T = TypeVar("T", bound=Callable[..., Any])
FUTURE = (1 << 63) - 1  # the last version there is
DEEP = 100_000


def soon(seconds: float = 0.0) -> int:
    """A version as a process would stamp it in so many seconds."""
    return int((time.time() + seconds) * 1e6) << NODE_BITS


def each(*shapes: bytes) -> Callable[[T], T]:
    """Examples of `data` for a test of Hypothesis."""

    def given(test: T) -> T:
        for shape in shapes:
            test = example(data=shape)(test)
        return test

    return given


# -- the ledger -------------------------------------------------------------------------------------------------------

_VERSION = b"%019d" % soon()
DELETION = b"E1:" + _VERSION + b":d:0000000000001:x:"  # an entry that is one
NO_ENTRIES = (
    b"hello",
    b"",
    b"E1:" + _VERSION + b":q:0000000000001:x:",
    b"E1:" + _VERSION + b":d:abcdefghijklm:x:",
    b"E1:" + _VERSION + b":d:0000000000001:and no end",
    b"E1:-000000000000000001:d:0000000000001:x:",
    b"E1:" + b"9" * 19 + b":d:0000000000001:x:",
    b"E7:and nothing more",
    b"E\xff:" + _VERSION + b":\0",
)
# Of a schema whose keys are int.
NO_KEYS = (b"not a number", b"", b"\xff\xfe", b"9" * 5000, "\u0662".encode(), b"1_0", b" 1")


def newer(version: int, since: int = 1) -> bytes:
    """An entry of a newer release."""
    return Entry(version, EntryOp.SET, since, "them", b"who knows").encode().replace(b"E1:", b"E2:")


def forged(version: int, values: dict[str, Any], op: EntryOp = EntryOp.SET) -> bytes:
    """An entry with whatever values."""
    return Entry(version, op, 1, "nobody", msgspec.msgpack.encode([1, values])).encode()


LETTERS = (
    b"\xc1 no letter",
    msgspec.msgpack.encode(["two", newer(6), "", "x", 1, 1, 1, "a field more"]),
    msgspec.msgpack.encode(["odd", b"no entry", "", "x", 1, -(1 << 60), 1 << 60]),
    b"",
    b"\x91" * DEEP,
)

# -- outcomes ---------------------------------------------------------------------------------------------------------


def outcomes(schema: str, key_text: str) -> list[bytes]:
    """Reports that cannot be read, are about nothing, or about what cannot have happened to a key."""
    far = OutcomeReport(schema, [Persisted(key_text, FUTURE)], [Failed(key_text, FUTURE, "", "", 1, True)])
    odd = OutcomeReport(schema, [Persisted("no key", 5)], [Failed("x", 5, "", "", 1, True)])
    reports = [far, odd, ["nobody", [["1", 5]], []], [schema, [["1"]]], [schema, [["1", -5]], []]]
    return [b"\xc1\xff", b"", b"\x91" * DEEP, *map(msgspec.msgpack.encode, reports)]


# -- L2 ---------------------------------------------------------------------------------------------------------------

_HEAD = b"V1:%019d:s:" % 5
VALUES = (
    b"garbage",
    b"",
    b"\xc1" * 64,
    _HEAD,
    _HEAD + b'{"id":7,"places":' + b"[" * DEEP,
    b"V1:" + b"9" * 19 + b":s:{}",
    b"V1:" + "\u00b2".encode() * 9 + b"1:s:",
    b"V1:-000000000000000001:s:{}",
    b"V1:1_0_0_0_0_0_0_0_0_0:s:{}",
    b"T1:" + b"9" * 19 + b":s:",
    b"I1:c:x=99999999999999999999999999;",
    b"V9:" + _VERSION + b":s:{}",
)

# -- messages and notifications ---------------------------------------------------------------------------------------


def message(schema: str, id: str, **fields: Any) -> bytes:
    """A message of the bus with any fields."""
    return json.dumps({"schema": schema, "id": id, "op": "set", **fields}).encode()


def unreadable_messages(schema: str) -> list[bytes]:
    """Messages that say nothing."""
    nested = b'{"schema":"%s","id":"7","op":"set","x":' % schema.encode() + b"[" * DEEP + b"]" * DEEP + b"}"
    huge = b'{"schema":"%s","id":"7","op":"set","db":' % schema.encode() + b"9" * 5000 + b"}"
    return [nested, huge, b"", b"{}", b"[]", b"null", b"\xff" * 1000, message(schema, "x"), message(5, "7")]  # type: ignore[arg-type]


def messages(schema: str, id: str) -> list[bytes]:
    """Messages that say nothing, or what cannot be about a key."""
    versions = ["\u00b2", "9" * 5000, "-5", *(text(FUTURE),) * 4]
    ops = ["set", "set", "set", "set", "delete", "purge", "intent"]
    odd = [message(schema, id, v=v, op=op, src="nobody") for v, op in zip(versions, ops, strict=True)]
    return [*unreadable_messages(schema), *odd, message(schema, id, db=10**40), message(schema, "\ud800"),
            message(schema, "\0")]  # fmt: skip


def notices(table: str, key_text: str) -> list[str]:
    """Notifications that say nothing, or what cannot be about a key; the longest is longer than PostgreSQL takes."""
    digits = "9" * 5000
    return [
        "", "null", "[" * DEEP, '{"table": 5}', f'{{"table":"{table}","keys":' + '{"7":' * DEEP,
        f'{{"table":"{table}","keys":{{"{key_text}":{digits}}}}}',
        f'{{"table":"{table}","keys":{{"{key_text}":99999999999999999999999999}}}}',
        f'{{"table":"{table}","keys":{{"{key_text}":{FUTURE}}}}}',
        f'{{"table":"{table}","keys":{{"{key_text}":{-FUTURE}}}}}',
        f'{{"table":"{table}","keys":{{"\u00b2":5,"":1}}}}',
    ]  # fmt: skip


# -- journals ---------------------------------------------------------------------------------------------------------


def record(schema: str, key_text: str, entry: bytes) -> bytes:
    """A record of a journal."""
    body = msgspec.msgpack.encode((schema, key_text, entry))
    return HEAD.pack(len(body), zlib.crc32(body)) + body


def journals(schema: str) -> list[bytes]:
    """What no journal has in it. All but zeros, which a file may end in, is kept for somebody to look at."""
    deep = b"\x91" * DEEP
    return [
        b"garbage" * 100, b"\xff" * 8, HEAD.pack(0xFFFFFFFF, 0), HEAD.pack(len(deep), zlib.crc32(deep)) + deep,
        HEAD.pack(5, 0) + b"12345", bytes(3) + b"x" * 50, record(schema, "1", b"no entry"),
    ]  # fmt: skip


# -- tasks and jobs ---------------------------------------------------------------------------------------------------

# Arguments of `strata.persist`, by place and by name.
ARGUMENTS: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
    ((), {}), (("item",), {}), (("item", "0"), {}), (("nobody", 0), {}), (("item", 10**9), {}), (("item", -1), {}),
    ((["item"], 0), {}), (("item", 0, 1), {}), (("item", 0), {"x": 1}), ((), {"schema": "item", "shard": 0}),
    (("item", True), {}), (("\0", 0), {}),
)  # fmt: skip
# Bodies of messages to a task, by their serializer's name; and what stands in a Redis queue in a message's place.
BODIES: tuple[tuple[bytes, str], ...] = tuple(
    (body, kind)
    for kind in ("application/x-msgpack", "application/json")
    for body in (b"", b"\xc1", b"5", b"\x93\x01\x02\x03", b"[1,2,3]", b"\x80", b"\x91" * DEEP, b"[" * DEEP)
)
_ENVELOPE = {
    "body": "!",  # which is no base64
    "headers": {"task": "strata.warm", "id": "x"},
    "properties": {"delivery_tag": "1", "body_encoding": "base64", "delivery_info": {"routing_key": "strata.warm"}},
}
ENVELOPES = (b"garbage", b"{}", b"[" * DEEP, json.dumps(_ENVELOPE).encode())
# Headers that no task has.
HEADERS: tuple[dict[str, Any], ...] = (
    {"eta": "never"}, {"expires": []}, {"timelimit": 5}, {"retries": "x"}, {"id": None}, {"task": 5}, {"lang": 5},
    {"compression": "nothing"}, {"group": 5, "root_id": {}}, {"argsrepr": 5, "origin": []}, {"stamps": 5},
)  # fmt: skip
# Fields of a job's record.
JOBS: tuple[dict[str, bytes], ...] = (
    {"state": b"\xff", "done": "\u00b2".encode(), "bell": b"[" * DEEP},
    {"bell": b'["strata.persist",["item",0]]'},
    {"bell": b'["strata.warm",[5]]', "total": b"9" * 5000},
    {"state": b"running", "bell": b""},
)
