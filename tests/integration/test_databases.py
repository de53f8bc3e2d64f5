"""What one test leaves in its database, no other one finds."""

from __future__ import annotations

import psycopg
import pytest

from tests import databases

_CATALOGUE = """
SELECT 'schema', nspname, nspowner::regrole::text, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
UNION ALL SELECT 'relation', relname, relowner::regrole::text, relacl::text FROM pg_class
UNION ALL SELECT 'function', proname, proowner::regrole::text, proacl::text FROM pg_proc
UNION ALL SELECT 'type', typname, typowner::regrole::text, typacl::text FROM pg_type
UNION ALL SELECT 'trigger', evtname, evtowner::regrole::text, NULL FROM pg_event_trigger
UNION ALL SELECT 'setting', setconfig::text, NULL, NULL FROM pg_db_role_setting
UNION ALL SELECT 'extension', extname, NULL, NULL FROM pg_extension
UNION ALL SELECT 'right', NULL, NULL, datacl::text FROM pg_database WHERE datname = current_database()
ORDER BY 1, 2, 3, 4
"""


def catalogue(dsn: str) -> list[tuple[str, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(_CATALOGUE).fetchall()


@pytest.mark.parametrize(
    "left",
    [
        "CREATE TABLE a (id bigint PRIMARY KEY, mood text); CREATE VIEW b AS SELECT * FROM a",
        "CREATE SCHEMA other; CREATE TYPE other.mood AS ENUM ('sad'); CREATE SEQUENCE other.numbers",
        (
            "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
            "CREATE EVENT TRIGGER t ON sql_drop EXECUTE FUNCTION f()"
        ),
        "REVOKE ALL ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO postgres",
        "DROP SCHEMA public",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET datestyle = german', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "SELECT lo_create(0)",
    ],
)
def test_a_database_that_is_used_again_is_as_a_new_one(left: str) -> None:
    with databases.fresh() as dsn:
        new = catalogue(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(left.encode())
    with databases.fresh() as again:
        assert again != dsn
        assert catalogue(again) == new


def test_whoever_was_connected_to_a_database_is_not_connected_to_the_next_one() -> None:
    with databases.fresh() as dsn:
        late = psycopg.connect(dsn, autocommit=True)
    with databases.fresh():
        for use in (lambda: late.execute("SELECT 1"), lambda: psycopg.connect(dsn)):
            with pytest.raises(psycopg.OperationalError):
                use()
