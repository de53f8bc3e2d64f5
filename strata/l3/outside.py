"""The trigger that tells of changes made outside: what it is, and whether a table has it.

A change is Strata's own if it sets `_strata_version`, which every write of Strata does, or if the statement says so
(`own`): a deletion, an update that may move a row between partitions and so deletes it in one of them, and one that
changes no value, such as encrypting anew. Any other change, by psql or another program, gets a version as a
synchronous write would: so that what is cached under the old version is older, and replay, settling and the audit can
tell the two contents apart. It is PostgreSQL's time, above the row's version, with a node id that no process has.

Each changed key goes, with its version (negative: deleted), into a note that is kept in a setting of the transaction;
full notes are told at once, the last one at the end of the statement:
- by NOTIFY, to every listening instance, for its L1; beyond `MOST` notes of one transaction, one message says "all";
- as rows of `_strata_repairs`, from which the first instance to come sees to L2. NOTIFY only rings: rows outlive a
  listener that is away, a failover, and a Redis that is down. A key's row takes the place of its older one, and one for
  everything that of all others, as it also does when there are more than `REPAIRS_MOST` (or `strata.most_repairs`, a
  setting of the session, role or database). Rows that others hold are let be, since to wait for them could be a
  deadlock; and in a transaction of one snapshot so are all, since to lock a row that changed would be an error there;
- for schemas that are written behind, deletions leave tombstones, and TRUNCATE raises the horizon, so that what was
  written before does not come back; an UPDATE notes the columns that it changed (`strata.l3.partials`), so that a
  deferred write that is older still gives the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from strata.l3.connection import Connection
from strata.l3.ddl import short
from strata.l3.key import key_text_of
from strata.l3.layout import HORIZONS, PARTIALS, REPAIRS, TOMBSTONES, VERSION, Layout, quote
from strata.l3.partials import ON_TOP
from strata.model.keys import ModelKey
from strata.protocol.versions import L3_NODE, NODE_BITS, NODES

CHANNEL = "strata_outside"
PREFIX = "_strata_outside"
TRIGGERS = f"^~?{PREFIX}_"  # the names of all, as a regular expression
REPAIRS_MOST = 100_000  # rows of a table's schemas in `_strata_repairs`, about, while nobody sees to them
MOST = 100  # notes that one transaction tells one by one
FULL = 7_000  # bytes of a note; a notification can have 8000

_STAMP = f"""
SELECT GREATEST((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, (old >> {NODE_BITS}) + 1)
       << {NODE_BITS} | {L3_NODE}
"""
_TELL = f"""
DECLARE
  setting text := 'strata.outside_' || place;
  state text := coalesce(nullif(current_setting(setting, true), ''), '0|');
  told int := split_part(state, '|', 1)::int;
  most int := coalesce(substring(current_setting('strata.most_repairs', true) FROM '^[0-9]{{1,9}}$'), '{REPAIRS_MOST}');
  many boolean := false;
  moves boolean := current_setting('transaction_isolation') LIKE 'read%';
  note json := '{{' || substr(state, strpos(state, '|') + 1) || '}}';
  message text := json_build_object('table', target, 'keys', note);
  stamp bigint;
BEGIN
  IF note::text = '{{}}' AND NOT everything THEN RETURN; END IF;
  INSERT INTO {TOMBSTONES} AS t (schema, id, version)
    SELECT s, e.key, max(abs(e.value::bigint)) FROM unnest(deferred) s, json_each_text(note) e
    WHERE e.value LIKE '-%' GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (schema, id) DO UPDATE
    SET version = GREATEST(t.version, EXCLUDED.version), deleted_at = now();
  IF everything THEN
    INSERT INTO {HORIZONS} AS h (schema, version) SELECT s, _strata_stamp(0) FROM unnest(deferred) s
      ON CONFLICT (schema) DO UPDATE SET version = GREATEST(h.version, EXCLUDED.version);
  END IF;
  -- To count them takes longer the more there may be, and is done the more seldom.
  IF told < {MOST} AND random() * most < 200 THEN
    many := most < (SELECT count(*) FROM (SELECT FROM {REPAIRS} WHERE schema = ANY(cached) LIMIT most + 1) r);
  END IF;
  IF told >= {MOST} THEN
    NULL;  -- told of already: everything
  ELSIF everything OR many OR told + 1 = {MOST} OR octet_length(message) > 7900 THEN
    told := {MOST};
    PERFORM pg_notify('{CHANNEL}', json_build_object('table', target)::text);
    stamp := _strata_stamp(0);
    DELETE FROM {REPAIRS} r USING (
      SELECT o.ctid FROM {REPAIRS} o WHERE moves AND o.schema = ANY(cached) AND o.version < stamp
        AND o.version & {NODES - 1} = {L3_NODE} FOR UPDATE SKIP LOCKED) old WHERE r.ctid = old.ctid;
    INSERT INTO {REPAIRS} (schema, id, version) SELECT s, '', stamp FROM unnest(cached) s ON CONFLICT DO NOTHING;
  ELSE
    told := told + 1;
    PERFORM pg_notify('{CHANNEL}', message);
    DELETE FROM {REPAIRS} r USING (
      SELECT o.ctid FROM unnest(cached) s, json_each_text(note) e, {REPAIRS} o
      WHERE moves AND o.schema = s AND o.id = e.key AND o.version < abs(e.value::bigint)
      FOR UPDATE OF o SKIP LOCKED) old WHERE r.ctid = old.ctid;
    INSERT INTO {REPAIRS} (schema, id, version)
      SELECT s, e.key, abs(e.value::bigint) FROM unnest(cached) s, json_each_text(note) e
      ON CONFLICT DO NOTHING;
  END IF;
  PERFORM set_config(setting, told || '|', true);
END
"""
_CHANGED = """
DECLARE
  state text := coalesce(nullif(current_setting('strata.outside_{place}', true), ''), '0|');
  entry text;
BEGIN
  IF TG_LEVEL = 'STATEMENT' THEN
    IF TG_OP = 'TRUNCATE' OR right(state, 1) <> '|' THEN
      PERFORM _strata_tell('{place}', '{table}', {cached}, {deferred}, TG_OP = 'TRUNCATE');
    END IF;
    RETURN NULL;
  END IF;
  IF TG_OP = 'UPDATE' THEN
    NEW.{version} := _strata_stamp(OLD.{version});{noted}
  END IF;
  IF TG_OP <> 'DELETE' THEN
    entry := to_json({new}) || ':' || NEW.{version};
  END IF;
  IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND {moved} THEN
    entry := concat_ws(',', entry, to_json({old}) || ':-' || _strata_stamp(OLD.{version}));
  END IF;
  IF entry <> '' THEN  -- a key that is NULL, or a part of which is, is none
    IF octet_length(state) + octet_length(entry) > {full} AND right(state, 1) <> '|' THEN
      PERFORM _strata_tell('{place}', '{table}', {cached}, {deferred}, false);
      state := current_setting('strata.outside_{place}', true);
    END IF;
    state := concat(state, CASE WHEN right(state, 1) <> '|' THEN ',' END, entry);
    PERFORM set_config('strata.outside_{place}', state, true);{at_once}
  END IF;
  RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
"""

# As JSON, not JSONB, which has no \\u0000: a column that no model knows must not make its owner's statement fail.
_NOTED = """
    IF NOT ({moved}) AND {new} IS NOT NULL THEN
      INSERT INTO {partials} AS p (schema, id, version, base, columns, changed)
        SELECT s, {new}, NEW.{version}, OLD.{version}, '{{}}', coalesce(c.changed, '{{}}') FROM unnest({deferred}) s,
          (SELECT jsonb_object_agg(n.key, NEW.{version}) AS changed
           FROM json_each(to_json(NEW)) n JOIN json_each(to_json(OLD)) o USING (key)
           WHERE n.value::text <> o.value::text AND n.key <> '{version}') c
        {on_top};
    END IF;"""

# A partition that was made after the triggers has those for each row, but none for a statement that names it.
_AT_ONCE = """
    IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = TG_RELID AND g.tgname = '{statement}') THEN
      PERFORM _strata_tell('{place}', '{table}', {cached}, {deferred}, false);
    END IF;"""

# What a statement of Strata's sets off, such as a foreign key's CASCADE, is not its own.
_FOREIGN = "(current_setting('strata.own', true) IS DISTINCT FROM '{table}' OR pg_trigger_depth() > 0)"
# Name: when, and for which rows. AFTER INSERT, since a trigger before it would slow down COPY. Those before a change
# come last by their names (`~` is above all letters): they see what the owner's have made of it, if anything.
_ROW = {
    f"{PREFIX}_insert": f"AFTER INSERT {{on}} FOR EACH ROW WHEN (NEW.{VERSION} & {NODES - 1} = {L3_NODE})",
    f"~{PREFIX}_update": f"BEFORE UPDATE {{on}} FOR EACH ROW WHEN (NEW.{VERSION} = OLD.{VERSION} AND {_FOREIGN})",
    f"~{PREFIX}_delete": f"BEFORE DELETE {{on}} FOR EACH ROW WHEN ({_FOREIGN})",
}
_STATEMENT = {
    f"{PREFIX}_statement": "AFTER INSERT OR UPDATE OR DELETE {on} FOR EACH STATEMENT",
    f"{PREFIX}_truncate": "AFTER TRUNCATE {on} FOR EACH STATEMENT",
}

_SOURCE = "SELECT p.prosrc FROM pg_proc p WHERE p.oid = to_regprocedure($1)"
_DIVIDED = "SELECT 'p' FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'p'"
_MADE = """
SELECT g.tgname::text, p.proname::text FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
WHERE g.tgrelid = to_regclass($1) AND g.tgname::text ~ $2
"""
_PARTS_WITHOUT = """
SELECT EXISTS (SELECT FROM pg_partition_tree(to_regclass($1)) WHERE level > 0 AND (
  SELECT count(*) FROM pg_trigger WHERE tgrelid = relid AND tgname::text = ANY($2)) < 2)
