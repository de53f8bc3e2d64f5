"""Lua scripts as files: each names every key it touches in its header, and may include shared functions."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

_COMMON = "strata.l2.scripts"
_SHARED = re.compile(r"^--@(\w+)$", re.MULTILINE)
_APART = re.compile(r"\n\n(?=\S)")
_NAMED = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 by which Redis knows it."""

    name: str
    text: str
    sha: str


def load(package: str, name: str) -> Script:
    """The script `name`.lua of `package`, after what it uses of shared functions: of L2's where it says `--@common`, of
    those in another file of the package where it says that one's name.

    Raises `FileNotFoundError` where the package holds no such file.
    """
    own = _text(package, name)
    shared = [_text(_COMMON if of == "common" else package, of) for of in _SHARED.findall(own)]
    text = _used("\n\n".join(shared), own)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _text(package: str, name: str) -> str:
    return files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _used(shared: str, own: str) -> str:
    """The text, after those paragraphs of the other that define what it names, or what a later one of them does: each
    function that stands in a script is made anew each time that the script is run."""
    text = own
    for paragraph in reversed(_APART.split(shared)):
        if any(re.search(rf"\b{name}\b", text) for name in _NAMED.findall(paragraph)):
            text = f"{paragraph}\n\n{text}"
    return text
