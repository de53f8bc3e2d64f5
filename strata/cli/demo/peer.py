"""Another process with the same store: reads one key all the time, and says when it saw each value.

Prints `<visits> <monotonic ns>` for every value that is new to it, until its input ends. The monotonic clock is one
for all processes of a machine.
"""

from __future__ import annotations

import sys
import threading
import time

from strata.cli.demo.app import places, store

PAUSE = 0.0002  # seconds between reads


def main(id: int) -> None:
    """Watch the place `id`."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    seen = -1
    while not ended.is_set():
        visits = places.get(id).visits
        if visits != seen:
            seen = visits
            print(visits, time.monotonic_ns(), flush=True)
        time.sleep(PAUSE)
    store.close()


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    main(int(sys.argv[1]))
