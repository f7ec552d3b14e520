"""Runs that triggers start follow the releases of their flow, and the same event keeps the version it got."""

from __future__ import annotations

from dataclasses import replace

from metier.calls import JSON
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
