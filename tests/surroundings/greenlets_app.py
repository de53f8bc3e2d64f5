"""An application for a server of greenlets: `/write/KEY` writes in both modes, with the time-outs of a busy site."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import gevent

from strata import Config, DataStore, StrataError, WriteMode
from tests.models import Note
from tests.stores import schema

store = DataStore(Config.from_env())
plain = store.register(schema(Note, name="plain"))
behind = store.register(schema(Note, name="behind", write_mode=WriteMode.WRITE_BEHIND))
if os.environ.get("APPLICATION_USES_IT_EARLY"):
    store.migrate()
    plain.get(0, default=None)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    key = int(environ["PATH_INFO"].rsplit("/", 1)[1])
    if key % 5 == 0:  # a caller that does not wait: in the midst of a call, most likely
        try:
            with gevent.Timeout(0.001):
                plain.set(key, Note(key, "cut off"))
        except (gevent.Timeout, StrataError):
            pass
    plain.set(key, Note(key, "plain"))
    behind.set(key, Note(key, "behind"))
    assert plain.get(key, force_l2=True).text == "plain"
    assert behind.get(key).text == "behind"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"written"]
