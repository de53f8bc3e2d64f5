"""Rows that SQLAlchemy's ORM changes are seen by every instance after the commit, and by none before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from flask import Flask
from sqlalchemy import delete, insert, text, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from strata import Collection, EncodeError, InvalidConfigError, PostgresPolicy
from strata.integrations.flask import Strata
from strata.integrations.sqlalchemy import invalidate_after_commit
from strata.testing import Proxy, inspect
from tests.models import Point
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until
from tests.surroundings.orm import Article, ArticleRow, Line, LineRow, tables, url

Both = list[Collection[Article, int]]
UNMANAGED = PostgresPolicy("articles", managed=False)
NEEDS = "ALTER TABLE articles ADD COLUMN _strata_version BIGINT NOT NULL DEFAULT 0"


@pytest.fixture
def sessions(dsn: str) -> Iterator[sessionmaker[Session]]:
    """Of an application whose tables Strata may use."""
    with tables(dsn) as made:
        with made.begin() as session:
            for table in ("articles", "lines"):
                session.execute(text(f"ALTER TABLE {table} ADD COLUMN _strata_version BIGINT NOT NULL DEFAULT 0"))
        yield made


@pytest.fixture
def both(make: MakeStore, sessions: sessionmaker[Session]) -> Both:
    """The records in two instances, both of which hold those of 1 and 2; the first one hears of the sessions."""
    stores = make(), make()
    found: Both = []
    for store in stores:
        found.append(store.register(schema(Article, name="articles", l3=UNMANAGED)))
        store.migrate()
        sure(store)
    found[0].set_many({1: Article(1, "old"), 2: Article(2, "old")})
    invalidate_after_commit(sessions, {ArticleRow: found[0]})
    assert titles(found[1]) == {1: "old", 2: "old"}
    return found


def titles(articles: Collection[Article, int]) -> dict[int, str]:
    """What this instance shows of the first few."""
    return {id: article.title for id, article in sorted(articles.get_many([1, 2, 3]).items())}


def everywhere(both: Both, expected: dict[int, str]) -> None:
    for articles in both:
        wait_until(lambda articles=articles: titles(articles) == expected)  # type: ignore[misc]


def add(session: Session) -> None:
    session.add(ArticleRow(id=3, title="new"))


def change(session: Session) -> None:
    session.get_one(ArticleRow, 1).title = "new"


def change_expired(session: Session) -> None:
    row = session.get_one(ArticleRow, 1)
    session.expire(row)
    row.title = "new"


def change_key(session: Session) -> None:
    session.get_one(ArticleRow, 1).id = 3


def remove(session: Session) -> None:
    session.delete(session.get_one(ArticleRow, 1))


def update_many(session: Session) -> None:
    session.execute(update(ArticleRow).where(ArticleRow.id < 9).values(title="new"))


def update_by_keys(session: Session) -> None:
    session.execute(update(ArticleRow), [{"id": 1, "title": "new"}, {"id": 2, "title": "other"}])


def update_table(session: Session) -> None:
    session.execute(update(ArticleRow.__table__).values(title="new"))  # type: ignore[arg-type]  # a Table


def update_by_query(session: Session) -> None:
    session.query(ArticleRow).filter_by(id=2).update({"title": "new"})


def delete_many(session: Session) -> None:
    session.execute(delete(ArticleRow))


def insert_many(session: Session) -> None:
    session.execute(insert(ArticleRow), [{"id": 3, "title": "new"}])


CHANGES: dict[Callable[[Session], None], dict[int, str]] = {
    add: {1: "old", 2: "old", 3: "new"},
    change: {1: "new", 2: "old"},
    change_expired: {1: "new", 2: "old"},
    change_key: {2: "old", 3: "old"},
    remove: {2: "old"},
    update_many: {1: "new", 2: "new"},
    update_by_keys: {1: "new", 2: "other"},
    update_table: {1: "new", 2: "new"},
    update_by_query: {1: "old", 2: "new"},
    delete_many: {},
    insert_many: {1: "old", 2: "old", 3: "new"},
}


@pytest.mark.parametrize(("what", "expected"), CHANGES.items(), ids=lambda what: getattr(what, "__name__", ""))
def test_a_change_is_seen_by_every_instance_after_the_commit_and_not_before(
    sessions: sessionmaker[Session], both: Both, what: Callable[[Session], None], expected: dict[int, str]
) -> None:
    with sessions() as session:
        what(session)
        session.flush()
        assert [titles(articles) for articles in both] == [{1: "old", 2: "old"}] * 2
        session.commit()
        everywhere(both, expected)


@pytest.mark.parametrize("what", [change, update_many])
def test_after_a_rollback_nothing_is_dropped(
    sessions: sessionmaker[Session], both: Both, dsn: str, what: Callable[[Session], None]
) -> None:
    with sessions() as session:
        what(session)
        session.flush()
        session.rollback()
        session.execute(text("UPDATE articles SET title = 'by SQL'"))  # which nobody is told of
        session.commit()
        what(session)
        session.flush()
    assert [titles(articles) for articles in both] == [{1: "old", 2: "old"}] * 2


def test_what_is_done_before_a_savepoint_is_remembered_when_that_is_rolled_back(
    sessions: sessionmaker[Session], both: Both
) -> None:
    with sessions.begin() as session:
        change(session)
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.get_one(ArticleRow, 2).title = "never"
            session.flush()
            raise ZeroDivisionError
        with session.begin_nested():
            add(session)
        assert [titles(articles) for articles in both] == [{1: "old", 2: "old"}] * 2
    everywhere(both, {1: "new", 2: "old", 3: "new"})


def test_what_is_released_from_a_savepoint_and_rolled_back_with_all_is_forgotten(
    sessions: sessionmaker[Session], both: Both, dsn: str
) -> None:
    with sessions() as session:
        with session.begin_nested():
            change(session)
        session.rollback()
        session.execute(text("UPDATE articles SET title = 'by SQL'"))
        session.commit()
    assert [titles(articles) for articles in both] == [{1: "old", 2: "old"}] * 2


def test_an_object_that_is_only_read_costs_nothing(sessions: sessionmaker[Session], both: Both) -> None:
    with sessions.begin() as session:
        session.get_one(ArticleRow, 1).title = "old"
        session.execute(text("UPDATE articles SET title = 'by SQL'"))
    assert [titles(articles) for articles in both] == [{1: "old", 2: "old"}] * 2


def test_keys_of_several_fields_are_those_of_the_record_in_whatever_order_the_table_has_them(
    make: MakeStore, sessions: sessionmaker[Session]
) -> None:
    stores = make(), make()
    first, second = (store.register(schema(Line, l3=PostgresPolicy("lines", managed=False))) for store in stores)
    for store in stores:
        store.migrate()
        sure(store)
    first.set(("a", 1), Line("a", 1, 5))
    assert second.get(("a", 1)).amount == 5
    invalidate_after_commit(scoped_session(sessions), {LineRow: first})
    with sessions.begin() as session:
        session.get_one(LineRow, (1, "a")).amount = 6
    for lines in (first, second):
        wait_until(lambda lines=lines: lines.get(("a", 1)).amount == 6)  # type: ignore[misc]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_asynchronous_sessions_tell_without_holding_up_the_loop(
    make: MakeStore, both: Both, dsn: str, redis_addr: str, asynchronous: bool
) -> None:
    async def count(ticks: list[None]) -> None:
        while True:
            ticks.append(None)
            await asyncio.sleep(0.005)

    async def main(link: Proxy, articles: Collection[Article, int]) -> None:
        ticks: list[None] = []
        maker = async_sessionmaker(engine := create_async_engine(url(dsn, "postgresql+psycopg_async")))
        invalidate_after_commit(maker, {ArticleRow: articles.aio if asynchronous else articles})
        async with maker() as session:
            (await session.get_one(ArticleRow, 1)).title = "new"
            await session.execute(update(ArticleRow).where(ArticleRow.id == 2).values(title="new"))
            assert titles(both[1]) == {1: "old", 2: "old"}
            link.delay(0.1)
            counting = asyncio.create_task(count(ticks))
            await session.commit()
            counting.cancel()
        await engine.dispose()
        assert len(ticks) > 10

    with Proxy(redis_addr) as link:
        store = make(redis_addr=link.addr)
        articles = store.register(schema(Article, name="articles", l3=UNMANAGED))
        sure(store)
        asyncio.run(main(link, articles))
        everywhere(both, {1: "new", 2: "new"})


@pytest.mark.parametrize("what", [change, update_many])
def test_a_commit_does_not_fail_for_want_of_redis_which_is_told_when_it_is_back(
    make: MakeStore, sessions: sessionmaker[Session], redis_addr: str, what: Callable[[Session], None]
) -> None:
    with Proxy(redis_addr) as link:
        store = make(redis_addr=link.addr)
        articles = store.register(schema(Article, name="articles", l3=UNMANAGED))
        store.migrate()
        articles.set(1, Article(1, "old"))
        invalidate_after_commit(sessions, {ArticleRow: articles})
        other = make().register(schema(Article, name="articles", l3=UNMANAGED))
        link.refuse()
        with sessions.begin() as session:
            what(session)
        assert other.get(1, force_l2=True).title == "old", "what Redis still has"
        link.resume()
        wait_until(lambda: other.get(1, force_l2=True).title == "new", 30)
        wait_until(lambda: not inspect(store).unfinished, 30)


def test_mistakes_are_refused_before_the_commit(
    make: MakeStore, sessions: sessionmaker[Session], both: Both, dsn: str
) -> None:
    wrong: Any
    for wrong in (object(), Article):
        with pytest.raises(InvalidConfigError, match="no sessions"):
            invalidate_after_commit(wrong, {ArticleRow: both[0]})
    with pytest.raises(InvalidConfigError, match="no mapped class"):
        invalidate_after_commit(sessions, {Article: both[0]})
    with pytest.raises(InvalidConfigError, match="the key of 'articles' is 'id', that of LineRow is number, order"):
        invalidate_after_commit(sessions, {LineRow: both[0]})
    articles = make().register(schema(Point, name="points"))
    invalidate_after_commit(sessions, {ArticleRow: articles})
    with pytest.raises(EncodeError, match="must be a str"), sessions.begin() as session:
        change(session)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT title FROM articles WHERE id = 1").fetchone() == ("old",)


def test_beside_the_triggers_the_process_that_commits_reads_its_own_change_at_once(
    make: MakeStore, sessions: sessionmaker[Session], dsn: str
) -> None:
    store, other = make(), make()
    watched = schema(Article, name="articles", l3=PostgresPolicy("articles", managed=False, watch=True))
    with psycopg.connect(dsn) as conn:
        articles = store.register(watched)
        for change in store.migrate().manual:
            conn.execute(change.sql.encode())
    seen = other.register(watched)
    with sessions.begin() as session:
        session.add(ArticleRow(id=1, title="0"))
    sure(store)
    invalidate_after_commit(sessions, {ArticleRow: articles})
    for number in range(1, 30):
        assert articles.get(1).title == seen.get(1).title == str(number - 1)
        with sessions.begin() as session:
            session.get_one(ArticleRow, 1).title = str(number)
        assert articles.get(1).title == str(number)
        wait_until(lambda number=number: seen.get(1).title == str(number))  # type: ignore[misc]


def test_a_handle_of_flask_s_extension_is_checked_where_its_application_is(
    sessions: sessionmaker[Session], dsn: str, redis_addr: str
) -> None:
    tiers = Strata()
    articles = tiers.register(schema(Article, name="articles", l3=UNMANAGED))
    invalidate_after_commit(sessions, {ArticleRow: articles, LineRow: articles})
    app = Flask("shop")
    app.config["STRATA"] = {"postgres_dsn": dsn, "redis_addr": redis_addr}
    tiers.init_app(app)
    with app.app_context():
        with sessions.begin() as session:
            add(session)
        assert articles.get(3).title == "new"
        with pytest.raises(InvalidConfigError, match="that of LineRow is number, order"), sessions.begin() as session:
            session.add(LineRow(number=1, order="a"))
        tiers.store.close()
