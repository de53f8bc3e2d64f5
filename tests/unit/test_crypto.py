"""Encrypted fields can be read only where they were written, with the key that wrote them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strata.crypto import TableCipher
from strata.encryption_keys import EncryptionKeys, keys_from, parse_base64_key
from strata.errors import DecodeError, InvalidConfigError
from strata.model import FieldCipher

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
TEXTS = ["", "a", "é 💥 \x7f", "x" * 100_000]


def cipher(current: str = "k1", table: str = "users", **keys: bytes) -> TableCipher:
    return TableCipher(EncryptionKeys(current, keys or {"k1": OLD}), table)


@pytest.mark.parametrize("text", TEXTS, ids=len)
def test_a_text_comes_back(text: str) -> None:
    sealed = cipher().encrypt("token", "5", text)
    assert sealed.startswith("s1:k1:")
    assert cipher().decrypt("token", "5", sealed) == text
    if len(text) > 1:
        assert text not in sealed


def test_a_table_cipher_is_a_field_cipher() -> None:
    it: FieldCipher = cipher()
    assert it.decrypt("token", "5", it.encrypt("token", "5", "x")) == "x"


def test_no_two_ciphertexts_are_alike() -> None:
    assert len({cipher().encrypt("token", "5", "x") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("table", "column", "key"),
    [
        ("users", "token", "6"),
        ("users", "note", "5"),
        ("other", "token", "5"),
        ("user", "stoken", "5"),
        ("users", "token5", ""),
        ("users", "toke", "n5"),
    ],
)
def test_a_ciphertext_moved_elsewhere_cannot_be_read(table: str, column: str, key: str) -> None:
    sealed = cipher().encrypt("token", "5", "secret")
    with pytest.raises(DecodeError, match=rf"{table}\.{column}") as caught:
        cipher(table=table).decrypt(column, key, sealed)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_changed_ciphertext_cannot_be_read() -> None:
    sealed = cipher().encrypt("token", "5", "secret")
    head, body = sealed[:6], base64.b64decode(sealed[6:])
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= 1
        with pytest.raises(DecodeError, match=r"users\.token"):
            cipher().decrypt("token", "5", head + base64.b64encode(changed).decode())


@pytest.mark.parametrize(
    "text", ["", "plain secret", "s1:k1:", "s1:k1:secret", "s2:k1:" + "A" * 40, "s1:k 1:" + "A" * 40]
)
def test_what_is_no_ciphertext_is_a_decode_error_that_does_not_show_it(text: str) -> None:
    with pytest.raises(DecodeError, match=r"users\.token") as caught:
        cipher().decrypt("token", "5", text)
    assert "secret" not in str(caught.value)


def test_keys_rotate() -> None:
    old = cipher("k1", k1=OLD).encrypt("token", "5", "x")
    both = cipher("k2", k1=OLD, k2=NEW)
    assert both.decrypt("token", "5", old) == "x"
    new = both.encrypt("token", "5", "x")
    assert new.startswith("s1:k2:")
    with pytest.raises(DecodeError, match="'k2'"):
        cipher("k1", k1=OLD).decrypt("token", "5", new)
    with pytest.raises(DecodeError, match=r"users\.token"):
        cipher("k1", k1=NEW).decrypt("token", "5", old)


def test_a_key_given_alone_is_the_key_k1() -> None:
    keys = keys_from(OLD)
    assert keys == EncryptionKeys("k1", {"k1": OLD})
    assert keys_from(keys) is keys
    assert keys_from(None) is None


def test_keys_do_not_show_and_do_not_change() -> None:
    given = {"k1": OLD}
    keys = EncryptionKeys("k1", given)
    given["k2"] = NEW
    assert "k2" not in keys.keys
    for secret in (repr(OLD), OLD.hex(), "\\x01"):
        assert secret not in repr(keys) + str(keys)
    with pytest.raises(TypeError):
        keys.keys["k1"] = NEW  # type: ignore[index]


@pytest.mark.parametrize(
    ("current", "keys"),
    [
        ("k2", {"k1": OLD}),
        ("k1", {}),
        ("k1", {"k1": OLD[:31]}),
        ("k1", {"k1": OLD + b"x"}),
        ("k1", {"k1": "x" * 32}),
        ("k1", {"k1": OLD, "k 2": NEW}),
        ("k1", {"k1": OLD, "": NEW}),
        ("k1", {"k1": OLD, "k:": NEW}),
        ("k1", [OLD]),
        ("k1", {"k1": OLD, 5: NEW}),
        ("k1", None),
    ],
)
def test_keys_that_cannot_work_are_refused(current: str, keys: Any) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        EncryptionKeys(current, keys)
    assert "\\x01" not in str(caught.value)


@pytest.mark.parametrize("value", [b"", OLD[:31], OLD * 2, "x" * 32, 5])
def test_a_key_is_exactly_32_bytes(value: Any) -> None:
    with pytest.raises(InvalidConfigError, match="32"):
        keys_from(value)


def test_a_key_of_the_environment_is_base64() -> None:
    assert parse_base64_key(f" {base64.b64encode(OLD).decode()}\n", "the key") == OLD
    for wrong in ("secret!", base64.b64encode(OLD[:16]).decode(), "", "é"):
        with pytest.raises(InvalidConfigError) as caught:
            parse_base64_key(wrong, "the key")
        assert not wrong or wrong not in str(caught.value)


def test_the_format_is_aes_256_gcm_with_the_nonce_in_front() -> None:
    sealed = base64.b64decode(cipher().encrypt("token", "5", "x").removeprefix("s1:k1:"))
    bound = b"".join(len(part).to_bytes(4, "big") + part for part in (b"s1", b"k1", b"users", b"token", b"5"))
    assert AESGCM(OLD).decrypt(sealed[:12], sealed[12:], bound) == b"x"