"""
_DEFAULT = """
SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE d.adrelid = to_regclass($1) AND a.attname = $2
"""
_WATCHED = """
SELECT DISTINCT c.relname::text, p.proname::text FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgname = $1 AND NOT c.relispartition AND n.nspname = ANY(current_schemas(false))
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """A table whose changes are to be told: the schemas over it that have an L2, and those that are written behind, by
    their marks. `divided`: one of them has it in partitions."""

    table: str
    key: ModelKey
    cached: tuple[str, ...]
    deferred: tuple[str, ...]
    divided: bool = False


def own(table: str) -> str:
    """The condition, always true, by which a statement says that it is Strata's own; for its transaction only."""
    return f" AND set_config('strata.own', '{table}', true) IS NOT NULL"


def moving(layout: Layout) -> str:
    """As `own`, for an UPDATE, where it may move rows between partitions."""
    return own(layout.name) if layout.monthly else ""


def additions(conn: Connection, watched: Watched) -> list[str]:
    """The statements that make a table tell of changes, as far as it does not yet; it may be one to be made."""
    table, function = quote(watched.table), quote(short(f"{PREFIX}_{watched.table}"))
    spaces = _spaces(conn)
    path = _search_path(spaces)
    names, deferred = [quote(name) for name in watched.key.names], _array(watched.deferred)
    old, new = (key_text_of(watched.key, alias, names) for alias in ("OLD", "NEW"))
    changes = [f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in names]
    moved = changes[0] if len(names) == 1 else f"({' OR '.join(changes)})"
    noted = _NOTED.format(moved=moved, new=new, version=VERSION, deferred=deferred, partials=PARTIALS, on_top=ON_TOP)
    # Of the transaction, which may change tables of this name in other schemas. No names of tables: PostgreSQL makes no
    # difference between capitals and small letters in those of settings.
    divided = watched.divided or _one(conn, _DIVIDED, table)
    place = sha256(f"{spaces[0] if spaces else None}.{watched.table}".encode()).hexdigest()[:16]
    words = {"place": place, "table": watched.table, "cached": _array(watched.cached), "deferred": deferred}
    at_once = _AT_ONCE.format(statement=f"{PREFIX}_statement", **words) if divided else ""
    changed = _CHANGED.format(
        old=old,
        new=new,
        moved=moved,
        noted=noted if watched.deferred else "",
        version=VERSION,
        full=FULL,
        at_once=at_once,
        **words,
    )
    tell = "(place text, target text, cached text[], deferred text[], everything boolean) RETURNS void LANGUAGE plpgsql"
    wanted = [
        ("_strata_stamp(bigint)", "(old bigint) RETURNS bigint LANGUAGE sql VOLATILE", _STAMP),
        ("_strata_tell(text,text,text[],text[],boolean)", f"{tell} SECURITY DEFINER {path}", _TELL),
        (f"{function}()", f"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {path}", changed),
    ]
    statements = []
    for signature, head, body in wanted:
        if _one(conn, _SOURCE, signature) != body:
            name = signature.partition("(")[0]
            statements.append(f"CREATE OR REPLACE FUNCTION {name}{head} AS $strata${body}$strata$")
            if name == "_strata_tell":
                statements.append(f"REVOKE EXECUTE ON FUNCTION {signature} FROM PUBLIC")
    if "_strata_stamp(" not in (_one(conn, _DEFAULT, table, VERSION) or ""):
        statements.append(f"ALTER TABLE {table} ALTER COLUMN {VERSION} SET DEFAULT _strata_stamp(0)")
    # A table that was renamed has triggers that call the function of its name before.
    made = dict(conn.execute(_MADE, (table, TRIGGERS)).fetchall())
    for name, when in (_ROW | _STATEMENT).items():
        if made.get(name) != short(f"{PREFIX}_{watched.table}"):
            when = when.format(on=f"ON {table}", table=watched.table)
            statements.append(f"CREATE OR REPLACE TRIGGER {quote(name)} {when} EXECUTE FUNCTION {function}()")
    return statements


