"""`search_page`: a query page by page, each from where the one before has ended."""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import pytest

import strata
from strata import UNLOADED, Collection, Index, Page, PostgresPolicy, Q, Query, QueryError, Schema, SchemaHooks
from strata.l3.keyset import columns_of, stretches
from strata.l3.layout import Layout
from strata.paging import Bookmark
from strata.testing import inspect
from tests.behind import rows, run
from tests.models import Note, Point
from tests.stores import MakeStore, schema

pytestmark = pytest.mark.parametrize("face", ["threads", "asyncio"], indirect=True)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Score:
    id: Annotated[str, strata.PrimaryKey]
    points: int = 0
    name: str | None = None
    colour: Colour = Colour.RED
    placed: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    note: Annotated[str | None, strata.OmitCache] = None
    token: Annotated[str | None, strata.Encrypted] = None


Scores = Collection[Score, str]


@pytest.fixture
def scores(make: MakeStore) -> Scores:
    store = make(encryption_key=b"k" * 32)
    made = store.register(schema(Score, name="scores"))
    store.migrate()
    return made


def put(scores: Scores, *some: Score) -> None:
    scores.set_many({score.id: score for score in some})


def ids(page: Page[Score]) -> str:
    return "".join(score.id for score in page.records)


def pages(scores: Scores, query: Q) -> list[str]:
    """The ids of each page, to the last one."""
    return list(map(ids, walk(scores, query)))


def walk(scores: Scores, query: Q) -> Iterator[Page[Score]]:
    page = scores.search_page(query)
    yield page
    while page.next is not None:
        page = scores.search_page(query, after=page.next)
        yield page


# -- pages -----------------------------------------------------------------------------------------------------------


def test_each_page_says_where_the_next_one_begins_and_the_last_that_there_is_none(scores: Scores) -> None:
    put(scores, *(Score(id, points) for id, points in zip("abcde", [5, 4, 3, 2, 1], strict=True)))
    best = Q().order_by("points").desc().limit(2)
    first = scores.search_page(best)
    assert isinstance(first, Page) and first.records == [Score("a", 5), Score("b", 4)]
    second = scores.search_page(best, after=first.next)
    assert ids(second) == "cd"
    third = scores.search_page(best, after=second.next)
    assert third == Page([Score("e", 1)], None)
    assert scores.search_page(best, after=first.next) == second  # a page may be asked for again


def test_a_last_page_that_is_full_is_followed_by_none(scores: Scores) -> None:
    assert scores.search_page() == Page([], None)
    put(scores, *map(Score, "abcd"))
    assert pages(scores, Q().limit(2)) == ["ab", "cd"]
    assert pages(scores, Q().limit(4)) == ["abcd"]


def test_a_page_has_a_hundred_records_unless_the_limit_says_otherwise(scores: Scores) -> None:
    put(scores, *(Score(f"{n:03}") for n in range(120)))
    assert [len(page.records) for page in walk(scores, Q())] == [100, 20]
    assert [len(page.records) for page in walk(scores, Q().limit(2**63 - 1))] == [120]


def test_the_store_has_the_call_by_class_and_by_name_and_takes_a_query(scores: Scores) -> None:
    put(scores, *map(Score, "abc"))
    store, query = scores._store, Query(order_by="id", desc=True, limit=2)
    first = store.search_page(Score, query)
    assert ids(first) == "cb"
    assert store.search_page("scores", query, after=first.next) == Page([Score("a")], None)


# -- order -----------------------------------------------------------------------------------------------------------


def test_several_columns_each_have_a_direction_and_the_key_decides_between_equals(scores: Scores) -> None:
    put(scores, Score("a", 1, "x"), Score("b", 2, "x"), Score("c", 2, "y"), Score("d", 2, "x"), Score("e", 1, "y"))
    assert pages(scores, Q().order_by("points").desc().order_by("name").limit(2)) == ["bd", "ca", "e"]
    assert pages(scores, Q().order_by("points").desc().order_by("name").desc().limit(2)) == ["cd", "be", "a"]
    assert pages(scores, Q().order_by("points").desc().order_by("id").limit(2)) == ["bc", "da", "e"]
    assert pages(scores, Q().order_by("name").order_by("points").order_by("id").desc().limit(3)) == ["adb", "ec"]


