"""Another process with the same store: reads one key all the time, and says when it saw each value.

Prints `<visits> <monotonic ns>` for every value that is new to it, until its input ends. The monotonic clock is one
for all processes of a machine.
"""

from __future__ import annotations

import sys
import threading
import time

from strata.cli.demo.app import places, store


def main(id: int) -> None:
    """Watch the place `id`."""
    ended = threading.Event()


    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    seen = -1
    while not ended.is_set():
        visits = places.get(id).visits
        if visits != seen:
            seen = visits
            print(visits, time.monotonic_ns(), flush=True)
        time.sleep(0.0002)
    store.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
