"""Scripts are sent with those shared functions that they use, and with no others."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from strata.l2.script import load

PACKAGES = ("strata.l2.scripts", "strata.jobs.scripts", "strata.writebehind.ledger.scripts")
SHARED = ("common", "ledger")
DEFINED = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
COMMENT = re.compile(r"--.*")

EVERY = [
    (package, file.name.removesuffix(".lua"))
    for package in PACKAGES
    for file in files(package).iterdir()
    if file.name.endswith(".lua") and file.name.removesuffix(".lua") not in SHARED
]
NAMES = {
    name
    for package, shared in ((PACKAGES[0], "common"), (PACKAGES[2], "ledger"))
    for name in DEFINED.findall(files(package).joinpath(f"{shared}.lua").read_text())
}


@pytest.mark.parametrize(("package", "name"), EVERY)
def test_a_script_has_what_it_uses_before_it_uses_it(package: str, name: str) -> None:
    text = COMMENT.sub("", load(package, name).text)
    for called in NAMES:
        use = re.search(rf"(?<![\w.'\"]){called}\(", re.sub(r"local function \w+\(", "local function ", text))
        assert use is None or called in DEFINED.findall(text) or f"function {called}(" in text, called


@pytest.mark.parametrize(("package", "name"), EVERY)
def test_a_script_has_no_shared_paragraph_that_it_does_not_use(package: str, name: str) -> None:
    own = files(package).joinpath(f"{name}.lua").read_text()
    text = load(package, name).text
    assert text.endswith(own)
    for paragraph in re.findall(r"\S(?:.|\n(?!\n\S))*", text.removesuffix(own)):
        _, _, later = text.partition(paragraph)
        assert any(re.search(rf"\b{defined}\b", later) for defined in DEFINED.findall(paragraph)), paragraph


def test_a_script_that_names_no_shared_functions_is_as_it_stands() -> None:
    assert load(PACKAGES[0], "read").text == files(PACKAGES[0]).joinpath("read.lua").read_text()