def test_null_is_the_greatest_value_unless_it_is_placed(scores: Scores) -> None:
    put(scores, Score("a", name="x"), Score("b"), Score("c", name="y"), Score("d"))
    by_name = Q().order_by("name").limit(1)
    assert pages(scores, by_name) == list("acbd")
    assert pages(scores, by_name.desc()) == list("dbca")
    assert pages(scores, by_name.nulls_first()) == list("bdac")
    assert pages(scores, by_name.desc().nulls_last()) == list("cadb")
    assert pages(scores, by_name.nulls_last()) == list("acbd")
    assert pages(scores, Q().order_by("name").limit(3)) == ["acb", "d"]  # a page goes on where the NULLs begin
    assert pages(scores, by_name.nulls_first().limit(3)) == ["bda", "c"]


def test_every_search_places_null_where_the_query_has_it(scores: Scores) -> None:
    put(scores, Score("a", name="x"), Score("b"), Score("c", name="y"))
    query = Q().order_by("name").nulls_first().order_by("points").desc().nulls_last()
    for call in (scores.search, scores.search_cached, scores.search_cached, scores.search_iter):
        assert [score.id for score in call(query)] == ["b", "a", "c"]
    assert [score.id for score in scores.search_cached(Q().order_by("name").order_by("points").desc())] == list("acb")


def test_an_order_may_name_any_column_but_one_that_is_encrypted(scores: Scores) -> None:
    put(scores, Score("a", note="2", colour=Colour.RED), Score("b", note="1", colour=Colour.BLUE))
    assert pages(scores, Q().order_by("note").limit(1)) == ["b", "a"]  # which no cache keeps
    assert pages(scores, Q().order_by("colour").limit(1)) == ["b", "a"]  # by its value
    with pytest.raises(QueryError, match="Encrypted"):
        scores.search_page(Q().order_by("token"))
    with pytest.raises(QueryError, match="no column"):
        scores.search_page(Q().order_by("nothing"))


# -- while the table changes -----------------------------------------------------------------------------------------


def test_rows_that_come_and_go_between_pages_move_no_other(scores: Scores) -> None:
    put(scores, *(Score(id, points) for points, id in enumerate("abcdef")))
    query = Q().order_by("points").limit(2)
    first = scores.search_page(query)
    scores.delete("b")  # the very row that the page has ended with
    put(scores, Score("A", 0), Score("Z", 3))
    second = scores.search_page(query, after=first.next)
    assert (ids(first), ids(second)) == ("ab", "cZ")
    scores.delete_many(["a", "c", "d"])
    assert ids(scores.search_page(query, after=second.next)) == "ef"


def test_a_token_outlives_the_process_that_gave_it(scores: Scores, make: MakeStore) -> None:
    put(scores, *map(Score, "abc"))
    token = scores.search_page(Q().limit(2)).next
    other: Scores = make(encryption_key=b"k" * 32).register(schema(Score, name="scores"))
    assert ids(other.search_page(Q().limit(2), after=token)) == "c"


# -- what the records have ---------------------------------------------------------------------------------------------


def test_columns_that_were_not_asked_for_are_unloaded_also_those_of_the_order(scores: Scores) -> None:
    put(scores, Score("a", 2, "x"), Score("b", 1, "y"))
    query = Q().order_by("points").fields("name").limit(1)
    first = scores.search_page(query)
    (record,) = first.records
    assert (record.name, record.id, record.points) == ("y", UNLOADED, UNLOADED)
    (record,) = scores.search_page(query, after=first.next).records
    assert record.name == "x"


