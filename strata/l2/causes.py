"""Why Redis cannot be used, in a few words."""

from __future__ import annotations

import re

from strata.l2.refusals import refusal_of
from strata.observe.causes import network_cause

_BY_CLASS = {
    "MasterNotFoundError": "the Sentinels know no master",
    "SlaveNotFoundError": "the Sentinels know no replica",
    "MaxConnectionsError": "all connections are in use",
}


def cause_of(error: BaseException) -> str:
    """What keeps it from being used."""
    found, refusal, name = network_cause(error), refusal_of(error), type(error).__name__
    if found.startswith("the certificate"):
        return found
    if refusal is not None:
        return refusal.found
    if name in _BY_CLASS or found:
        return _BY_CLASS.get(name) or found
    if code := re.match(r"[A-Z]{4,}(?= |$)", str(error)):  # the code of an answer; its text may repeat arguments
        return code[0]
    if str(error).startswith(("the server closed", "the subscription went", "all connections are in use")):
        return str(error)  # our own words
    return "timed out" if name == "TimeoutError" else f"no answer ({name})"
