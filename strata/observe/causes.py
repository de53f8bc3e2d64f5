"""Why a server did not answer, in the few words that an operator looks for; never any text that could hold a secret."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterator
from socket import gaierror

_BY_NUMBER = {
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "no route to the network",
    errno.EMFILE: "this process may open no more files",
    errno.ENFILE: "this machine may open no more files",
}


def network_cause(error: BaseException) -> str:
    """What the network, or TLS, says; empty where it is not to blame."""
    for item in _chain(error):
        if found := _cause(item):
            return found
    return ""


def _cause(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "TLS cannot be agreed on"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, gaierror):
        return "the name of the host cannot be resolved"
    if isinstance(error, ConnectionError):
        return "the connection was cut"
    if isinstance(error, FileNotFoundError):
        return "there is no such socket"
    if isinstance(error, OSError) and error.errno:
        return _BY_NUMBER.get(error.errno) or os.strerror(error.errno).lower()
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
