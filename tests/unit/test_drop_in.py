"""What drop-in caches are made of, without a server: keys, signatures, values, places."""

from __future__ import annotations

import enum
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata import Config, DataStore, DecodeError, EncodeError, InvalidConfigError, MemPolicy, Schema
from strata.drop_in.entries import CacheEntry, Entries, key_of
from strata.drop_in.seal import Seal
from strata.drop_in.shared import entries_of, secrets_of, store_at
from strata.drop_in.values import JsonTypes, serializer_of
from tests.models import Note

TEXTS = st.text(st.characters(), max_size=2000)  # surrogates and NUL among them
store = DataStore(Config())  # which a test names


@given(TEXTS, TEXTS)
def test_any_text_has_a_key_of_its_own_which_a_schema_takes(one: str, other: str) -> None:
    entries = Entries(DataStore(Config()), "cache", [])
    entries.set(key_of(one), b"one", None)
    entries.set(key_of(other), b"other", None)
    assert entries.value(key_of(one)) == (b"other" if one == other else b"one")


def test_an_ordinary_key_stands_for_itself_and_can_be_found_in_redis() -> None:
    assert key_of(":1:article:7") == ":1:article:7"
    assert key_of("") != "" and key_of("~x") != "~x"
    assert key_of(7) == "7"


@given(TEXTS.map(key_of), st.binary(max_size=300))
def test_what_was_signed_comes_back_as_it_was(key: str, value: bytes) -> None:
    for secrets in ([], [b"secret"]):
        seal = Seal("cache", secrets)
        assert seal.decode(seal.encode(CacheEntry(key, value), CacheEntry), CacheEntry) == CacheEntry(key, value)


@given(st.binary(max_size=60), st.integers(0, 10**6), st.integers(1, 255))
def test_no_changed_byte_passes_the_signature(value: bytes, place: int, change: int) -> None:
    seal = Seal("cache", [b"secret"])
    data = bytearray(seal.encode(CacheEntry("key", value), CacheEntry))
    data[place % len(data)] ^= change
    with pytest.raises(DecodeError):
        seal.decode(bytes(data), CacheEntry)


def test_what_another_secret_or_cache_has_signed_is_refused_and_so_is_what_is_not_signed() -> None:
    seal, entry = Seal("cache", [b"secret"]), CacheEntry("key", b"value")
    for other in (Seal("cache", [b"other"]), Seal("other", [b"secret"]), Seal("cache", [])):
        with pytest.raises(DecodeError):
            seal.decode(other.encode(entry, CacheEntry), CacheEntry)
        with pytest.raises(DecodeError):
            other.decode(seal.encode(entry, CacheEntry), CacheEntry)


@pytest.mark.parametrize("data", [b"", b"H1", b"P1", b"P1x:", b"P19:key", b"P1-1:k", b"P13:\xff\xff\xff"])
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    with pytest.raises((DecodeError, ValueError)):
        Seal("cache", []).decode(data, CacheEntry)


def test_a_secret_may_change_while_what_the_old_one_has_signed_is_still_read() -> None:
    old, new = Seal("cache", [b"old"]), Seal("cache", [b"new", b"old"])
    assert new.decode(old.encode(CacheEntry("key", b"value"), CacheEntry), CacheEntry) == CacheEntry("key", b"value")
    with pytest.raises(DecodeError):
        old.decode(new.encode(CacheEntry("key", b"value"), CacheEntry), CacheEntry)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_without_a_secret_what_json_has_comes_back_as_it_was(value: Any) -> None:
    values = serializer_of([])
    back = values.loads(values.dumps(value))
    assert (back, repr(back)) == (value, repr(value))


@pytest.mark.parametrize("value", [(1,), {1: 2}, {"a": {3}}, b"bytes", object(), [1, [2, 3j]], Note(1)])
def test_without_a_secret_what_json_has_not_is_refused_and_the_error_says_what_to_do(value: Any) -> None:
    with pytest.raises(EncodeError, match="STRATA_SECRET_KEY"):
        JsonTypes.dumps(value)


def test_without_a_secret_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError, match="holds itself"):
        JsonTypes.dumps(value)