def test_whole_records_fill_the_caches_and_others_do_not(scores: Scores) -> None:
    put(scores, *map(Score, "abc"))
    for id in "abc":
        scores.invalidate(id)
    scores.search_page(Q().order_by("name").fields("id", "name"))
    assert scores._store.stats().l1_entries == 0
    scores.search_page(Q().limit(2))
    assert scores._store.stats().l1_entries == 2  # and not the one that tells of the next page
    before = scores._store.stats()
    assert scores.get("a") == Score("a", note=UNLOADED)
    assert scores._store.stats().l1_hits == before.l1_hits + 1


def test_pages_of_a_replica_fill_nothing(make: MakeStore, dsn: str) -> None:
    store = make()
    points = store.register(schema(Point, name="points", l3=PostgresPolicy(read_replica=dsn)))
    store.migrate()
    points.set_many({id: Point(id) for id in "abc"})
    for id in "abc":
        points.invalidate(id)
    first = points.search_page(Q().limit(2))
    assert points.search_page(Q().limit(2), after=first.next) == Page([Point("c")], None)
    assert store.stats().l1_entries == 0


def test_the_hooks_of_reading_run_for_each_record(make: MakeStore) -> None:
    asked: list[str] = []
    hooks = SchemaHooks[Point](before_get=asked.append, after_get=lambda point: replace(point, y=point.x * 2))
    store = make()
    points = store.register(schema(Point, name="points", hooks=hooks))
    store.migrate()
    points.set_many({id: Point(id, x) for x, id in enumerate("abc")})
    page = points.search_page(Q().limit(2))
    assert (page.records, asked) == ([Point("a", 0, 0), Point("b", 1, 2)], ["a", "b"])


def test_a_row_that_cannot_be_read_is_an_error_as_in_a_search(scores: Scores, dsn: str) -> None:
    put(scores, Score("a"), Score("b"))
    run(dsn, "UPDATE scores SET placed = 'infinity' WHERE id = 'a'")
    assert pages(scores, Q().order_by("placed").desc().fields("id").limit(1)) == ["a", "b"]
    with pytest.raises(strata.DecodeError, match="placed"):
        scores.search_page(Q().order_by("placed"))


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_an_offset_is_refused(scores: Scores) -> None:
    with pytest.raises(QueryError, match="takes no offset"):
        scores.search_page(Q().offset(10))


def test_arguments_that_leave_no_room_for_those_of_the_next_page_are_refused(scores: Scores) -> None:
    count = 65_531
    where = f"points = ANY(ARRAY[{','.join(f'${n}' for n in range(1, count + 1))}]::bigint[])"
    put(scores, Score("a"), Score("b"))
    query = Q().where(where, *range(count)).order_by("points").limit(1)
    assert pages(scores, query) == ["a", "b"]
    with pytest.raises(QueryError, match="takes 65530"):
        scores.search_page(query.order_by("name"))


@pytest.fixture
def token(scores: Scores) -> str:
    put(scores, *(Score(id, n) for n, id in enumerate("abcd")))
    found = scores.search_page(Q().where("points >= $1", 0).order_by("points").desc().limit(1)).next
    assert found is not None
    return found


def test_limit_fields_and_arguments_may_change_from_page_to_page(scores: Scores, token: str) -> None:
    def then(*arguments: int) -> Q:
        return Q().where("points >= $1", *arguments).order_by("points").desc()

    assert ids(scores.search_page(then(0).limit(2), after=token)) == "cb"
    assert ids(scores.search_page(then(0).fields("id"), after=token)) == "cba"
    assert ids(scores.search_page(then(1), after=token)) == "cb"


