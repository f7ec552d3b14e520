"""Runs that triggers start follow the releases of their flow, and the same event keeps the version it got."""

from __future__ import annotations

from dataclasses import replace

from metier.calls import JSON, KeyId
from metier.store import Store
from metier.triggers import Event, Released, Triggers
from metier.vault import Vault
from metier.workflow.releases import Releases
from metier.workflow.shape import Workflow
from tests.triggers.house import House, trigger, triggered, who
from tests.workflow.flows import WHO


def version(number: int) -> Workflow:
    made = triggered(trigger("api"), inputs={"text": {"type": "string"}}, name="support")
    return replace(made, steps=(replace(made.steps[0], with_={"given": f"v{number}"}),), hash=f"{number}" * 64)


async def test_events_start_the_version_released_to_whoever_they_work_for(store: Store, vault: Vault) -> None:
    house, releases = House(store, vault), Releases(store, vault)
    for number in (1, 2, 3):
        await releases.create(version(number), WHO.project, "ada")
    started = Released(house.engine, releases)
    room = Triggers.built(store, vault, started, who, house.secrets)
    (found,) = await room.deployments.deploy(version(1), WHO, "ada")

    async def taken(event: str) -> JSON:
        run = (await room.intake.take(found, Event(event, {"text": "Bonjour"}))).run
        assert run is not None
        await house.engine.drain()
        return await house.engine.result(run)

    assert await taken("e1") == "v1", "nothing is released yet: what was deployed runs"
    await releases.promote("support", WHO.project, 2, "ada")
    assert await taken("e2") == "v2"
    assert await taken("e1") == "v1", "an event keeps the run it has"
    await releases.promote("support", WHO.project, 3, "ada")
    await releases.rollback("support", WHO.project, 3, "ada")
    assert await taken("e3") == "v2"


async def test_pilots_are_told_by_the_key_that_asks_and_the_run_works_under_the_key_of_the_flow(
    store: Store, vault: Vault
) -> None:
    house, releases = House(store, vault), Releases(store, vault)
    for number in (1, 2):
        await releases.create(version(number), WHO.project, "ada")
    room = Triggers.built(store, vault, Released(house.engine, releases), who, house.secrets)
    await room.deployments.deploy(version(1), WHO, "ada")
    await releases.promote("support", WHO.project, 1, "ada")
    await releases.pilot("support", WHO.project, 2, "ada", ["user:claire", "group:sav-pilot"])
    claire = replace(WHO, key_id=KeyId("key_claire"), name="claire", groups=frozenset())
    zoe = replace(claire, key_id=KeyId("key_zoe"), name="zoe", groups=frozenset({"sav-pilot"}))
    marc = replace(claire, key_id=KeyId("key_marc"), name="marc")
    for asker, wanted in ((claire, "v2"), (zoe, "v2"), (marc, "v1")):
        for once in (None, f"order of {asker.name}"):
            run = (await room.ask(asker, "support", {"text": "Bonjour"}, once)).run
            assert run is not None
            await house.engine.drain()
            assert await house.engine.result(run) == wanted, asker.name
            async with store.connection() as connection:
                rows = await connection.execute("SELECT key_id FROM runs WHERE id = %(id)s", {"id": run})
                assert (await rows.fetchone() or {})["key_id"] == WHO.key_id
