"""docs/retention.md lists everything that is kept, and what is kept is bounded as it says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from strata import MemPolicy, Q, RedisPolicy, Retention
from strata.integrations.opentelemetry import OpenTelemetryTracer
from strata.l3.ddl import SYSTEM_TABLES
from tests.behind import Errors, client, deferred, hand_off, idle, paced, run
from tests.models import Note, Player
from tests.spans import Spans
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "retention.md"


class Line(NamedTuple):
    """A line of the table of what is in Redis."""

    keys: re.Pattern[str]
    time: str
    who: str

    @property
    def expires(self) -> bool:
        return "expiry" in self.who and "never" not in self.time


def lines() -> list[Line]:
    section = PAGE.read_text().split("## In Redis")[1].split("\n## ")[0]
    found = []
    for row in re.findall(r"^\| (`strata.*) \|$", section, re.M):
        keys, _, time, _, who = row.split(" | ")
        shapes = [re.sub(r"\\?<[^>]*\\?>", r"[^{}]+", re.escape(name)) for name in re.findall(r"`([^`]*)`", keys)]
        found.append(Line(re.compile("|".join(shapes)), time, who))
    return found


def test_every_key_in_redis_is_on_the_page_and_ends_as_it_says(make: MakeStore, dsn: str, redis_addr: str) -> None:
    errors = Errors()
    tracer = OpenTelemetryTracer(Spans().provider)
    one, other = make(write_behind_max_retry=1, tracer=tracer), make(write_behind_max_retry=1)
    for store in (one, other):
        paced(store)
        store.register(deferred(Note, hooks=errors.hooks()))
        store.register(schema(Player, name="players", l1=MemPolicy(), l2=RedisPolicy(ttl=0)))
        store.migrate()
        sure(store)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'refused')")
    one.set(Note, 1, Note(1, "refused"))
    one.flush_dirty(20)
    one.delete(Note, 2)
    hand_off(one)
    other.flush_dirty(20)
    for store in (one, other):
        store.search_cached(Note, Q().where("id > $1", 0))
        store.search_cached(Player)
        store.set(Player, "p", Player("p", "a"))
        store.search_cached(Player)
        store.search_page(Player, Q().order_by("level"))
    wait_until(lambda: client(redis_addr).exists("strata:{pages}:players"))
    one.warm_cache(Note, background=True)
    one.invalidate_tag("a tag")
    one.fleet.keep_house()
    one.fleet.redrive()
    one.fleet.audit_due()
    one.fleet.wants_round()
    one.fleet.look_after_jobs(["strata.warm"])
    idle(one)
    one.set(Note, 3, Note(3, "pending"))
    hand_off(one)

    held, known, seen = client(redis_addr), lines(), set()
    for key in held.keys("strata:*"):
        name = key.decode()
        line = next((line for line in known if line.keys.fullmatch(name)), None)
        assert line is not None, f"{name} is not in {PAGE.name}"
        seen.add(line)
        if line.expires and held.exists(key):
            assert held.ttl(key) != -1, f"{name} never ends"
    missed = [line.keys.pattern for line in known if line not in seen]
    assert len(missed) <= 3, missed  # what stands for a moment only


def test_every_table_and_every_setting_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert [name for name in SYSTEM_TABLES if f"| `{name}` |" not in text] == []
    listed = dict(re.findall(r"^\| `(\w+)` \| `([\d_]+)`", text, re.M))
    settings = {item.name: getattr(Retention(), item.name) for item in dataclasses.fields(Retention)}
    assert {name: float(value) for name, value in listed.items() if name in settings} == settings


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(Retention)])
def test_a_bound_is_a_number_or_without_end(name: str) -> None:
    assert getattr(Retention(**{name: 0}), name) == 0
    for wrong in (-1, None, "1", True):
        with pytest.raises(Exception, match=f"Retention.{name}"):
            Retention(**{name: wrong})  # type: ignore[arg-type]
