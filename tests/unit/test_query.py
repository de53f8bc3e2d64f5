"""What `Q` and `Query` promise, without any server."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from strata.errors import QueryError
from strata.query import Order, Q, Query, as_query, check_columns


class Colour(enum.Enum):
    RED = "red"


class Rank(enum.IntEnum):
    HIGH = 10


def test_a_builder_collects_every_part_of_a_query() -> None:
    query = (
        Q().where("region = $1 AND level > $2", "eu", 10).order_by("score").desc().limit(25).offset(50)
        .fields("id", "score").force_l2().force_l3().build()
    )  # fmt: skip
    assert query == Query(
        where="region = $1 AND level > $2", args=("eu", 10), order_by="score", desc=True, limit=25, offset=50,
        fields=("id", "score"), force_l2=True, force_l3=True,
    )  # fmt: skip


def test_each_step_of_a_builder_leaves_the_one_before_as_it_was() -> None:
    start = Q().where("a = $1", 1)
    start.limit(5).order_by("a").desc()
    assert start.build() == Query(where="a = $1", args=(1,))
    ordered = start.order_by("b")
    ordered.desc().order_by("c")
    assert ordered.build() == Query(where="a = $1", args=(1,), order_by="b")


def test_a_query_is_frozen_and_hashable() -> None:
    query = Query(where="id = ANY($1)", args=(["a", "b"],))
    hash(query)
    with pytest.raises(dataclasses.FrozenInstanceError):
        query.limit = 3  # type: ignore[misc]


def test_a_second_order_by_sorts_what_the_first_leaves_equal() -> None:
    query = Q().order_by("score").desc().order_by("name").order_by("id").desc().build()
    assert query.order == (Order("score", True), Order("name"), Order("id", True))
    assert query == Query(order_by=["score", "name", "id"], desc=[True, False, True])  # type: ignore[arg-type]
    hash(query)


def test_desc_concerns_the_last_order_by_alone_and_may_be_said_twice() -> None:
    assert Q().order_by("a").order_by("b").desc().desc().build().order == (Order("a"), Order("b", True))


def test_one_column_has_one_form_however_it_was_given() -> None:
    assert Query(order_by=("a",), desc=(True,)) == Query(order_by="a", desc=True) == Q().order_by("a").desc().build()
    assert Query(order_by=(), desc=()) == Query()
    assert Query(order_by=("a", "b")) == Q().order_by("a").order_by("b").build()


@pytest.mark.parametrize(
    "parts",
    [
        {"desc": True},
        {"order_by": (), "desc": (True,)},
        {"order_by": ("a", "b"), "desc": True},
        {"order_by": ("a", "b"), "desc": (True,)},
        {"order_by": "a", "desc": ()},
        {"order_by": "a", "desc": 1},
        {"order_by": "a", "desc": "yes"},
        {"order_by": ("a", "a")},
        {"order_by": ("a", 1)},
        {"order_by": None},
        {"order_by": {"a", "b"}},
    ],
)
def test_an_order_that_says_not_what_it_means_is_refused(parts: Any) -> None:
    with pytest.raises(QueryError, match=r"order_by|desc"):
        Query(**parts)


def test_a_builder_refuses_desc_before_order_by_and_a_column_that_is_none() -> None:
    with pytest.raises(QueryError, match="name the column first"):
        Q().limit(5).desc()
    with pytest.raises(QueryError, match="twice"):
        Q().order_by("a").order_by("a")
    for column in ("", None, ["a", "b"]):
        with pytest.raises(QueryError, match="one column"):
            Q().order_by(column)  # type: ignore[arg-type]


def test_null_goes_where_postgresql_has_it_unless_it_is_placed() -> None:
    def led(query: Q) -> list[bool]:
        return [order.led_by_null for order in query.build().order]

    assert led(Q().order_by("a").order_by("b").desc()) == [False, True]
    assert led(Q().order_by("a").nulls_first().order_by("b").desc().nulls_last()) == [True, False]
    assert led(Q().order_by("a").nulls_last().desc()) == led(Q().order_by("a").desc().nulls_last()) == [False]
    assert led(Q().order_by("a").nulls_first().nulls_last().order_by("b")) == [False, False]


def test_a_query_made_by_hand_may_place_null() -> None:
    assert Query(order_by="a", nulls_first=True) == Q().order_by("a").nulls_first().build()
    assert Query(order_by=("a", "b"), nulls_first=(None, False)) == Q().order_by("a").order_by("b").nulls_last().build()
    assert Query(order_by=("a", "b"), nulls_first=(None, None)) == Query(order_by=("a", "b"))
    assert Query("a = 1", (), "a", True, 1, 2, ("a",), True, True).nulls_first is None  # by position, as ever


@pytest.mark.parametrize(
    "parts",
    [
        {"nulls_first": True},
        {"nulls_first": (True,)},
        {"order_by": "a", "nulls_first": 1},
        {"order_by": "a", "nulls_first": "first"},
        {"order_by": "a", "nulls_first": (True, False)},
        {"order_by": ("a", "b"), "nulls_first": True},
        {"order_by": ("a", "b"), "nulls_first": {True, False}},
    ],
)
def test_a_place_for_null_without_its_column_is_refused(parts: Any) -> None:
    with pytest.raises(QueryError, match=r"nulls_first"):
        Query(**parts)


def test_a_builder_places_null_after_an_order_by_only() -> None:
    for step in (Q().nulls_first, Q().limit(5).nulls_last):
        with pytest.raises(QueryError, match="name the column first"):
            step()


def test_a_place_for_null_that_is_the_usual_one_makes_no_other_key() -> None:
    assert Query(order_by="a", nulls_first=False).fingerprint() == Query(order_by="a").fingerprint()
    assert Query(order_by="a", nulls_first=True).fingerprint() != Query(order_by="a").fingerprint()


def test_a_second_where_is_refused() -> None:
    with pytest.raises(QueryError, match="twice"):
        Q().where("a = 1").where("b = 2")


def test_an_empty_where_is_refused() -> None:
    with pytest.raises(QueryError, match="empty"):
        Q().where("  ")


def test_limit_zero_means_a_hundred() -> None:
    assert Query().limit_rows == 100
    assert Query(limit=7).limit_rows == 7


@pytest.mark.parametrize("value", [-1, 1.5, "3", None, True, 1 << 63])
def test_a_limit_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(QueryError, match="limit"):
        Q().limit(value)
    with pytest.raises(QueryError, match="offset"):
        Q().offset(value)


@pytest.mark.parametrize(
    ("where", "args"),
    [
        ("a = $1", 1),
        ("a = $1 AND b = $1", 1),
        ("a = $2 AND b = $1", 2),
        ("a = '$1'", 0),
        ("a = 'it''s $1' AND b = $1", 1),
        ("a = E'it\\'s $2' AND b = $1", 1),
        ("a = e'\\\\' AND b = $1", 1),
        ("nature = 'x\\' AND b = $1", 1),  # no backslash escapes without the E
        ('"$1" = $1', 1),
        ('"a""$2" = $1', 1),
        ("a = $$ $1 ; $$ AND b = $1", 1),
        ("a = $tag$ $1 $$ ; $tag$ AND b = $1", 1),
        ("a = $1 -- and $2 ; '\n AND b = 2", 1),
        ("a = $1 /* $2 /* nested ' */ ; */ AND b = 2", 1),
        ("a$1 = 3", 0),  # an identifier
        ("größe$2 = $1", 1),
        ("a = $1::text", 1),
        ("a=$1AND", 1),
        ("(a = $1) OR (b = $2 AND (c = ')'))", 2),
        ("data ? 'key' AND name LIKE '%s'", 0),
        ("a = $\u00b7$ ' $1 $\u00b7$ AND b = $1", 1),  # any character beyond ASCII may be in a tag
        ("a = E'x'\n'it\\'s $1' AND b = $1", 1),  # a string goes on in the next line
        ("a = E'x' -- more\n  -- and more\n '\\'$1' AND b = $1", 1),
        ("a = 'x'\n'\\' AND b = $1", 1),
        ("a = E'x' AND b = '\\' AND c = $1", 1),  # on the same line it does not
        ("a = $$x$$$b$ ' $1 $b$ || $1", 1),  # a quote may begin where another ends
        ("a = $1$b$ ' $2 $b$", 1),
        ("a_e'\\' || $1", 1),  # the prefix of a string is no end of a name
        ("a = é$1 AND b = $1", 1),
        ("a = $10 " + " ".join(f"AND b = ${number}" for number in range(1, 10)), 10),
    ],
)
def test_placeholders_are_counted_outside_quotes_and_comments(where: str, args: int) -> None:
    Query(where=where, args=(0,) * args)
    for wrong in {args + 1, max(args - 1, 0)} - {args}:
        with pytest.raises(QueryError):
            Query(where=where, args=(0,) * wrong)


def test_a_gap_between_placeholders_is_refused() -> None:
    with pytest.raises(QueryError, match=r"not \$2"):
        Q().where("a = $1 AND b = $3", 1, 2, 3)


@pytest.mark.parametrize("where", ["a = $0", "a = $0 AND b = $1"])
def test_placeholders_start_at_one(where: str) -> None:
    with pytest.raises(QueryError, match=r"\$0"):
        Q().where(where, *range(where.count("$1")))


@pytest.mark.parametrize("where", ["a = 1; DROP TABLE x", "a = 1;", "a = ';' ; b", "a = 'x\\';--'"])
def test_several_statements_are_refused(where: str) -> None:
    with pytest.raises(QueryError, match="';'"):
        Q().where(where)


@pytest.mark.parametrize(
    "where", ["a = 'x", 'a = "x', "a = E'x\\'", "a = $$ x", "a = $t$ x $$", "a = 1 /* x", "a = 1 /* /* */", "a = 'b''"]
)
def test_what_is_never_closed_is_refused(where: str) -> None:
    with pytest.raises(QueryError, match="never closed"):
        Q().where(where)


@pytest.mark.parametrize(
    "where",
    [
        "true) OR (true",
        "(a = 1",
        "a = 1)",
        ") (",
        "a = E'x'\n'\\'' ) OR (b > 0 --'",
        "a = $\u00b7$ ' $\u00b7$) OR (b --'",
    ],
)
def test_parentheses_that_would_leave_the_condition_are_refused(where: str) -> None:
    with pytest.raises(QueryError, match="parentheses"):
        Q().where(where)


@pytest.mark.parametrize(("text", "why"), [("a\x00b", "NUL"), ("\ud800", "surrogate"), ("x\udcff", "surrogate")])
def test_text_that_postgresql_cannot_hold_is_refused_wherever_it_stands(text: str, why: str) -> None:
    with pytest.raises(QueryError, match=f"where.*{why}"):
        Q().where(f"a = '{text}'")
    for argument in (text, [text], {text}, ["good", [text]]):
        with pytest.raises(QueryError, match=rf"\$2.*{why}") as caught:
            Q().where("a = $1 AND b = $2", 1, argument)
        assert text not in str(caught.value)


@pytest.mark.parametrize("digits", [10, 5000])
def test_a_placeholder_beyond_all_numbers_is_refused(digits: int) -> None:
    with pytest.raises(QueryError, match="digits"):
        Q().where(f"a = ${'1' * digits}", 1)


def test_enums_count_by_their_value_and_collections_become_tuples() -> None:
    assert Q().where("a = $1 AND b = ANY($2)", Colour.RED, [Colour.RED, "x"]).build().args == ("red", ("red", "x"))
    assert Q().where("b = ANY($1)", {"y", "x"}).build().args == (("x", "y"),)
    assert Q().where("b = ANY($1)", [Rank.HIGH, None, [Rank.HIGH]]).build().args == ((10, None, (10,)),)
    assert [type(value) for value in Q().where("b = $1", Rank.HIGH).build().args] == [int]
    for given in (range(3), {0: "a", 1: "b", 2: "c"}.keys(), {"a": 0, "b": 1, "c": 2}.values()):
        assert Q().where("b = ANY($1)", given).build().args == ((0, 1, 2),)
    assert Q().where("b = $1 OR b = $2", bytearray(b"x"), memoryview(b"y")).build().args == (b"x", b"y")


@pytest.mark.parametrize("argument", [{"a": 1}, iter([1]), (n for n in range(3))])
def test_an_argument_that_is_neither_a_value_nor_a_list_is_refused(argument: Any) -> None:
    with pytest.raises(QueryError, match=r"\$1.*JSON"):
        Q().where("a = $1", argument)


def test_a_list_given_and_changed_later_does_not_change_the_query() -> None:
    ids = ["a"]
    query = Q().where("id = ANY($1)", ids).build()
    ids.append("b")
    assert query.args == (("a",),)


def test_fields_or_arguments_given_as_one_string_are_refused() -> None:
    with pytest.raises(QueryError, match=r"fields.*sequence"):
        Query(fields="id")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match=r"args.*sequence"):
        Query(where="id = $1 OR id = $2", args="ab")  # type: ignore[arg-type]


def test_a_query_is_taken_wherever_a_builder_is() -> None:
    assert as_query(None) == Query()
    assert as_query(Q().limit(3)) == Query(limit=3)
    assert as_query(Query(limit=3)) == Query(limit=3)
    with pytest.raises(QueryError, match="Q or a Query"):
        as_query("level > 3")  # type: ignore[arg-type]


def test_columns_that_the_schema_does_not_have_are_refused() -> None:
    columns = ("id", "score")
    check_columns(Query(order_by="score", fields=("id",)), columns, "players")
    with pytest.raises(QueryError, match="order_by names 'score; --'"):
        check_columns(Query(order_by="score; --"), columns, "players")
    with pytest.raises(QueryError, match="order_by names 'nope'"):
        check_columns(Query(order_by=("score", "nope")), columns, "players")
    with pytest.raises(QueryError, match=r"fields names 'name'.*'players'"):
        check_columns(Query(fields=("id", "name")), columns, "players")


def test_fingerprints_tell_queries_apart_by_everything_that_decides_the_result() -> None:
    base = Query(where="a = $1", args=(1,))
    values = (2, 1.0, True, "1", b"1", None, UUID(int=1), (1,), timedelta(1))
    others = [Query(where="a = $1", args=(value,)) for value in values]
    others += [
        dataclasses.replace(base, order_by="a"), dataclasses.replace(base, order_by="a", desc=True),
        dataclasses.replace(base, order_by=("a", "b")), dataclasses.replace(base, order_by=("b", "a")),
        dataclasses.replace(base, order_by=("a", "b"), desc=(False, True)),
        dataclasses.replace(base, limit=1), dataclasses.replace(base, offset=1),
        dataclasses.replace(base, fields=("a",)), dataclasses.replace(base, where="b = $1"),
    ]  # fmt: skip
    prints = {query.fingerprint() for query in [base, *others]} | {base.fingerprint("another model")}
    assert len(prints) == len(others) + 2


def test_fingerprints_of_equal_queries_are_equal() -> None:
    assert Query().fingerprint() == Query(limit=100, force_l2=True).fingerprint()
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    elsewhere = noon.astimezone(timezone(timedelta(hours=5)))
    assert Q().where("a > $1", noon).build().fingerprint() == Q().where("a > $1", elsewhere).build().fingerprint()


def test_an_argument_without_a_stable_text_has_no_fingerprint() -> None:
    with pytest.raises(QueryError, match="object"):
        Query(where="a = $1", args=(object(),)).fingerprint()


def test_a_set_has_one_order_however_much_its_members_have_in_common() -> None:
    members = [f"{'x' * 100}{number}" for number in range(9)]
    (given,) = Query(where="id = ANY($1)", args=(set(members),)).args
    assert given == tuple(members)


def test_what_is_no_name_of_a_column_and_no_condition_is_told_with_what_would_be_one() -> None:
    with pytest.raises(QueryError, match=r"fields has a list in it; .*fields\('id', 'score'\)"):
        Q().fields(["id"])  # type: ignore[arg-type]
    with pytest.raises(QueryError, match=r"where is a list; it must be a str, such as 'level > \$1'"):
        Q().where(["level"])  # type: ignore[arg-type]


def test_placeholders_of_another_kind_are_told_what_they_are_here() -> None:
    for where in ("n = %s", "n = ?", "n = :n"):
        with pytest.raises(QueryError, match=r"0 placeholders, which are \$1, \$2 and so on, but 1 arguments"):
            Q().where(where, 1)
