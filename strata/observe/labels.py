"""The values of metrics' labels: names of schemas and fixed words, since each other value would be a series for ever.

What servers and callers make up, such as an exception of their own or a SQLSTATE of a trigger's, is one word: `other`.
"""

from __future__ import annotations

from strata.errors import StrataError

OTHER = "other"


def of_error(kind: type[BaseException]) -> str:
    """The name of an error of Strata's."""
    return kind.__name__ if kind.__module__ == StrataError.__module__ else OTHER
