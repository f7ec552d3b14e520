"""What keeps runs on one side of a share: chosen, linted, by default per person, and the same while shares grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from metier.calls import JSON, KeyId
from metier.errors import Invalid
from metier.store import Store
from metier.triggers import Event, Released, Triggers
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.expressions import Expressions
from metier.workflow.release_keys import Cause, bucket, checked, key_of, per_person
from metier.workflow.releases import Releases, to_share
from tests.triggers.house import House, trigger, triggered, who
from tests.workflow.flows import WHO, flow, step

_EXPRESSIONS = Expressions()


def version(number: int, inputs: Mapping[str, JSON]) -> Workflow:
    schema: dict[str, JSON] = {"type": "object", "properties": dict(inputs), "additionalProperties": False}
    return replace(flow(step("a", config=f"v{number}"), name="support"), inputs=schema)


def mail(number: int) -> Workflow:
    return version(number, {"from": {"type": "string"}, "text": {"type": "string"}})


def key(per: str, inputs: Mapping[str, JSON], *, asked: bool = False) -> str:
    return key_of(per, Cause("e1", inputs, asked), replace(WHO, name="claire"), _EXPRESSIONS)


async def two(store: Store, vault: Vault) -> Releases:
    releases = Releases(store, vault)
    for number in (1, 2):
        await releases.create(mail(number), WHO.project, "ada")
    await releases.promote("support", WHO.project, 1, "ada")
    return releases


async def given(releases: Releases, event: str, inputs: Mapping[str, JSON]) -> int:
    nobody = replace(WHO, name="workflow support", groups=frozenset())
    return (await releases.choice("support", WHO.project, nobody, Cause(event, inputs))).version


async def test_a_person_meets_one_version_however_often_they_write_and_while_the_share_grows(
    store: Store, vault: Vault
) -> None:
    releases = await two(store, vault)
    people = [f"client{number}@exemple.fr" for number in range(120)]
    before: set[str] = set()
    for share in (0.05, 0.2, 0.5, 0.9):
        made = await releases.canary("support", WHO.project, 2, "ada", share)
        assert made.per == "inputs.from"
        now = set()
        for person in people:
            forms = (person, person.upper(), f" {person}")
            got = {await given(releases, f"{person} {n}", {"from": form}) for n, form in enumerate(forms)}
            assert len(got) == 1, (person, got)
            now |= {person} if got == {2} else set()
        assert before <= now and len(before) < len(now)
        before = now


async def test_a_canary_keeps_what_it_goes_by_until_it_is_told_otherwise(store: Store, vault: Vault) -> None:
    releases = await two(store, vault)
    assert (await releases.get("support", WHO.project, 2)).per is None
    moved = await releases.move("support", WHO.project, 2, "ada", to_share(0.1, "inputs.text"), dry_run=True)
    assert moved[0].after.per == "inputs.text"
    assert (await releases.get("support", WHO.project, 2)).per is None
    for share, per, wanted in (
        (0.1, "event", "event"),
        (0.2, None, "event"),
        (0.3, "person", "inputs.from"),
        (0.4, None, "inputs.from"),
        (0.5, " inputs.from + inputs.text ", "inputs.from + inputs.text"),
    ):
        assert (await releases.canary("support", WHO.project, 2, "ada", share, per=per)).per == wanted
    with pytest.raises(Invalid, match="cannot share 'support' per"):
        await releases.canary("support", WHO.project, 2, "ada", 0.6, per="inputs.customer")
    assert (await releases.get("support", WHO.project, 2)).share == 0.5


@pytest.mark.parametrize("per", ["event", None], ids=["its migration", "a node that knows of no keys"])
async def test_a_canary_from_before_there_were_keys_goes_on_by_event(
    store: Store, vault: Vault, per: str | None
) -> None:
    releases = await two(store, vault)
    await releases.canary("support", WHO.project, 2, "ada", 0.5)
    async with store.connection() as connection:
        await connection.execute("UPDATE releases SET per = %s WHERE version = 2", (per,))
    events = [f"e{number}" for number in range(60)]
    wanted = {event for event in events if bucket(WHO.project, "support", 2, event) < 0.6}
    assert (await releases.canary("support", WHO.project, 2, "ada", 0.6)).per == "event"
    same: dict[str, JSON] = {"from": "anna@exemple.fr"}
    assert {event for event in events if await given(releases, event, same) == 2} == wanted


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        ({"from": {"type": "string"}}, "inputs.from"),
        ({"text": {"type": "string"}, "customer": {"type": "integer"}, "from": {"type": "string"}}, "inputs.customer"),
        ({"email": {"type": ["string", "null"]}}, "inputs.email"),
        ({"customer": {"type": "object"}, "sender": {"type": "string"}}, "inputs.sender"),
        ({"to": {"type": "string"}, "text": {"type": "string"}}, "person"),
        ({}, "person"),
    ],
)
def test_the_input_that_says_whom_a_run_is_for_is_found(inputs: dict[str, JSON], wanted: str) -> None:
    assert per_person(version(1, inputs)) == checked("person", version(1, inputs)) == wanted


@pytest.mark.parametrize(
    ("per", "word"),
    [
        ("inputs.form", "'inputs.form'"),
        ("inputs.from ==", "cannot"),
        ("steps.a", "steps"),
        ("'always'", "every run is on one side"),
        ("inputs.from == 'a'", "gives boolean"),
        ("inputs.from + " * 200 + "'a'", "characters"),
    ],
)
def test_a_key_that_cannot_share_is_refused(per: str, word: str) -> None:
    with pytest.raises(Invalid) as told:
        checked(per, mail(1))
    assert word in told.value.message


def test_a_run_without_its_key_goes_by_whoever_asks_and_else_by_its_event() -> None:
    assert key("inputs.from", {"from": " Anna@Exemple.FR"}, asked=True) == "inputs:anna@exemple.fr"
    assert key("inputs.number", {"number": 12}) == key("inputs.number", {"number": 12.0}) == "inputs:12"
    assert key("inputs", {"b": 1, "a": 2}) == key("inputs", {"a": 2, "b": 1})
    for inputs in ({}, {"from": None}, {"from": ""}, {"from": "  "}):
        assert key("inputs.from", inputs) == "e1"
        assert key("inputs.from", inputs, asked=True) == "user:claire"
    assert key("person", {"from": "anna"}) == "e1" and key("person", {}, asked=True) == "user:claire"
    assert key("event", {"from": "anna"}, asked=True) == "e1"
    odd = key("inputs.from", {"from": "\ud800"})
    assert 0 <= bucket("p", "f", 1, odd) < 1


async def test_triggers_hand_in_what_keeps_their_runs_on_one_side(store: Store, vault: Vault) -> None:
    def made(number: int) -> Workflow:
        found = triggered(trigger("api"), inputs={"from": {"type": "string"}}, name="support")
        return replace(found, steps=(replace(found.steps[0], with_={"given": f"v{number}"}),), hash=f"{number}" * 64)

    house, releases = House(store, vault), Releases(store, vault)
    for number in (1, 2):
        await releases.create(made(number), WHO.project, "ada")
    await releases.promote("support", WHO.project, 1, "ada")
    room = Triggers.built(store, vault, Released(house.engine, releases), who, house.secrets)
    (deployed,) = await room.deployments.deploy(made(1), WHO, "ada")

    async def result(run: str | None) -> JSON:
        assert run is not None
        await house.engine.drain()
        return await house.engine.result(run)  # type: ignore[arg-type]  # an id as triggers give it

    await releases.canary("support", WHO.project, 2, "ada", 0.5)
    for person in ("anna@exemple.fr", "ben@exemple.fr", "zoe@exemple.fr"):
        wanted = "v2" if bucket(WHO.project, "support", 2, f"inputs:{person}") < 0.5 else "v1"
        for number in range(3):
            taken = await room.intake.take(deployed, Event(f"{person} {number}", {"from": person}))
            assert await result(taken.run) == wanted
        asker = replace(WHO, key_id=KeyId("key_shop"), name="shop", groups=frozenset())
        assert await result((await room.ask(asker, "support", {"from": person})).run) == wanted
    await releases.canary("support", WHO.project, 2, "ada", 0.5, per="inputs.from == '' ? 'x' : ''")
    for name in ("ann", "bob", "carl", "dora"):
        asker = replace(WHO, key_id=KeyId(f"key_{name}"), name=name, groups=frozenset())
        wanted = "v2" if bucket(WHO.project, "support", 2, f"user:{name}") < 0.5 else "v1"
        for _ in range(2):
            assert await result((await room.ask(asker, "support", {"from": "who@exemple.fr"})).run) == wanted