def test_with_a_secret_any_value_that_can_be_pickled_is_kept() -> None:
    values = serializer_of([b"secret"])
    assert values.loads(values.dumps({(1, 2): {b"x"}})) == {(1, 2): {b"x"}}
    with pytest.raises((pickle.PickleError, AttributeError)):
        values.dumps(lambda: 0)


@pytest.mark.parametrize("secret", ["", b"", 7, object()])
def test_what_is_no_secret_is_refused(secret: Any) -> None:
    with pytest.raises(InvalidConfigError, match="secret_key"):
        secrets_of(secret)


def test_a_secret_that_is_not_given_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRATA_SECRET_KEY", raising=False)
    assert secrets_of(None) == []
    monkeypatch.setenv("STRATA_SECRET_KEY", "of the environment")
    assert secrets_of(None) == [b"of the environment"]
    assert secrets_of("given") == [b"given"]


def test_a_process_has_one_store_for_each_place_and_its_options() -> None:
    one = store_at("127.0.0.1:1", {})
    assert store_at("127.0.0.1:1", {}) is one
    assert store_at("127.0.0.1:1", {"namespace": "other"}) is not one
    assert store_at("127.0.0.1:1", {}, 300).config.l1_pool.max_entries == 2  # of 256 shards
    one.close()
    assert store_at("127.0.0.1:1", {}) is not one


def test_a_cache_may_be_kept_in_a_store_that_there_is_by_its_name_or_itself() -> None:
    assert store_at("tests.unit.test_drop_in:store", {}) is store
    assert store_at(store, {}) is store
    assert store_at(store.aio, {}) is store


@pytest.mark.parametrize(
    ("place", "options", "said"),
    [
        (["a:1", "b:1"], {}, "one Redis"),
        (7, {}, "one Redis"),
        ("nonsense", {}, "redis_addr"),
        ("127.0.0.1:1", {"socket_timeout": 3}, "no option 'socket_timeout'"),
        ("127.0.0.1:1", {"namespace": "!"}, "namespace"),
        ("tests.unit.test_drop_in:nothing", {}, "no 'nothing'"),
        (store, {"namespace": "x"}, "namespace would be set"),
    ],
)
def test_what_is_no_place_or_no_option_is_refused(place: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        store_at(place, options)


def test_a_cache_that_names_no_redis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRATA_REDIS_ADDR", raising=False)
    with pytest.raises(InvalidConfigError, match="names no Redis"):
        store_at("", {})
    monkeypatch.setenv("STRATA_REDIS_ADDR", "127.0.0.1:1")
    assert store_at("", {}).config.redis_addr == "127.0.0.1:1"


def test_a_member_of_an_enum_is_the_same_key_in_each_call() -> None:
    class Colour(str, enum.Enum):  # noqa: UP042 whose text is not its value
        RED = "red"

    entries = Entries(DataStore(Config()), "cache", [])
    entries.set(key_of("red"), b"of the text", None)
    assert entries.hit("red") == b"of the text" and entries.hit(Colour.RED) is None


@pytest.mark.parametrize("most", [0, -1, "many", True])
def test_a_number_of_entries_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises(InvalidConfigError, match="max_entries"):
        store_at("127.0.0.1:1", {}, most)


def test_caches_of_one_prefix_share_their_entries_and_those_of_another_have_their_own() -> None:
    local = DataStore(Config())
    one, same, other = (entries_of(local, "cache", prefix, [b"secret"]) for prefix in ("a/b", "a/b", "a_b"))
    one.set("key", b"value", None)
    assert (same.value("key"), other.value("key")) == (b"value", None)
    other.set("key", b"other", None)
    same.clear()
    assert (one.value("key"), other.value("key")) == (None, b"other")


def test_two_caches_of_one_prefix_with_different_secrets_are_refused() -> None:
    local = DataStore(Config())
    entries_of(local, "cache", "", [b"secret"])
    with pytest.raises(InvalidConfigError, match="different secret keys"):
        entries_of(local, "cache", "", [b"other"])


def test_a_schema_that_has_the_name_of_a_cache_is_not_taken_for_it() -> None:
    local = DataStore(Config())
    local.register(Schema(Note, name="cache", l1=MemPolicy()))
    with pytest.raises(InvalidConfigError, match="'cache'"):
        entries_of(local, "cache", "", [])
