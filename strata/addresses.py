"""Addresses of servers as they are shown: the one place that takes passwords out of them.

A password that was not percent-encoded may hold any character that an address is divided by, so that nobody can tell
where it ends. So nothing is taken out: only what cannot be part of a password, however the address is read, is shown.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

HIDDEN = "***"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOGGED_IN = {
    f"{scheme}://"
    for scheme in (
        "postgres postgresql redis rediss unix redis+cluster redis+sentinel redis+socket sentinel amqp amqps pyamqp"
    ).split()
}
_HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.%~-]+)"
_HOST_AND_PORT = re.compile(rf"{_HOST}:[0-9]+")
_HOSTS = re.compile(rf"(?:{_HOST}(?::[0-9]*)?(?:,{_HOST}(?::[0-9]*)?)*)?")
_PLACE = rf"{_HOSTS.pattern}(?:/[A-Za-z0-9_./%~+-]*)?"
_PLACES = re.compile(rf"{_PLACE}(?:;{SCHEME.pattern}{_PLACE})*")
# Of which nobody's value is a secret: those of libpq, then those of redis-py and kombu.
_NAMES = """
    host hostaddr port dbname user sslmode sslrootcert target_session_attrs load_balance_hosts connect_timeout
    application_name
    db virtual_host protocol ssl_cert_reqs ssl_ca_certs ssl_check_hostname socket_timeout health_check_interval
""".split()
_NAMED = re.compile(rf"(?:[?&\s]*(?:{'|'.join(_NAMES)})\s*=\s*(?:'[^'\\]*'|[A-Za-z0-9_./%:,+-]*)(?=[&\s]|$))*")
# What libpq says of an option that it does not know; which of them Celery knows, in the URLs that it takes apart.
UNKNOWN_TO_LIBPQ = re.compile(r'invalid (?:URI query parameter|connection option):? "([^"]*)"')
READ_BY_KOMBU = frozenset({"redis", "rediss", "sentinel", "amqp", "amqps", "pyamqp"})
PARAMETER_OF_A_BROKER = re.compile(r"ssl(_\w+)?|insist|connect_timeout|login_method|heartbeat")
_NAME = re.compile(r"[&\s]*([A-Za-z_]+)\s*=")
_SECRET = re.compile(r"[?&\s]*(?:ssl|sentinel_)?password\s*=", re.IGNORECASE)


def masked(address: str) -> str:
    """`address` without any part of a password: a URL, several with `;` between, `host:port`, or libpq's `name=value`.

    What could be part of one is left out: all between a login's first `:` and the last `@`, and all from the first
    parameter on that is not known to be harmless.

    >>> masked("postgresql://me:secret@localhost/app?sslmode=require&password=secret")
    'postgresql://me:***@localhost/app?sslmode=require&password=***'
    """
    scheme = SCHEME.match(address)
    if scheme is None:
        return address if is_place(address) else _shown(address)
    login, at, place = address[scheme.end() :].rpartition("@")
    if re.search(r"[/?#;\s]", login) or (at and scheme[0] not in _LOGGED_IN):
        return scheme[0] + HIDDEN  # a password with one of them in it, or a user: what stands where cannot be told
    user, colon, _ = login.partition(":")
    places = _PLACES.match(place)
    rest = place[places.end() :] if places else place
    if not places or rest[:1] not in ("", "?"):
        return scheme[0] + HIDDEN
    return f"{scheme[0]}{user}{colon and f':{HIDDEN}'}{at}{places[0]}{_shown(rest)}"


def legible(url: str) -> bool:
    """Whether a URL is read as it was meant: an @ stands only behind a login, and hosts are such. Else parts of a
    password, which was not percent-encoded, would be taken for host, port or path, and be shown as such."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    place = parts.netloc.rpartition("@")[2]
    return "@" not in parts.path + parts.query + parts.fragment and bool(parts.scheme and _HOSTS.fullmatch(place))


def stray(address: str) -> str:
    """The name of the first parameter that is not known to be harmless; empty where it could be part of a password."""
    if SCHEME.match(address):
        if not legible(address):
            return ""
        address = urlsplit(address).query
    known = _NAMED.match(address)
    found = _NAME.match(address, known.end() if known else 0)
    return found[1] if found else ""


def is_place(address: str) -> bool:
    """Whether it is `host:port`."""
    return _HOST_AND_PORT.fullmatch(address) is not None


def _shown(named: str) -> str:
    """The parameters up to the first that may be a secret."""
    known = _NAMED.match(named)
    shown = known[0] if known else ""
    rest = named[len(shown) :]
    if not rest.strip():
        return named
    secret = _SECRET.match(rest)
    return f"{shown}{secret[0] if secret else rest[0] if rest[0] in '?&' else ''}{HIDDEN}"
