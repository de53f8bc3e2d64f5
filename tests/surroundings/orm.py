"""SQLAlchemy beside Strata: mapped classes over tables that the tool makes, and the records of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import strata


class Base(DeclarativeBase):
    pass


class ArticleRow(Base):
    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class LineRow(Base):
    """The order of its key is another than that of the record's fields."""

    __tablename__ = "lines"
    number: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[int] = mapped_column(default=0)


@dataclass
class Article:
    id: Annotated[int | None, strata.PrimaryKey, strata.Generated] = None
    title: str = ""


@dataclass
class Line:
    order: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    amount: int = 0


def url(dsn: str, driver: str = "postgresql+psycopg") -> URL:
    """The address as SQLAlchemy has it."""
    parts: dict[str, Any] = conninfo_to_dict(dsn)
    return URL.create(
        driver, parts["user"], parts["password"], parts["host"], int(parts["port"]), parts["dbname"]
    )  # fmt: skip


@contextmanager
def tables(dsn: str) -> Iterator[sessionmaker[Session]]:
    """Makes the tables; sessions on them."""
    engine = create_engine(url(dsn))
    try:
        Base.metadata.create_all(engine)
        yield sessionmaker(engine)
    finally:
        engine.dispose()
