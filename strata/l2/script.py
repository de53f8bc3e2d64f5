"""Lua scripts as files: each names every key it touches in its header, and may include shared functions."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

_NAMED = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 by which Redis knows it."""

    name: str
    text: str
    sha: str


def load(package: str, name: str) -> Script:
    """The script `name`.lua of `package`, with those of L2's shared functions in front of it that it uses: each one
    that stands there is made anew each time that the script is run.

    Raises `FileNotFoundError` where the package holds no such file.
    """
    own = files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    shared = files("strata.l2.scripts").joinpath("common.lua").read_text(encoding="utf-8")
    text = _used(shared, own) + own if "--@common" in own else own
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _used(shared: str, own: str) -> str:
    """Those paragraphs that define what the script's own text, or a later one of them, names."""
    text = own
    for paragraph in reversed(shared.split("\n\n")):
        if any(re.search(rf"\b{name}\b", text) for name in _NAMED.findall(paragraph)):
            text = f"{paragraph}\n\n{text}"
    return text.removesuffix(own)
