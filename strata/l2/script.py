"""Lua scripts as files: each names every key it touches in its header, and may include shared functions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 by which Redis knows it."""

    name: str
    text: str
    sha: str


def load(package: str, name: str) -> Script:
    """The script `name`.lua of `package`, with the shared functions of L2 in front of it.

    Raises `FileNotFoundError` where the package holds no such file.
    """
    own = files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    shared = files("strata.l2.scripts").joinpath("common.lua").read_text(encoding="utf-8")
    text = f"{shared}\n{own}" if "--@common" in own else own
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
