"""Text of others in source: it stays a literal, or a comment, whatever is in it."""

from __future__ import annotations

import json


def quoted(text: str) -> str:
    """A literal."""
    return json.dumps(text, ensure_ascii=False)


def comment(text: str) -> str:
    """A comment of one line."""
    return f"# {' '.join(text.split())}"