@pytest.mark.parametrize(
    "other",
    [
        Q().order_by("points").desc(),
        Q().where("points > $1", 0).order_by("points").desc(),
        Q().where("points >= $1", "0").order_by("points").desc(),
        Q().where("points >= $1", 0).order_by("points"),
        Q().where("points >= $1", 0).order_by("points").desc().order_by("id"),
        Q().where("points >= $1", 0).order_by("points").desc().nulls_last(),
        Q().where("points >= $1", 0).order_by("name").desc(),
        Q().where("points >= $1", 0),
    ],
)
def test_the_token_of_another_query_is_refused(scores: Scores, token: str, other: Q) -> None:
    with pytest.raises(QueryError, match="of another query"):
        scores.search_page(other, after=token)


def test_the_token_of_another_schema_is_refused(make: MakeStore) -> None:
    store = make()
    first = store.register(schema(Point, name="first"))
    second = store.register(schema(Point, name="second"))
    store.migrate()
    first.set_many({id: Point(id) for id in "ab"})
    token = first.search_page(Q().limit(1)).next
    with pytest.raises(QueryError, match="of another query"):
        second.search_page(Q().limit(1), after=token)


@pytest.mark.parametrize("wrong", ["", "a", "ä", "AAAA", "\0", "=" * 9, "x" * 10_000, "'; DROP TABLE scores; --"])
def test_what_is_no_token_is_refused(scores: Scores, wrong: str) -> None:
    with pytest.raises(QueryError, match="after is no text of Page"):
        scores.search_page(after=wrong)


def test_a_token_of_another_type_is_refused(scores: Scores) -> None:
    for wrong in (b"abc", 1, ["a"], object()):
        with pytest.raises(QueryError, match="after is a"):
            scores.search_page(after=wrong)  # type: ignore[arg-type]


def test_a_forged_token_is_a_place_in_the_order_and_nothing_else(scores: Scores, token: str, dsn: str) -> None:
    query = Q().where("points >= $1", 0).order_by("points").desc()
    bookmark = Bookmark("scores", query.build(), [strata.query.Order("points", True), strata.query.Order("id", True)])
    assert ids(scores.search_page(query, after=bookmark.text(["1", "x"]))) == "ba"
    assert ids(scores.search_page(query, after=bookmark.text(["0", "'); DROP TABLE scores; --"]))) == ""
    assert ids(scores.search_page(query, after=bookmark.text([None, "a"]))) == "dcba"
    assert rows(dsn, "SELECT count(*) FROM scores") == [(4,)]
    with pytest.raises(QueryError, match="after holds a value that its column does not take"):
        scores.search_page(query, after=bookmark.text(["many", "x"]))
    for values in (["1"], ["1", "x", "y"]):
        with pytest.raises(QueryError, match="of another query"):
            scores.search_page(query, after=bookmark.text(values))
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    _, digest, values = msgspec.msgpack.decode(raw[4:])
    later = msgspec.msgpack.encode((2, digest, values))
    with pytest.raises(QueryError, match="format 2"):
        scores.search_page(query, after=strata.paging._text(strata.paging._digest(later, 4) + later))


# -- tables of others --------------------------------------------------------------------------------------------------


@dataclass
class Job:
    id: Annotated[int, strata.PrimaryKey]
    state: str
    priority: int | None = None
    cost: float = 0.0
    label: str = ""


def test_a_column_is_compared_as_the_type_that_it_has(make: MakeStore, dsn: str) -> None:
    run(
        dsn,
        "CREATE TYPE state AS ENUM ('waiting', 'running', 'done'); CREATE TABLE jobs (id INTEGER PRIMARY KEY, "
        "state state NOT NULL, priority SMALLINT, cost REAL NOT NULL, label VARCHAR(9) NOT NULL, "
        "_strata_version BIGINT NOT NULL DEFAULT 0)",
    )
    store = make()
    jobs = store.register(Schema(Job, name="jobs", l3=PostgresPolicy(managed=False)))
    states = ["done", "waiting", "running", "waiting", "done"]
    jobs.set_many({n: Job(n, state, n % 2 or None, 0.1 * n, f"l{n % 3}") for n, state in enumerate(states)})

    def all_of(query: Q) -> list[int]:
        found, page = [], jobs.search_page(query.limit(1))
        found += page.records
        while page.next:
            page = jobs.search_page(query.limit(1), after=page.next)
            found += page.records
        return [job.id for job in found]

    assert all_of(Q().order_by("state")) == [1, 3, 2, 0, 4]  # as the type has its members, not by their letters
    assert all_of(Q().order_by("priority").order_by("state").desc()) == [3, 1, 4, 0, 2]
    assert all_of(Q().order_by("cost").desc().order_by("label")) == [4, 3, 2, 1, 0]
    assert all_of(Q().order_by("label").order_by("id").desc()) == [3, 0, 4, 1, 2]


