"""Encryption at rest, on real servers: changing the key, and what a wrong, missing or moved one does."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
from click.testing import CliRunner

import strata
from strata import ConstraintError, EncryptionKeys, KeyRotation, Q, Undecrypted
from strata.cli.main import main
from strata.maintenance import rotate_keys as rotate
from tests.models import Account
from tests.stores import MakeStore, schema

K1, K2 = b"1" * 32, b"2" * 32
BOTH = EncryptionKeys(current="k2", keys={"k1": K1, "k2": K2})
MODES = [strata.WriteMode.WRITE_THROUGH, strata.WriteMode.WRITE_BEHIND]


@dataclass
class Page:
    """Its key has the name that PostgreSQL gives to a column without one."""

    text: Annotated[str, strata.PrimaryKey]
    token: Annotated[str, strata.Encrypted] = ""


def shop(make: MakeStore, keys: Any, **options: Any) -> strata.DataStore:
    store = make(encryption_key=keys)
    store.register(schema(Account, name="accounts", **options))
    return store


def fill(make: MakeStore, count: int) -> None:
    """Accounts under the old key, one without a token among them."""
    store = shop(make, K1)
    store.migrate()
    rows = {f"a{n:04}": Account(f"a{n:04}", "Ann", token=f"token {n}") for n in range(1, count)}
    store.set_many(Account, rows | {"a0000": Account("a0000", "Ann")})


def column(dsn: str, what: str) -> list[Any]:
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute(f"SELECT {what} FROM accounts ORDER BY id").fetchall()]


def execute(dsn: str, sql: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(sql)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_every_row_comes_under_the_current_key_and_keeps_value_and_version(
    make: MakeStore, dsn: str, mode: strata.WriteMode
) -> None:
    count = 2 * rotate.CHUNK + 7
    fill(make, count)
    versions = column(dsn, "_strata_version")
    store = shop(make, BOTH, write_mode=mode)
    told: list[tuple[str, int]] = []
    assert store.rotate_keys(progress=lambda *at: told.append(at)) == [KeyRotation("accounts", count - 1)]
    assert told == [("accounts", rotate.CHUNK), ("accounts", 2 * rotate.CHUNK), ("accounts", count)]
    assert column(dsn, "_strata_version") == versions
    assert {text and text[:6] for text in column(dsn, "token")} == {None, "s1:k2:"}
    assert store.rotate_keys("accounts") == [KeyRotation("accounts", 0)]
    without_the_old = shop(make, EncryptionKeys(current="k2", keys={"k2": K2}))
    assert without_the_old.get(Account, "a0005", force_l3=True).token == "token 5"
    assert without_the_old.get(Account, "a0000", force_l3=True).token is None


def test_what_is_cached_stays_and_is_right(make: MakeStore) -> None:
    fill(make, 3)
    store = shop(make, BOTH)
    store.get(Account, "a0001")
    store.rotate_keys()
    before = store.stats().l3_hits
    assert store.get(Account, "a0001").token == "token 1"
    assert store.stats().l3_hits == before


def test_a_run_that_was_stopped_goes_on_with_what_is_left(make: MakeStore, dsn: str) -> None:
    fill(make, 2 * rotate.CHUNK + 7)
    store = shop(make, BOTH)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.rotate_keys(progress=stop)
    under_new = sum(bool(text) and text.startswith("s1:k2:") for text in column(dsn, "token"))
    assert under_new == rotate.CHUNK - 1  # all but the first one, which has no token
    assert store.rotate_keys() == [KeyRotation("accounts", rotate.CHUNK + 7)]


def test_a_row_written_meanwhile_is_not_overwritten(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(make, 4)
    store = shop(make, BOTH)
    replace = rotate.Rotator._replace

    def slowly(self: Any, bound: Any, rows: Any) -> int:
        # Between the look and the replacement: one row is written, one is deleted, of one another column is written.
        store.set(Account, "a0001", Account("a0001", "Ann", token="newer"))
        store.delete(Account, "a0002")
        partial = store.search(Account, Q().where("id = $1", "a0003").fields("id"))[0]
        partial.name = "Eve"
        store.set(Account, "a0003", partial)
        return replace(self, bound, rows)

    monkeypatch.setattr(rotate.Rotator, "_replace", slowly)
    assert store.rotate_keys() == [KeyRotation("accounts", 1)]
    assert store.get(Account, "a0001", force_l3=True).token == "newer"
    assert not store.exists(Account, "a0002")
    third = store.get(Account, "a0003", force_l3=True)
    assert (third.name, third.token) == ("Eve", "token 3")


def test_a_row_that_a_trigger_keeps_under_its_old_key_is_told_of(make: MakeStore, dsn: str) -> None:
    fill(make, 3)
    execute(dsn, "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER nothing BEFORE UPDATE ON accounts FOR EACH ROW WHEN (OLD.id = 'a0001')"
        " EXECUTE FUNCTION nothing()")  # fmt: skip
    with pytest.raises(ConstraintError, match=r"trigger or rule.*under its old key"):
        shop(make, BOTH).rotate_keys()


def test_what_no_key_opens_is_left_and_told_without_a_value(make: MakeStore, dsn: str) -> None:
    fill(make, 6)
    execute(dsn, "UPDATE accounts SET token = (SELECT token FROM accounts WHERE id = 'a0001') WHERE id = 'a0002'")
    execute(dsn, "UPDATE accounts SET token = replace(token, 's1:k1:', 's1:k0:') WHERE id = 'a0003'")
    execute(dsn, "UPDATE accounts SET token = 'plain text' WHERE id = 'a0004'")
    left = (Undecrypted("token", None, 1), Undecrypted("token", "k0", 1), Undecrypted("token", "k1", 1))
    assert shop(make, BOTH).rotate_keys() == [KeyRotation("accounts", 2, left)]
    assert column(dsn, "token")[4] == "plain text"


def test_without_a_key_nothing_can_be_rotated(make: MakeStore) -> None:
    with pytest.raises(strata.InvalidConfigError, match="encryption_key"):
        shop(make, None).rotate_keys()


def test_the_command_shows_what_it_did(
    make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(make, 6)
    execute(dsn, "UPDATE accounts SET token = 'plain text' WHERE id = 'a0004'")
    (tmp_path / "rotate_shop.py").write_text(
        "from strata import *\nfrom tests.models import Account\n"
        "keys = EncryptionKeys(current='k2', keys={'k1': b'1' * 32, 'k2': b'2' * 32})\n"
        "store = DataStore(Config.from_env(encryption_key=keys))\n"
        "store.register(Schema(Account, name='accounts', l3=PostgresPolicy()))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, value in {"APP": "rotate_shop:store", "POSTGRES_DSN": dsn, "REDIS_ADDR": redis_addr}.items():
        monkeypatch.setenv(f"STRATA_{name}", value)

    def run(*words: str) -> Any:
        sys.modules.pop("rotate_shop", None)
        return CliRunner().invoke(main, ["keys", "rotate", *words])

    result = run()
    assert result.exit_code == 1
    assert result.stdout == (
        "accounts: 4 rows encrypted anew\n  token: 1 rows could not be decrypted (no ciphertext)\n"
    )
    assert "looking at accounts" in result.stderr
    execute(dsn, "UPDATE accounts SET token = NULL WHERE id = 'a0004'")
    result = run("accounts", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [{"schema": "accounts", "rows": 0, "left": []}])
    sys.modules.pop("rotate_shop", None)


def test_a_ciphertext_of_another_table_cannot_be_read(make: MakeStore, dsn: str) -> None:
    fill(make, 2)
    execute(dsn, "CREATE TABLE others AS SELECT * FROM accounts")
    store = make(encryption_key=K1)
    store.register(schema(Account, name="others"))
    with pytest.raises(strata.DecodeError, match=r"others\.token"):
        store.get("others", "a0001", force_l3=True)


@pytest.mark.parametrize("fields", [["id", "token"], ["token"], []], ids=["with the key", "alone", "whole"])
def test_a_read_without_the_key_is_a_decode_error_that_names_the_column(make: MakeStore, fields: list[str]) -> None:
    fill(make, 2)
    store = shop(make, None)
    with pytest.raises(strata.DecodeError, match=r"Account\.token") as caught:
        store.search(Account, Q().where("id = $1", "a0001").fields(*fields))
    assert "encryption_key" in str(caught.value)


def test_a_read_under_another_key_names_column_and_key_id(make: MakeStore) -> None:
    fill(make, 2)
    with pytest.raises(strata.DecodeError, match=r"accounts\.token was encrypted with key 'k1'"):
        shop(make, EncryptionKeys(current="k2", keys={"k2": K2})).get(Account, "a0001", force_l3=True)


def test_a_key_of_any_name_comes_under_the_current_key(make: MakeStore) -> None:
    store = make(encryption_key=K1)
    store.register(schema(Page, name="pages"))
    store.migrate()
    store.set(Page, "a", Page("a", "token"))
    later = make(encryption_key=BOTH)
    later.register(schema(Page, name="pages"))
    assert later.rotate_keys() == [KeyRotation("pages", 1)]
