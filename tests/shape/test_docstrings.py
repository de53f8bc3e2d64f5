"""What an editor shows of a public name says what it is, what each field means, and what a call raises."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest

import strata
import strata.testing

EXPORTED: dict[str, Any] = {name: getattr(strata, name) for name in strata.__all__}
CLASSES = {name: item for name, item in EXPORTED.items() if isinstance(item, type)}
SETTINGS = [
    strata.Config, strata.L1PoolConfig, strata.L2PoolConfig, strata.L3PoolConfig, strata.Retention, strata.MemPolicy,
    strata.RedisPolicy, strata.PostgresPolicy,
]  # fmt: skip

QUIET = """
    DataStore.stats Collection.aio AsyncDataStore.config Tx.rollback
    Q.force_l2 Q.force_l3 Q.build Query.order Query.limit_rows Query.fingerprint
    Job.id Health.ok MigrationReport.blocking
    AuditReport.compared AuditReport.stale AuditReport.share AuditReport.nines SchemaAudit.share SchemaAudit.nines
    Codec.decode Logger.debug Logger.info Logger.warning Logger.error
    MetricsRecorder.count MetricsRecorder.observe MetricsRecorder.gauge
    Tracer.begin Tracer.link Tracer.end Tracer.call Tracer.current
    StandardLogger.debug StandardLogger.info StandardLogger.warning StandardLogger.error
    Config.keyspace JSON.bind_model MsgPack.bind_model
""".split()  # which raise nothing that has a name, but for mistakes such as a wrong number of arguments


def fields_of(kind: Any) -> list[str]:
    """The public fields of a dataclass or a NamedTuple."""
    if dataclasses.is_dataclass(kind):
        return [item.name for item in dataclasses.fields(kind) if not item.name.startswith("_")]
    return list(getattr(kind, "_fields", ()))


def texts_of(kind: Any) -> dict[str, str]:
    """What the section `Attributes:` of a class's docstring says of each field."""
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


WITH_FIELDS = [
    *(kind for kind in CLASSES.values() if fields_of(kind)), strata.testing.Count, strata.testing.Report,
]  # fmt: skip


def members() -> list[tuple[str, str]]:
    """The public methods and properties of every exported class, and their docstrings."""
    found = []
    for name, kind in CLASSES.items():
        for member, item in inspect.getmembers_static(kind):
            function = item.__func__ if isinstance(item, classmethod | staticmethod) else item
            shown: Any = function.fget if isinstance(function, property) else function
            code = inspect.unwrap(shown)  # a compiled method shows the plain one
            if not member.startswith("_") and inspect.isfunction(code) and code.__module__.startswith("strata"):
                found.append((f"{name}.{member}", inspect.getdoc(function) or ""))
    return found


@pytest.mark.parametrize("kind", WITH_FIELDS, ids=lambda kind: kind.__name__)
def test_every_field_has_a_text_of_its_own_in_the_order_of_the_fields(kind: Any) -> None:
    texts = texts_of(kind)
    assert list(texts) == fields_of(kind)
    assert [name for name, text in texts.items() if not re.fullmatch(r"[A-Z\"].{2,}\.", text)] == []


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_every_setting_has_its_unit_and_its_default(kind: Any) -> None:
    texts = texts_of(kind)
    assert [name for name, text in texts.items() if "Default: " not in text] == []
    for item in dataclasses.fields(kind):
        if "Seconds" in str(item.type):
            assert re.match(r"Seconds\b", texts[item.name]), item.name
        told = texts[item.name].partition("Default: ")[2].replace(",", "")
        if item.default not in (None, "", dataclasses.MISSING):
            assert str(getattr(item.default, "name", item.default)).removesuffix(".0") in told, item.name


def test_every_public_call_says_what_it_does_in_sentences_and_names_what_it_raises() -> None:
    found = members()
    assert len(found) > 80
    assert [name for name, text in found if not re.match(r"[`A-Z].*[.:;]", text, re.DOTALL)] == []
    texts = dict(found)
    # The asynchronous face refers to the other one.
    twins = {name: twin[1] for name, text in found if (twin := re.match(r"As `(\w+\.\w+)`", text))}
    texts |= {name: text + texts[twins[name]] for name, text in found if name in twins}
    assert [name for name, twin in twins.items() if twin.rpartition(".")[2] != name.rpartition(".")[2]] == []
    raised = {
        name: set(re.findall(r"`(\w+Error)`", text)) for name, text in texts.items() if twins.get(name) not in QUIET
    }
    assert {name: errors - set(strata.__all__) for name, errors in raised.items() if errors - set(strata.__all__)} == {}
    assert {name for name, errors in raised.items() if not errors} == set(QUIET)


def test_the_handle_s_calls_say_what_the_store_s_say() -> None:
    calls = [name for name, item in vars(strata.Collection).items() if callable(item) and name[0] != "_"]
    assert [name for name in calls if _text(strata.Collection, name) != _text(strata.DataStore, name)] == []


def _text(kind: Any, name: str) -> str:
    return inspect.getdoc(getattr(kind, name)) or ""
