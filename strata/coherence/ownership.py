"""Whether what a Redis holds belongs to the database of this store, and not to that of another application.

The mark is the hash `strata:{database}:owner` of each Redis of a store (`scripts/belong.lua`), with the namespace in
front. Every connection asks for it before anything else is sent on it, and once more every few seconds, since a Redis
that is flushed keeps its connections. What is nobody's becomes the property of whoever asks first.

Where PostgreSQL does not answer, the fingerprint that was found at the same address before stands for it: L2 goes on.
Where none is known, L2 is down until PostgreSQL has told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn

import msgspec

from strata.errors import WITHOUT_L2, InvalidConfigError, L2UnavailableError, StrataError
from strata.l2.script import load
from strata.l3.fingerprint import Fingerprint, address, fingerprint
from strata.model.jsonb import UNREADABLE
from strata.observe.log import SafeLogger

if TYPE_CHECKING:
    from strata.l2.client import Ask, RedisServer
    from strata.l3.pool import Database

SCANNED = 1_000  # keys that are looked at in one step
_belong = load("strata.l2.scripts", "belong")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Fingerprint).decode
UNKNOWN = Fingerprint("unknown, its mark being damaged", "?", "?")


class Ownership:
    """One a store; thread-safe: `_sure`, `_refusal` and `waits` are written by any thread, as what Redis said last.

    After fork the child has the same database, and connections that ask anew.
    """

    def __init__(
        self, dsn: str, database: Database, servers: Callable[[], Iterable[RedisServer]], log: SafeLogger
    ) -> None:
        self._log = log
        self._sure = False
        self._refusal = ""
        self.waits = False  # Redis answered when it was asked last, and PostgreSQL had not told which database this is
        self._database = database
        self._address = address(dsn)
        self._servers = servers
        database.telling = True

    @property
    def refused(self) -> bool:
        """Whether a Redis was found to be another database's, when it was asked last."""
        return bool(self._refusal)

    def ensure(self) -> None:
        """Before a write is taken: have every Redis of the store asked once, as far as it answers.

        Raises `InvalidConfigError`.
        """
        if self._sure:
            return
        answered = True
        for server in self._servers():
            try:
                server.look()
            except WITHOUT_L2:
                answered = False  # its next connection asks
        self._sure = answered

    def guard(self, server: RedisServer) -> None:
        """From now on the server is used only where it is this database's."""
        server.guard(lambda ask: self._check(server, ask))

    def own(self) -> Fingerprint:
        """This store's database. Raises `L3UnavailableError` where it is not known and PostgreSQL does not answer."""
        if self._database.fingerprint is None:
            self._database.fingerprint = self._database.read(fingerprint)
        return self._database.fingerprint

    def owner(self, server: RedisServer) -> Fingerprint | None:
        """Whose the server is, where it is anybody's; nothing is claimed, and nobody is refused from now on."""
        server.guard(None)
        owner, *_ = server.run(_belong, [_mark(server)], ["", self._address])
        return _read(owner) if owner else None

    def adopt(self, server: RedisServer, caches: Iterable[str]) -> None:
        """What the server holds is this database's from now on, whosever it was, but for the `caches`, the beginnings
        of whose keys are given: they are emptied. Raises `L2UnavailableError` or `L3UnavailableError`."""
        server.guard(None)
        text, mark = _encode(self.own()), _mark(server)
        for beginning in caches:
            for keys in server.scan(f"{beginning}*", SCANNED):
                server.pipeline([("DEL", key) for key in keys])
        server.pipeline([("DEL", mark), ("HSET", mark, "owner", text, f"at:{self._address}", text)])
        self.guard(server)

    def _check(self, server: RedisServer, ask: Ask) -> None:
        own, why = self._own_if_known()
        text = b"" if own is None else _encode(own)
        # Who was refused once takes nothing that is nobody's: it was flushed, and its owner is about to say so.
        owner, found, kind = ask(_belong, [_mark(server)], [b"" if self._refusal else text, self._address])
        if kind and owner:
            said = kind.decode()
            self._log.error(
                "a key of Strata's was of another type than it has; it was renamed", key=_mark(server), type=said
            )
        self.waits = own is None and (not owner or owner != found)
        if own is None:
            if self.waits:
                raise L2UnavailableError(
                    "Redis is not used yet: PostgreSQL has not told which database this is, and so whether what is "
                    "kept there belongs to it; see to PostgreSQL first"
                ) from why
        elif owner == text:
            self._refusal = ""
        else:
            self._refuse(refusal(server, _read(owner), own) if owner else self._refusal)

    def _refuse(self, reason: str) -> NoReturn:
        if self._sure:
            self._log.error("a Redis was given to another database while this process ran", reason=reason)
        self._sure = False
        self._refusal = reason
        raise InvalidConfigError(reason)

    def _own_if_known(self) -> tuple[Fingerprint | None, StrataError | None]:
        try:
            return self.own(), None
        except InvalidConfigError:
            raise
        except StrataError as error:
            return None, error


def _read(owner: bytes) -> Fingerprint:
    """The fingerprint that stands in a mark; what cannot be read is nobody's that is known."""
    try:
        return _decode(owner)
    except UNREADABLE:
        return UNKNOWN


def refusal(server: RedisServer, owner: Fingerprint, own: Fingerprint) -> str:
    """Why a Redis may not be used, and what to do about it."""
    name = server.keys.namespace
    where = f"the namespace {name!r} of this Redis" if name else "this Redis, without a namespace,"
    if owner == UNKNOWN:
        return (
            f"{where} does not tell whose it is: somebody else wrote its key {_mark(server)}; postgres_dsn leads to "
            f"the {own}. See who writes to that Redis; if what it holds is this database's, stop the application and "
            "run `strata adopt`"
        )
    return (
        f"{where} holds what belongs to the {owner}; postgres_dsn leads to the {own}. Give each application a "
        "Config.namespace of its own (STRATA_NAMESPACE). If it is the same data, moved, stop the application and run "
        "`strata adopt`"
    )


def _mark(server: RedisServer) -> str:
    return server.keys.own("database", "owner")