def has_triggers(conn: Connection, table: str) -> bool:
    """Whether a table tells of changes in some way."""
    return bool(conn.execute(_MADE, (quote(table), TRIGGERS)).fetchall())


def partitions(conn: Connection, watched: Watched, *, new: bool) -> list[str]:
    """The statement that gives partitions, of which a statement may name one, what only the whole table has."""
    table, function = quote(watched.table), quote(short(f"{PREFIX}_{watched.table}"))
    if not new and not _one(conn, _PARTS_WITHOUT, table, list(_STATEMENT)):
        return []
    made = "".join(
        f"EXECUTE format('CREATE OR REPLACE TRIGGER {name} {when.format(on='ON %s')}"
        f" EXECUTE FUNCTION {function}()', part); "
        for name, when in _STATEMENT.items()
    )
    each = f"SELECT relid FROM pg_partition_tree('{table}') WHERE level > 0"
    return [f"DO $strata$ DECLARE part regclass; BEGIN FOR part IN {each} LOOP {made}END LOOP; END $strata$"]


def leftovers(conn: Connection, unwatched: Collection[str]) -> list[tuple[str, str]]:
    """Those of the tables that tell of changes, and the SQL that ends it."""
    found = conn.execute(_WATCHED, (f"{PREFIX}_statement",)).fetchall()
    ending = f"ALTER COLUMN {VERSION} SET DEFAULT 0"
    return [
        (table, f"DROP FUNCTION {quote(function)}() CASCADE; ALTER TABLE {quote(table)} {ending};")
        for table, function in found
        if table in unwatched
    ]


def _spaces(conn: Connection) -> list[str]:
    """PostgreSQL's schemas of the search path, as far as they are there, the current one first."""
    row = conn.execute("SELECT current_schemas(false)::text[]").fetchone()
    return list(row[0]) if row else []


def _search_path(spaces: Sequence[str]) -> str:
    """Fixed, since the functions run with their maker's rights; objects of the session come last."""
    names = ", ".join(map(quote, spaces))
    return f"SET search_path = {names}, pg_temp" if names else "SET search_path = pg_temp"


def _array(names: Sequence[str]) -> str:
    return "ARRAY[" + ", ".join(f"'{name}'" for name in names) + "]::text[]"


def _one(conn: Connection, sql: str, *args: object) -> str | None:
    row = conn.execute(sql.encode(), args).fetchone()
    return None if row is None else row[0]
