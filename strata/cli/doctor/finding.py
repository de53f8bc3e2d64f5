"""One line of the doctor's report."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from strata.errors import StrataError


class FindingState(enum.StrEnum):
    """How bad it is: `WARN` works but may not last, `FAIL` does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, what was found, and what to do about it."""

    what: str
    state: FindingState
    found: str
    advice: str = ""


def good(what: str, found: str) -> Finding:
    """Nothing to be done."""
    return Finding(what, FindingState.OK, found)


def warn(what: str, found: str, advice: str) -> Finding:
    """It works, but may not last."""
    return Finding(what, FindingState.WARN, found, advice)


def fail(what: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(what, FindingState.FAIL, found, advice)


def refused(what: str, error: StrataError) -> Finding:
    """It does not work, in the error's own words: what is wrong, then what would be right."""
    found, _, advice = str(error).partition("; ")
    return fail(what, found, advice or "see to that first")
