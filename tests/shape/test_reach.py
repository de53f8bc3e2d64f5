"""How tests look behind a store: by one object, so that the parts can be redrawn without the tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
REACHING = re.compile(r"(?<!self)\._(wiring|process|schemas|bound|context)\b")
BUILDERS = {
    "tests/behind.py": "builds write-behind with a pace of the test's own, before the store does",
    "tests/unit/test_shared_state.py": "has many threads build the parts at the same time",
}


def test_a_test_looks_behind_a_store_by_inspect_and_not_at_its_private_parts() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path != Path(__file__) and REACHING.search(path.read_text())
    }
    assert found == set(BUILDERS)
