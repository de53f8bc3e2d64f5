"""A link that is slow but steady: what comes back gets through in small pieces, one after another."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PIECE = 50_000  # bytes


@contextmanager
def paced(addr: str, pause: float) -> Iterator[str]:
    """The address of a relay to `addr` that waits for `pause` seconds before each piece of an answer."""
    host, _, port = addr.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0))

    served: list[tuple[socket.socket, threading.Thread]] = []

    def accept() -> None:
        with contextlib.suppress(OSError), listener:
            while True:
                client, _ = listener.accept()
                thread = threading.Thread(target=_serve, args=(client, (host, int(port)), pause))
                thread.start()
                served.append((client, thread))

    accepts = threading.Thread(target=accept)
    accepts.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepts.join()
        for client, thread in served:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(client: socket.socket, target: tuple[str, int], pause: float) -> None:
    with client, socket.create_connection(target) as server:
        up = threading.Thread(target=_relay, args=(client, server, 0.0))
        up.start()
        _relay(server, client, pause)
        up.join()


def _relay(source: socket.socket, sink: socket.socket, pause: float) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE):
            if pause and len(data) > PIECE // 10:
                time.sleep(pause)
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
