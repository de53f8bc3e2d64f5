"""`prefetch`: what the records of a page refer to, at once, in the place of one read for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

import strata
from strata import UNLOADED, DataStore, EncodeError, Q, SchemaHooks, SchemaNotFoundError
from tests.stores import MakeStore, schema, sure
from tests.trips import counted

pytestmark = pytest.mark.both_faces


@dataclass
class Team:
    id: Annotated[int, strata.PrimaryKey]
    name: str = ""
    motto: Annotated[str, strata.OmitCache] = ""


@dataclass
class Player:
    id: Annotated[str, strata.PrimaryKey]
    team_id: int | None = None


class Coach(msgspec.Struct):
    team_id: int


class Fan(pydantic.BaseModel):
    team_id: int


RED, BLUE = Team(0, "red", "Go!"), Team(7, "blue", "Stay!")


def filled(make: MakeStore, **options: Any) -> DataStore:
    store = make()
    store.register(schema(Team, name="teams", **options))
    store.register(schema(Player, name="players"))
    store.migrate()
    sure(store)
    store.set_many("teams", {0: RED, 7: BLUE})
    return store


PAGE = [Player("a", 7), Player("b", 0), Player("c", 7), Player("d"), Player("e", 99)]


def test_the_records_come_by_the_id_that_names_them_also_the_id_0(make: MakeStore) -> None:
    teams = filled(make).prefetch(PAGE, "team_id", Team)
    assert list(teams) == [7, 0]
    assert [team.name for team in teams.values()] == ["blue", "red"]
    assert [name and name.name for name in (teams.get(player.team_id) for player in PAGE)] == [
        "blue", "red", "blue", None, None,
    ]  # fmt: skip


def test_a_page_that_names_nothing_asks_for_nothing(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(make)
    with counted(store, monkeypatch) as trips:
        assert store.prefetch([], "team_id", Team) == {}
        assert store.prefetch([Player("d")], "team_id", Team) == {}
    assert (trips.redis, trips.postgres) == (0, 0)


def test_each_id_is_asked_for_once_whoever_names_it_and_however_often(make: MakeStore) -> None:
    asked: list[int] = []
    store = filled(make, hooks=SchemaHooks(before_get=asked.append))
    store.prefetch([*PAGE, Coach(7), Fan(team_id=0)], "team_id", "teams")
    assert asked == [7, 0, 99]


def test_a_page_costs_one_round_trip_whatever_its_size(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(make, l1=None)
    store.set_many("teams", {n: Team(n) for n in range(100)})
    with counted(store, monkeypatch) as trips:
        assert len(store.prefetch([Player(str(n), n) for n in range(100)], "team_id", Team)) == 100
    assert (trips.redis, trips.postgres) == (1, 0)


def test_a_search_and_what_it_refers_to_make_a_page(make: MakeStore) -> None:
    store = filled(make)
    store.set_many("players", {player.id: player for player in PAGE})
    page = store.search(Player, Q().order_by("id"))
    teams = store.prefetch(page, "team_id", Team)
    assert [(player.id, teams[player.team_id].name) for player in page if player.team_id in teams] == [
        ("a", "blue"), ("b", "red"), ("c", "blue"),
    ]  # fmt: skip


def test_whole_records_can_be_had(make: MakeStore) -> None:
    store = filled(make)
    store.prefetch(PAGE, "team_id", Team)
    assert store.prefetch(PAGE, "team_id", Team)[7].motto is UNLOADED
    assert store.prefetch(PAGE, "team_id", Team, whole=True)[7] == BLUE


@pytest.mark.parametrize(
    ("records", "field", "said"),
    [
        ([Player("a", 7)], "team", "a Player has no field 'team'"),
        ([{"team_id": 7}], "team_id", "a dict has no field 'team_id'"),
        ([Player("a", UNLOADED)], "team_id", r"Player\.team_id is UNLOADED"),
        ([Player("a", "x")], "team_id", "a key of Team is of type str"),  # type: ignore[arg-type]
        (None, "team_id", "records is of type NoneType"),
        ("ab", "team_id", "records is of type str"),
        ([Player("a", 7)], 7, "field is of type int"),
    ],
)
def test_a_mistake_is_an_encode_error_that_says_what_is_wrong(
    make: MakeStore, records: Any, field: Any, said: str
) -> None:
    store = filled(make)
    with pytest.raises(EncodeError, match=said):
        store.prefetch(records, field, Team)
    with pytest.raises(SchemaNotFoundError):
        store.prefetch(PAGE, "team_id", "nothing")
