"""Why a process did not start, from its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from strata.cli.fleet import READ_IT, last_words

TRACEBACK = """
Traceback (most recent call last):
  File "app.py", line 1, in <module>
ModuleNotFoundError: No module named 'shop'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
strata.errors.InvalidConfigError: the app is 'shop:store', but there is no module 'shop'
"""


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "it said nothing"),
        ("starting\nlistening\n\n", "listening"),
        (TRACEBACK, "strata.errors.InvalidConfigError: the app is 'shop:store', but there is no module 'shop'"),
        ("Usage: celery [OPTIONS]\nError: no such option\n", "Error: no such option"),
        ("OSError: address in use\nbye\n", "OSError: address in use"),
        (
            "[ERROR/MainProcess] consumer: Cannot connect to redis://127.0.0.1:1//: Error 111.\nTrying again in 2 s\n",
            f"Cannot connect to redis://127.0.0.1:1//: Error 111.; {READ_IT}",
        ),
    ],
)
def test_the_last_words_name_the_cause(tmp_path: Path, log: str, said: str) -> None:
    path = tmp_path / "worker.log"
    path.write_text(log)
    assert last_words(path) == said