def test_json_is_sorted_as_postgresql_has_it(make: MakeStore) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    notes.set_many({n: Note(n, tags=tags) for n, tags in enumerate([["b"], [], ["a", "é"], ["a"]])})
    query = Q().order_by("tags").limit(1)
    found, page = [], notes.search_page(query)
    while page.next:
        found += page.records
        page = notes.search_page(query, after=page.next)
    assert [note.id for note in [*found, *page.records]] == [note.id for note in notes.search(query.limit(9))]


# -- indexes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "index", "values"),
    [
        (Q().order_by("points"), "points, id", ["1", "a"]),
        (Q().order_by("points").desc(), "points, id", ["1", "a"]),
        (Q().order_by("points").desc().order_by("id"), "points DESC, id", ["1", "a"]),
        (Q().order_by("name"), "name, id", ["x", "a"]),
        (Q().order_by("name"), "name, id", [None, "a"]),
        (Q().order_by("name").nulls_first().order_by("points"), "name NULLS FIRST, points, id", ["x", "1", "a"]),
        (Q().order_by("name").nulls_first().order_by("points"), "name NULLS FIRST, points, id", [None, "1", "a"]),
    ],
)
def test_a_page_begins_in_the_index_where_the_one_before_has_ended(
    scores: Scores, dsn: str, query: Q, index: str, values: list[str | None]
) -> None:
    run(dsn, f"CREATE INDEX ordered ON scores ({index})")
    bound = inspect(scores._store).schemas["scores"]
    columns = columns_of(Layout(bound.plan, "scores", "scores", deferred=False), bound.rows.table.order(query.build()))
    for condition, args in stretches(columns, values, 1):
        for number, value in reversed(list(enumerate(args, 1))):
            condition = condition.replace(f"${number}", f"'{value}'")
        terms = ", ".join(column.term for column in columns)
        with bound.rows.primary.transaction() as conn:
            conn.command("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
            sql = f"EXPLAIN (FORMAT JSON) SELECT * FROM scores WHERE {condition} ORDER BY {terms} LIMIT 10"
            told = conn.execute(sql.encode()).fetchall()[0][0]
        (top,) = told if isinstance(told, list) else json.loads(told)
        scan: Any = top["Plan"]["Plans"][0]  # under the limit, nothing is sorted
        assert scan["Node Type"] == "Index Scan" and scan["Index Name"] == "ordered" and scan["Index Cond"]


def test_a_partitioned_table_is_paged_as_any_other(make: MakeStore) -> None:
    store = make(encryption_key=b"k" * 32)
    scores = store.register(
        Schema(Score, name="scores", l3=PostgresPolicy(partition_by="placed"), indexes=[Index(["placed", "id"])])
    )
    store.migrate()
    months = [datetime(2026, 1 + n % 5, 1, tzinfo=UTC) for n in range(20)]
    put(scores, *(Score(f"{n:02}", placed=at) for n, at in enumerate(months)))
    found = [score for page in walk(scores, Q().order_by("placed").desc().limit(3)) for score in page.records]
    assert found == sorted(found, key=lambda score: (score.placed, score.id), reverse=True) and len(found) == 20
