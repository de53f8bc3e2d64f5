"""Articles, and how often each was read."""

from dataclasses import asdict, dataclass
from typing import Annotated

from flask import Flask, abort, request
from strata import MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode
from strata.integrations.flask import Strata

app = Flask(__name__)
tiers = Strata(app, health="/healthz")
store = tiers.store  # by which workers find it: STRATA_APP=app:store


@dataclass
class Article:
    id: Annotated[str, PrimaryKey]
    title: str
    text: str = ""


@dataclass
class Views:
    article: Annotated[str, PrimaryKey]
    count: int = 0


articles = tiers.register(Schema(Article, name="articles", l1=MemPolicy(), l2=RedisPolicy(), l3=PostgresPolicy()))
views = tiers.register(
    Schema(
        Views,
        name="views",
        l1=MemPolicy(),
        l2=RedisPolicy(),
        l3=PostgresPolicy(),
        write_mode=WriteMode.WRITE_BEHIND,
    )
)


@app.put("/articles/<id>")
def put(id: str):
    return asdict(articles.set(id, Article(id, **request.get_json())))


@app.get("/articles/<id>")
def show(id: str):
    article = articles.get(id, default=None)
    if article is None:
        abort(404)
    views.increment(id, count=1, default=Views(id))
    return asdict(article)


@app.get("/articles/<id>/views")
def count(id: str):
    return asdict(views.get(id, default=Views(id)))
