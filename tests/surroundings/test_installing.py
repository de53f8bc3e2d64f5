"""`pip install` builds the compiled part where it can, and goes on without it where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.in_turn]

ROOT = Path(__file__).parents[2]
SEEN = "import strata; from strata import _compiled; print(strata.compiled, _compiled.lacking, strata.__file__)"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The sources as they are, and nothing that was built of them."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "strata", tree / "strata", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


def installed(tree: Path, env: Mapping[str, str]) -> str:
    """What an installation of the tree says of itself."""
    target = tree.parent / "installed"
    clean = {name: value for name, value in os.environ.items() if name != "STRATA_PURE"}
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-cache-dir", "--no-index"]
    made = subprocess.run(
        [*pip, "--target", str(target), str(tree)],
        env={**clean, **env},
        cwd=tree.parent,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    command = [sys.executable, "-c", SEEN]
    said = subprocess.run(
        command, env={**clean, "PYTHONPATH": str(target)}, cwd=tree.parent, capture_output=True, text=True, check=True
    )
    assert str(target) in said.stdout
    assert (target / "strata" / "_compiled" / "hits.pyx").exists()  # whose lines tracebacks show
    return said.stdout


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="it is not built for such a Python")
def test_with_a_compiler_it_is_compiled(tree: Path) -> None:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("there is no C compiler: the compiled part is not built")
    assert installed(tree, {}).startswith("True ")


@pytest.mark.parametrize("env", [{"CC": "/bin/false"}, {"STRATA_PURE": "1"}, {"PYTHONPATH": "without"}])
def test_without_one_or_without_cython_or_where_nobody_wants_it_it_is_plain_python(
    tree: Path, env: dict[str, str]
) -> None:
    if "PYTHONPATH" in env:  # a Cython that cannot be imported
        without = tree.parent / "without" / "Cython"
        without.mkdir(parents=True)
        (without / "__init__.py").write_text("raise ImportError\n")
        env = {"PYTHONPATH": str(without.parent)}
    assert installed(tree, env).startswith("False it was not built")
