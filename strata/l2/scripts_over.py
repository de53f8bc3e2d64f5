"""Scripts over the keys of one schema, many keys at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.l2.script import load
from strata.l2.steps import CHUNK, Asked, Steps, in_step

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

SCRIPTS = {name: load("strata.l2.scripts", name) for name in (
    "read", "aged", "fill", "refresh", "intent", "put", "abandon", "own", "swap", "touch", "invalidate", "settle",
    "purge",
)}  # fmt: skip


class ScriptsOver:
    """Runs them; `prefix` stands before every key's text. Immutable."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self._server = server
        self._prefix = prefix

    def spread(self, name: str, head: list[Any], items: Sequence[tuple[Any, ...]]) -> list[tuple[str, Any]]:
        """As `each`, of (key text, version, further arguments...), no key twice."""
        by_text = {key_text: (f"{version:019d}", *rest) for key_text, version, *rest in waits.in_turns(items)}
        return self.each(name, head, by_text)

    def each(self, name: str, head: list[Any], by_text: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any]]:
        """Run a script over keys, each with arguments of its own after the common ones; its answer for each."""
        if len(by_text) == 1:
            [(text, own)] = by_text.items()
            return [(text, self.one(name, text, [*head, *own]))]
        return in_step(self._server, [self.asking(name, head, by_text)])[0]

    def one(self, name: str, key_text: str, args: Sequence[Any]) -> Any:
        """As `each`, of one key: its answer."""
        answers = self._server.run(SCRIPTS[name], (self._prefix + key_text,), args)
        return answers[0] if answers.__class__ is list else answers

    def asking(self, name: str, head: list[Any], by_text: Mapping[str, Sequence[Any]]) -> Steps[list[tuple[str, Any]]]:
        """The steps of `each`."""
        chunks = list(self.chunks(list(by_text)))
        calls = (
            (
                [self._prefix + text for text in chunk],
                [*head, *itertools.chain.from_iterable(by_text[text] for text in chunk)],
            )
            for chunk in chunks
        )
        answered: list[tuple[str, Any]] = []
        for chunk, answers in zip(chunks, (yield Asked(SCRIPTS[name], calls, len(chunks))), strict=True):
            answered += zip(chunk, answers if isinstance(answers, list) else [answers] * len(chunk), strict=True)
        return answered

    def chunks(self, key_texts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Keys of one call each: one on a Cluster, where they must share a slot."""
        step = 1 if self._server.clustered else CHUNK
        for start in range(0, len(key_texts), step):
            yield key_texts[start : start + step]

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """One script with whole keys."""
        return self._server.run(SCRIPTS[name], keys, args)
