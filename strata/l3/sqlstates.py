"""What each SQLSTATE of PostgreSQL asks of whoever sent the statement."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from strata.errors import (
    ConstraintError,
    EncodeError,
    L3RefusedError,
    L3TimeoutError,
    L3UnavailableError,
    MigrationError,
    StrataError,
)


class Failure(enum.Enum):
    """What a failed statement asks of whoever sent it.

    OUTAGE: nobody is to blame, come back later. CONTENTION: send it again. TIMEOUT: send less at once. ORDER: what
    it needs may be one batch behind. PERMANENT: the record is wrong. NOT_READY: the table is not there yet.
    """

    OUTAGE = "outage"
    CONTENTION = "contention"
    TIMEOUT = "timeout"
    ORDER = "order"
    PERMANENT = "permanent"
    NOT_READY = "not_ready"
    UNKNOWN = "unknown"


PASSING = frozenset({Failure.OUTAGE, Failure.CONTENTION, Failure.TIMEOUT})
"""Failures that say nothing about the statement."""


class Meaning(NamedTuple):
    """What an SQLSTATE asks of whoever sent the statement, and the error of a synchronous call."""

    failure: Failure
    error: type[StrataError]


_AWAY = Meaning(Failure.OUTAGE, L3UnavailableError)
_AGAIN = Meaning(Failure.CONTENTION, L3RefusedError)
_LATE = Meaning(Failure.TIMEOUT, L3TimeoutError)
_VALUE = Meaning(Failure.PERMANENT, EncodeError)
_ROW = Meaning(Failure.PERMANENT, ConstraintError)
_ORDER = Meaning(Failure.ORDER, ConstraintError)
_RULE = Meaning(Failure.UNKNOWN, ConstraintError)  # a trigger, a view or a constraint of another kind
_MISSING = Meaning(Failure.NOT_READY, MigrationError)
_RIGHTS = Meaning(Failure.NOT_READY, L3RefusedError)
# Of a table that was changed while it was in use: another type, a computed column, no unique key, no table any more.
_MISFIT = Meaning(Failure.UNKNOWN, MigrationError)
_OTHER = Meaning(Failure.UNKNOWN, L3RefusedError)

# Every class of the PostgreSQL manual, appendix "PostgreSQL Error Codes".
CLASSES: Mapping[str, Meaning] = {
    "02": _OTHER,  # no data
    "03": _OTHER,  # SQL statement not yet complete
    "08": _AWAY,  # connection exception
    "09": _RULE,  # triggered action exception
    "0A": _OTHER,  # feature not supported
    "0B": _OTHER,  # invalid transaction initiation
    "0F": _OTHER,  # locator exception
    "0L": _RIGHTS,  # invalid grantor
    "0P": _RIGHTS,  # invalid role specification
    "0Z": _OTHER,  # diagnostics exception
    "10": _OTHER,  # XQuery error
    "20": _OTHER,  # case not found
    "21": _OTHER,  # cardinality violation
    "22": _VALUE,  # data exception
    "23": _RULE,  # integrity constraint violation
    "24": _OTHER,  # invalid cursor state
    "25": _OTHER,  # invalid transaction state
    "26": _OTHER,  # invalid SQL statement name
    "27": _RULE,  # triggered data change violation
    "28": _AWAY,  # invalid authorization specification: nobody is let in
    "2B": _OTHER,  # dependent privilege descriptors still exist
    "2D": _OTHER,  # invalid transaction termination
    "2F": _OTHER,  # SQL routine exception
    "34": _OTHER,  # invalid cursor name
    "38": _OTHER,  # external routine exception
    "39": _OTHER,  # external routine invocation exception
    "3B": _OTHER,  # savepoint exception
    "3D": _AWAY,  # invalid catalog name: there is no such database
    "3F": _MISSING,  # invalid schema name
    "40": _OTHER,  # transaction rollback
    "42": _OTHER,  # syntax error or access rule violation
    "44": _RULE,  # WITH CHECK OPTION violation
    "53": _AWAY,  # insufficient resources
    "54": _OTHER,  # program limit exceeded
    "55": _OTHER,  # object not in prerequisite state
    "57": _AWAY,  # operator intervention
    "58": _OTHER,  # system error, external to PostgreSQL: most are about one file
    "72": _AGAIN,  # snapshot failure
    "F0": _OTHER,  # configuration file error
    "HV": _OTHER,  # foreign data wrapper error
    "P0": _RULE,  # PL/pgSQL error: RAISE in a trigger
    "XX": _OTHER,  # internal error: a damaged index, a mistake in an extension
}
STATES: Mapping[str, Meaning] = {
    "": _AWAY,  # no answer of the server's
    "23001": _ORDER,  # restrict_violation
    "23502": _ROW,  # not_null_violation
    "23503": _ORDER,  # foreign_key_violation
    "23505": _ORDER,  # unique_violation
    "23514": _ROW,  # check_violation
    "23P01": _ORDER,  # exclusion_violation
    "25006": _AWAY,  # read_only_sql_transaction: a standby
    "25P03": _AWAY,  # idle_in_transaction_session_timeout
    "25P04": _LATE,  # transaction_timeout
    "40001": _AGAIN,  # serialization_failure
    "40002": _RULE,  # transaction_integrity_constraint_violation
    "40P01": _AGAIN,  # deadlock_detected
    "42501": _RIGHTS,  # insufficient_privilege
    "42703": _MISSING,  # undefined_column
    "42804": _MISFIT,  # datatype_mismatch
    "42809": _MISFIT,  # wrong_object_type
    "42846": _MISFIT,  # cannot_coerce
    "42883": _MISFIT,  # undefined_function
    "428C9": _MISFIT,  # generated_always
    "42P01": _MISSING,  # undefined_table
    "42P10": _MISFIT,  # invalid_column_reference
    "53400": _OTHER,  # configuration_limit_exceeded: temporary files, of a statement of its own
    "55P03": _LATE,  # lock_not_available
    "57014": _LATE,  # query_canceled
    "HV00N": _AWAY,  # fdw_unable_to_establish_connection
}


def classify(sqlstate: str) -> Failure:
    """The class of an SQLSTATE; the empty one is that of an error which did not come from the server."""
    if not sqlstate:
        return Failure.OUTAGE
    return meaning(sqlstate).failure


def meaning(sqlstate: str) -> Meaning:
    """What an SQLSTATE means; a class that is not PostgreSQL's, as of a function's RAISE, is any other failure."""
    return STATES.get(sqlstate) or CLASSES.get(sqlstate[:2], _OTHER)
