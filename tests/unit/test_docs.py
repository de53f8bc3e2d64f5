"""The documentation: its Python compiles, its names exist, its links lead somewhere, its tables are whole."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import click
import pytest

import strata
from strata.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ops" / "runbook.md", *sorted((ROOT / "docs").glob("*.md"))]
CONCEPTS = """
    getting-started models-and-types tiers-and-policies freshness write-modes write-behind celery coherence queries
    transactions migrations encryption warming observability performance configuration errors command-line
    testing-your-application from-go flask sqlalchemy
""".split()
ERRORS = [name for name in strata.__all__ if name.endswith("Error")]
# Every name of the Go library's README.
GO = """
    NewDataStore Config Close Register GetTyped Get Set SetMany Delete SearchTyped Search SearchCached Exists Count
    Q Where OrderBy Desc Limit Offset Fields ForceL3 ForceL2 Build Ptr Query Args Tx Commit Invalidate WarmCache
    FlushDirty Migrate MigrateFrom MigrationStatus FileName AppliedAt Stats Gets Sets Deletes Errors L1Entries
    DirtyCount Schema Name Model L1 L2 L3 WriteMode Indexes Hooks MemPolicy TTL MaxEntries Eviction EvictionPolicy
    EvictLRU EvictLFU EvictFIFO RedisPolicy KeyPrefix PostgresPolicy TableName ReadReplica PartitionBy Index Unique
    SchemaHooks BeforeSet AfterSet BeforeGet AfterGet OnEvict OnWriteError WriteThrough WriteThroughL1Async
    WriteBehind primary_key unique index nullable omit_cache omit_l1 default:X auto_now_add auto_now encrypted
    string int int32 int64 float32 float64 bool time.Time struct map slice PostgresDSN RedisAddr RedisPassword
    RedisDB redis.UniversalClient L1Pool L1PoolConfig L2Pool L2PoolConfig PoolSize DialTimeout ReadTimeout
    WriteTimeout L3Pool L3PoolConfig MaxConns MinConns MaxConnLifetime MaxConnIdleTime DefaultL1TTL DefaultL2TTL
    DefaultWriteMode WriteBehindFlushInterval WriteBehindFlushThreshold WriteBehindMaxRetry InvalidationChannel
    Codec codec.JSON codec.MsgPack Metrics MetricsRecorder Logger Info Warn Error Debug EncryptionKey AES256GCM
    ErrSchemaNotFound ErrSchemaDuplicate ErrNoPrimaryKey ErrInvalidModel ErrMissingPrimaryKey ErrNotFound
    ErrDecodeFailed ErrEncodeFailed ErrL1Unavailable ErrL2Unavailable ErrL3Unavailable ErrUnavailable ErrTxFailed
    ErrTxTimeout ErrInvalidConfig ErrHookPanic ErrWriteBehindMaxRetry context.Context
""".split()


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def heading(text: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_compiles(page: Path) -> None:
    for block in blocks(page):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_of_the_library_exists(page: Path) -> None:
    missing = []
    for node in (node for block in blocks(page) for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom) and node.module == "strata":
            missing += [alias.name for alias in node.names if not hasattr(strata, alias.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "strata":
            missing += [node.attr] if not hasattr(strata, node.attr) else []
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_of_the_library_takes_what_it_is_given(page: Path) -> None:
    """Keyword arguments of classes of the library, checked against their signatures."""
    wrong = []
    for node in (node for block in blocks(page) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        target = getattr(strata, name, None)
        if inspect.isclass(target) and target is not strata.Config:
            known = inspect.signature(target).parameters
            wrong += [f"{name}({key.arg}=)" for key in node.keywords if key.arg and key.arg not in known]
        elif target is strata.Config:
            fields = {item.name for item in dataclasses.fields(strata.Config)}
            wrong += [f"Config({key.arg}=)" for key in node.keywords if key.arg and key.arg not in fields]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`]*`", "", page.read_text())):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            anchors = {heading(line.lstrip("#")) for line in there.read_text().splitlines() if line.startswith("#")}
            assert anchor in anchors, target


def test_there_is_one_page_a_concept_and_the_index_names_it() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [name for name in CONCEPTS if not (ROOT / "docs" / f"{name}.md").exists()] == []
    assert [name for name in CONCEPTS if f"({name}.md)" not in index] == []


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md"])
def test_every_setting_is_in_the_table(page: str) -> None:
    text = (ROOT / page).read_text()
    assert [item.name for item in dataclasses.fields(strata.Config) if f"`{item.name}`" not in text] == []


def test_the_variables_shown_are_those_that_are_read() -> None:
    shown = set(re.findall(r"`STRATA_([A-Z0-9_]+)=", (ROOT / "docs" / "configuration.md").read_text()))
    assert shown <= {item.name.upper() for item in dataclasses.fields(strata.Config)}


def test_every_setting_of_the_pools_is_described() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    pools = (strata.L1PoolConfig, strata.L2PoolConfig, strata.L3PoolConfig)
    names = [item.name for pool in pools for item in dataclasses.fields(pool)]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", ["README.md", "docs/errors.md"])
def test_every_error_is_described(page: str) -> None:
    text = (ROOT / page).read_text()
    assert [name for name in ERRORS if name not in text] == []


def test_every_counter_is_described() -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    assert [item.name for item in dataclasses.fields(strata.Stats) if f"`{item.name}`" not in text] == []


@pytest.mark.parametrize("page", ["README.md", "docs/command-line.md"])
def test_every_command_is_described(page: str) -> None:
    text = (ROOT / page).read_text()
    assert [name for name in main.commands if f"strata {name}" not in text] == []


def test_every_option_of_every_command_is_described() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text()
    groups = [main, *(command for command in main.commands.values() if isinstance(command, click.Group))]
    commands = [command for group in groups for command in group.commands.values()]
    options = {option for command in commands for item in command.params for option in item.opts}
    assert sorted(option for option in options if option.startswith("--") and option not in text) == []


def test_no_name_of_the_go_library_is_forgotten() -> None:
    text = (ROOT / "docs" / "from-go.md").read_text()
    assert [name for name in GO if not re.search(rf"(?<![\w]){re.escape(name)}(?!\w)", text)] == []
