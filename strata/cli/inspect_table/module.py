"""The module: imports, enums, the record class, and its schema."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence

from strata.cli.inspect_table.enums import EnumSource, enums_of
from strata.cli.inspect_table.fields import FieldSource, key_field, left_out, plain_field
from strata.cli.inspect_table.imports import NAMES, imports
from strata.cli.inspect_table.names import Names, of_class
from strata.cli.inspect_table.text import comment, quoted
from strata.l3.catalog import IndexFacts
from strata.l3.layout import RESERVED
from strata.l3.survey import Survey

_REGISTERED = """\
store = DataStore(Config.from_env())  # or the one that you have
{variable} = store.register(
    Schema(
        {record},
        name="{table}",
        l1=MemPolicy(),
        l2=RedisPolicy(),
        l3=PostgresPolicy(table_name="{table}", managed=False, watch=True),{indexes}
    )
)
"""


def module(table: Survey) -> str:
    """The source of a module that registers the table with a store. Raises `InvalidModelError` for a key that no schema
    can have."""
    names = Names({*NAMES, *dir(builtins), "store"})
    record = names.take(of_class(table.name))
    enums = enums_of(table, names)
    body = _body(table, enums)
    fields = [item for item in body if isinstance(item, FieldSource)]
    parts = [
        imports(fields),
        *(enum.lines() for enum in enums.values()),
        [*_told(table), "@dataclasses.dataclass(kw_only=True)", f"class {record}:", *(f"    {item}" for item in body)],
        [_registered(table, record, names.take(table.name), _indexes(table, fields))],
    ]
    return "\n\n\n".join("\n".join(part) for part in parts)


def _body(table: Survey, enums: dict[str, EnumSource]) -> list[FieldSource | str]:
    """The fields, and comments in place of columns that are none: the key in its order, then the others in theirs."""
    columns = table.facts.columns
    body: list[FieldSource | str] = [key_field(table, columns[name]) for name in table.key.columns]
    for facts in columns.values():
        if facts.name not in table.key.columns and not facts.name.startswith(RESERVED):
            made = plain_field(table, facts, enums.get(facts.base))
            body += [made] if made else left_out(table, facts)
    return body


def _told(table: Survey) -> Iterator[str]:
    """What is to be known of the table as a whole."""
    yield comment(f"Table {table.name}. `strata migrate` tells, with the SQL, what Strata lacks in it: the column")
    yield comment("_strata_version, and the triggers of watch=True.")
    if not table.on_path:
        yield comment(f"It is in the schema {table.schema}, which is not on the search_path: have it there, as by")
        yield comment(f"options=-csearch_path%3D{table.schema} in the DSN.")
    if not table.key.primary:
        yield comment(f"It has no PRIMARY KEY: what {table.key.name} keeps unique is taken for its key.")
    if table.facts.kind == "p":
        yield comment("It is partitioned: its partitions are made, and dropped, by others.")


def _indexes(table: Survey, fields: Sequence[FieldSource]) -> list[str]:
    """Those of several columns."""
    known, found = {item.name for item in fields}, dict[tuple[str, ...], str]()
    for index in sorted(table.facts.indexes, key=lambda index: not index.unique):
        if index.plain and index.valid and known.issuperset(index.columns) and not _marked(index, table.key.columns):
            unique = ", unique=True" if index.unique else ""
            found.setdefault(index.columns, f"strata.Index([{', '.join(map(quoted, index.columns))}]{unique})")
    return list(found.values())


def _marked(index: IndexFacts, key: Sequence[str]) -> bool:
    """Whether markers of fields say it: it is the key's, or that of a column beside it."""
    return sorted(index.columns) == sorted(key) or (len(index.columns) == 1 and index.columns[0] not in key)


def _registered(table: Survey, record: str, variable: str, indexes: Sequence[str]) -> str:
    given = f"\n        indexes=[{', '.join(indexes)}]," if indexes else ""
    return _REGISTERED.format(variable=variable, record=record, table=table.name, indexes=given)
