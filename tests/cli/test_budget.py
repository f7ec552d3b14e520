"""`metier key` and `metier budget`: what people and scripts do with them, on a real house."""

from __future__ import annotations

import asyncio
import dataclasses
from decimal import Decimal

import pytest

from metier.postgres import Embedded
from metier.store import Store, create_database
from tests.cli.house import House


@pytest.fixture(scope="module")
def system(house: House) -> str:
    """An approved system for the keys of these tests."""
    made: str = house.data("system", "register", "limites", "--purpose", "p", "--owner", "o")["system"]["id"]
    house.run("system", "move", "limites", "pilot", "--reason", "test")
    return made


def issue(house: House, name: str, project: str, *more: str, code: int = 0) -> dict[str, object]:
    found: dict[str, object] = house.data(
        "key", "issue", name, "--system", "limites", "--project", project, *more, code=code
    )
    return found


def test_a_key_is_issued_within_its_owners_shown_rotated_and_revoked(house: House, system: str) -> None:
    house.run("key", "organisation", "filiale", "--surface", "chat", "--surface", "embeddings")
    house.run("key", "project", "atelier", "--organisation", "filiale", "--model", "writer", "--model", "judge")
    wide = issue(house, "trop", "atelier", "--surface", "images", code=3)
    assert "'atelier' cannot have the surfaces images" in str(wide)
    made = issue(house, "poste", "atelier", "--model", "writer", "--surface", "chat", "--tool", "search")
    key = made["key"]
    assert isinstance(key, dict) and (key["models"], key["surfaces"], key["tools"]) == (
        ["writer"],
        ["chat"],
        ["search"],
    )
    told = house.run("key", "issue", "vite", "--system", "limites", "--project", "atelier", "--model", "judge")
    assert "Copy it now" in told and "there is no model 'judge' here yet" in told
    house.run("budget", "set", "requests", "60", "--key", key["id"])
    shown = house.data("key", "show", key["id"])
    assert shown["project"]["name"] == "atelier" and shown["limits"][0]["limit"]["amount"] == 60
    assert "60 requests per minute" in house.run("key", "show", key["id"])
    rotated = house.data("key", "rotate", key["id"], "--grace", "2")
    assert rotated["secret"] != made["secret"] and rotated["key"]["before_until"] is not None
    assert "Revoked" in house.run("key", "revoke", str(rotated["secret"]))
    assert "Was revoked already, 2" in house.run("key", "revoke", key["id"])
    assert "no good key" in house.run("key", "rotate", key["id"], code=2)
    assert [k["id"] for k in house.data("key", "list")["keys"] if k["name"] == "poste"] == [key["id"]]
    assert "surfaces chat, embeddings" in house.run("key", "organisation", "filiale")
    assert "surfaces all" in house.run("key", "organisation", "filiale", "--unbound")


def test_limits_are_set_listed_shown_and_dropped(house: House, system: str) -> None:
    house.run("key", "project", "compta")
    assert "no limit" in house.run("budget", "list", "--project", "compta")
    money = house.data("budget", "set", "money", "50", "--project", "compta")["limit"]
    assert (money["period"], money["action"], money["scope"]) == ("month", "refuse", "project")
    house.run("budget", "set", "money", "40", "--project", "compta", "--alert-only")
    house.run("budget", "set", "tokens", "9000", "--project", "compta", "--each-end-user")
    house.run("budget", "set", "concurrency", "4", "--system", "limites")
    found = house.data("budget", "list", "--project", "compta")["limits"]
    assert {(one["limit"]["scope"], one["limit"]["action"]) for one in found} == {
        ("project", "refuse"), ("project", "alert"), ("end_user", "refuse")
    }  # fmt: skip
    assert house.data("budget", "show", money["id"])["limits"][0]["used"] == 0
    table = house.run("budget", "list", "--project", "compta")
    assert "50 €" in table and "each end user of" in table
    assert house.data("budget", "drop", *[one["limit"]["id"] for one in found])["dropped"]
    assert house.data("budget", "list", "--project", "compta")["limits"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("set", "money", "5"), 2, "exactly one"),
        (("set", "money", "5", "--project", "nulle part"), 2, "no project"),
        (("set", "money", "5", "--organisation", "main", "--per", "minute"), 2, "limited per"),
        (("set", "money", "5", "--organisation", "main", "--degrade-to", "nobody"), 2, "no model"),
        (("show", "limit_x"), 2, "no limit"),
        (("drop", "limit_x"), 2, "nothing was removed"),
        (("settle", "worker_x"), 2, "metier budget open"),
        (("set", "concurrency", "3", "--per", "day", "--system", "limites"), 2, "has no period: leave it out"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(
    house: House, system: str, arguments: tuple[str, ...], code: int, word: str
) -> None:
    assert word in house.run("budget", *arguments, code=code)


def test_where_nothing_is_open_and_nothing_was_told_that_is_said(server: Embedded, template: str, house: House) -> None:
    # A house in which no other test has spent anything.
    asyncio.run(create_database(server.url("postgres"), "cli_unspent", template=template))
    unspent = dataclasses.replace(house, database_url=server.url("cli_unspent"))
    assert "Nothing is open" in unspent.run("budget", "open")
    assert "No alert" in unspent.run("budget", "alerts")


def test_what_a_lost_worker_held_is_listed_and_settled_by_a_person(house: House, system: str) -> None:
    project = house.data("key", "project", "perdu", "--limit", "10")["project"]["id"]

    async def lose() -> None:
        async with Store(house.database_url, size=2) as store, store.connection() as connection:
            await connection.execute(
                "INSERT INTO leases (id, worker, limit_id, measure, starts_on, granted, heartbeat_at) "
                "SELECT 'lease_lost', 'worker_lost', limit_id, 'money', starts_on, 3, now() - interval '1 hour' "
                "FROM standings JOIN limits ON limits.id = limit_id WHERE subject = %s",
                (project,),
            )
            await connection.execute(
                "UPDATE standings SET held = held + 3 FROM limits WHERE limits.id = limit_id AND subject = %s",
                (project,),
            )

    asyncio.run(lose())
    [silent] = [one for one in house.data("budget", "open")["silent"] if one["worker"] == "worker_lost"]
    assert (silent["subject"], silent["granted"]) == (project, 3)
    assert "Nothing was changed" in house.run("budget", "settle", "worker_lost")
    assert "Counted as spent" in house.run("budget", "settle", "worker_lost", "--yes")
    assert house.data("budget", "list", "--project", "perdu")["limits"][0]["used"] == float(Decimal(3))
    assert house.data("budget", "open")["silent"] == []
