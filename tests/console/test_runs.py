"""The pages of runs: for those who look after them, in their project, with every button and the way back in time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metier.calls import JSON, ProjectId, RunId
from metier.workflow.shape import Workflow
from tests.console.desk import Office
from tests.workflow.flows import WHO, flow, step

ASK: JSON = {"assign": "group:sav", "title": "?"}
CHAIN = flow(step("a", with_={"mail": "{{ inputs.mail }}"}), step("ask", "human", ASK), step("b"), output=1)


async def started(here: Office, workflow: Workflow = CHAIN, project: str | None = None) -> RunId:
    """Start a run in the project of the reviewers, or another one."""
    who = replace(WHO, project=ProjectId(project or here.issued["ada"].key.project))
    run = await here.engine.start(workflow, {"mail": "jean.dupont@exemple.fr"}, who)
    await here.engine.drain()
    return run


async def test_runs_are_for_those_who_look_after_them_and_of_their_project(here: Office) -> None:
    mine, other = await started(here), await started(here, project="elsewhere")
    async with here.browser("ada", Accept_Language="en") as browser:
        assert "Runs" in (await browser.get("/review")).text
        page = await browser.get("/review/runs")
        assert mine in page.text and other not in page.text and "waiting for somebody" in page.text
        assert mine not in (await browser.get("/review/runs?status=stuck")).text
        assert mine in (await browser.get("/review/runs?status=parked&flow=flow")).text
        refused = await browser.get(f"/review/runs/{other}")
        assert (refused.status, "not of your project" in refused.text) == (404, True)
    async with here.browser("zoe", Accept_Language="en") as browser:
        assert "/review/runs" not in (await browser.get("/review")).source
        for path in ("/review/runs", f"/review/runs/{mine}"):
            assert (await browser.get(path)).status == 403
        assert (await browser.post(f"/review/runs/{mine}/cancel")).status == 403
    assert (await here.engine.get(mine)).status == "parked"


async def test_a_run_is_paused_let_go_on_and_cancelled(here: Office) -> None:
    run = await started(here)
    async with here.browser("ada", Accept_Language="fr") as browser:
        page = await browser.get(f"/review/runs/{run}")
        assert "Mettre en pause" in page.text and "dupont" not in page.source
        for what, said, status in (
            ("pause", "Elle est en pause", "paused"),
            ("unpause", "Elle continue", "pending"),
            ("cancel", "Elle est annulée", "cancelled"),
        ):
            page = await browser.post(f"/review/runs/{run}/{what}")
            assert said in page.text and (await here.engine.get(run)).status == status
        late = await browser.post(f"/review/runs/{run}/pause")
        assert (late.status, "pas été fait" in late.text) == (409, True)
    async with here.browser("ada") as browser:
        await browser.get(f"/review/runs/{run}")
        assert (await browser.post(f"/review/runs/{run}/cancel", token="forged")).status == 403


async def test_a_run_is_seen_as_it_stood_and_done_again_from_a_step(here: Office) -> None:
    run = await started(here, flow(step("a", with_={"n": 1}), step("b", with_={"n": 2}), output=1))
    async with here.browser("ada", Accept_Language="en") as browser:
        page = await browser.get(f"/review/runs/{run}?line=1")
        assert "As it stood after line 1 of 2" in page.text and "It did next: b" in page.text
        assert 'type="range"' in page.source
        assert "after line 2 of 2" in (await browser.get(f"/review/runs/{run}?line=99")).text
        page = await browser.get(f"/review/runs/{run}?again=b")
        assert "1 lines hold" in page.text
        assert (await browser.get(f"/review/runs/{run}?again=zz")).status == 404
        await browser.get(f"/review/runs/{run}?again=b")
        page = await browser.post(f"/review/runs/{run}/retry", step="b")
        assert "done again from there" in page.text and "Set aside by doing it again b" in page.text
    await here.engine.drain()
    assert (await here.engine.get(run)).status == "done"


@pytest.mark.parametrize("asked", ["line=x", "line=-1", "again=%00", "status=%00&flow=%00", "after=%00"])
async def test_what_makes_no_sense_in_an_address_breaks_nothing(here: Office, asked: str) -> None:
    run = await started(here)
    async with here.browser("ada") as browser:
        for path in (f"/review/runs/{run}", "/review/runs"):
            assert (await browser.get(f"{path}?{asked}")).status < 500


async def test_what_a_run_has_started_is_on_its_page(here: Office) -> None:
    config: JSON = {"over": "{{ [1, 2] }}", "max": 2, "as": "runs"}
    run = await started(here, flow(step("each", "foreach", config, steps=(step("q", "human", ASK),))))
    async with here.browser("ada", Accept_Language="en") as browser:
        page = await browser.get(f"/review/runs/{run}")
        below = await here.engine.below(run)
        assert len(below) == 2 and all(child.id in page.text for child in below)
        child = await browser.get(f"/review/runs/{below[0].id}")
        assert f"Part of {run}" in child.text and "again=" not in child.source
