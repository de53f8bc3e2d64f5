"""What Flower saw of the workers, by its own metrics."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections import Counter

from strata.cli.demo.report import Line

PATIENCE = 10.0  # seconds for the last events to arrive
_DONE = re.compile(r"^flower_events_total\{(?P<labels>[^}]*)\} (?P<count>[0-9.e+]+)$", re.MULTILINE)


def prove_monitored(url: str, worker: str) -> Line:
    """Flower saw `strata.persist` succeed on this worker; the others are shown too."""
    deadline = time.monotonic() + PATIENCE
    while worker not in (done := _succeeded(url)) and time.monotonic() < deadline:
        time.sleep(0.2)
    said = ", ".join(f"{name} {count}" for name, count in sorted(done.items())) or "none"
    return Line("persist tasks done, as Flower saw them", said, worker in done)


def _succeeded(url: str) -> Counter[str]:
    """How many persist tasks succeeded, by worker."""
    done: Counter[str] = Counter()
    for match in _DONE.finditer(_metrics(url)):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
        if labels.get("type") == "task-succeeded" and labels.get("task") == "strata.persist":
            done[labels["worker"].partition("@")[0]] += int(float(match["count"]))
    return done


def _metrics(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""
