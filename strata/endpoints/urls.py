"""The pieces that all URLs of servers have, and what is said of those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from urllib.parse import SplitResult, urlsplit

from strata.addresses import legible, stray
from strata.errors import InvalidConfigError

ENCODED = "with the special characters of a password percent-encoded (@ is %40, / is %2F, ; is %3B)"
PORT = "a port is a number from 1 to 65535"
DATABASE = "a database of Redis is a number, as in redis://host:6379/0"


def unknown(what: str, name: str, address: str, known: Iterable[str]) -> InvalidConfigError:
    """The error of an option that is none, which is shown where it can be no part of a password."""
    if stray(address) != name:
        return InvalidConfigError(f"{what} has an option that is none, or a password that is not percent-encoded")
    near = get_close_matches(name, list(known), 1)
    right = f"is {near[0]} meant?" if near else "leave it out"
    return InvalidConfigError(f"{what} has an option {name!r}, which is none; {right}")


def split(addr: str, what: str, right: str) -> SplitResult:
    """The parts of a URL. Raises `InvalidConfigError`, which says what would be `right`."""
    if not legible(addr):
        raise InvalidConfigError(f"{what} has a host or a port that cannot be read; {right}, {ENCODED}; {PORT}")
    return urlsplit(addr)


def hosts_of(url: SplitResult) -> list[str]:
    """The hosts, with their ports."""
    return url.netloc.rpartition("@")[2].split(",")


def check_ports(what: str, hosts: list[str]) -> None:
    """Raise `InvalidConfigError` for a port that cannot be one."""
    if not all(is_port(port) for _, port in map(host_and_port, hosts) if port):
        raise InvalidConfigError(f"{what} has a port that cannot be one; {PORT}")


def host_and_port(host: str) -> tuple[str, str]:
    """Host and port, either empty where there is none."""
    before, colon, port = host.rpartition(":")
    return (before, port) if colon and not port.endswith("]") else (host, "")


def is_port(text: str) -> bool:
    """Whether it is the number of a port."""
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65_536


def is_database(path: str) -> bool:
    """Whether it is the number of a database of Redis, or empty."""
    number = path.strip("/")
    return not number or (number.isascii() and number.isdigit() and len(number) < 10)
