"""The link of an e-mail: for one person and one task, once, and never by looking."""

from __future__ import annotations

import asyncio
import re

import pytest

from metier.errors import Conflict
from metier.store import Store
from metier.workflow.links import Links
from metier.workflow.review import TaskId
from tests.console.desk import LETTER, Office, approval, reviewer


async def linked(here: Office, person: str = "zoe") -> tuple[str, str]:
    """The task of a draft, and a link to it."""
    task = await here.park(approval())
    return task.id, "/review/links/" + await here.review.links.make(task, person)


async def test_looking_decides_nothing_and_a_button_opens_that_task_alone(here: Office) -> None:
    task, link = await linked(here)
    other = await here.park(approval(), subject="Autre")
    async with here.browser() as browser:
        for _ in range(3):
            page = await browser.get(link)
            assert page.status == 200 and "Regarder ne décide rien" in page.text and "14 jours" in page.text
            assert "À corriger avant d'approuver" in page.text and "« 30 » ne figure" in page.text
        assert (await here.review.get((await here.task(other.run)).id)).state == "open"
        page = await browser.post(link, do="open")
        assert (page.status, page.url) == (200, f"/review/tasks/{task}") and "Brouillon" in page.text
        assert (await browser.get(f"/review/tasks/{other.id}")).status == 401
        assert "Autre" not in (await browser.get("/review")).text
        assert (await browser.get("/review/absences")).status == 401
        await browser.get(f"/review/tasks/{task}")
        done = await browser.post(f"/review/tasks/{task}/decide", decision="approve")
        assert done.status == 200 and "C'est décidé" in done.text and "Autre" not in done.text
        assert (await browser.get(link)).status == 410
    kept = await here.review.get(TaskId(task))
    assert kept.decided_by == "zoe" and (kept.decided_id or "").startswith("link_")


async def test_a_link_approves_after_a_confirmation_and_only_once(here: Office) -> None:
    task, link = await linked(here)
    async with here.browser() as browser, here.browser() as second:
        await browser.get(link)
        await second.get(link)
        assert "C'est décidé" in (await browser.post(link, do="approve")).text
        late = await second.post(link, do="approve")
        assert late.status == 410 and "décidée, ou confiée" in late.text
    await here.engine.drain()
    assert here.sent == [{"decision": "approve", "letter": LETTER}]
    assert (await here.review.get(TaskId(task))).decided_by == "zoe"


async def test_a_link_that_was_used_or_is_too_old_says_so(here: Office, store: Store) -> None:
    _, link = await linked(here)
    async with here.browser() as browser, here.browser() as other:
        await browser.get(link)
        await browser.post(link, do="open")
        assert "déjà servi" in (await other.get(link)).text
        _, old = await linked(here)
        async with store.connection() as connection:
            await connection.execute("UPDATE task_links SET expires_at = now() - interval '1 second'")
        page = await other.get(old)
        assert page.status == 410 and "trop ancien" in page.text
        assert (await other.post(old, do="approve")).status == 403, "no form was shown, so none is taken"
        assert "trop ancien" in (await other.get(old + "?lang=fr")).text
        assert "too old" in (await other.get(old + "?lang=en")).text


@pytest.mark.parametrize("cut", [slice(None, -1), slice(None, 20), slice(1, None)])
async def test_a_link_that_was_altered_is_none(here: Office, cut: slice) -> None:
    _, link = await linked(here)
    async with here.browser() as browser:
        assert (await browser.get("/review/links/" + link.removeprefix("/review/links/")[cut])).status == 404
        assert (await browser.get(re.sub(r"\.(.)", lambda one: ".A" if one[1] != "A" else ".B", link))).status == 404


async def test_a_link_ends_with_a_hand_off_and_does_not_let_in_who_may_not_decide(here: Office, store: Store) -> None:
    task, link = await linked(here)
    _, own = await linked(here, "robot")
    async with store.connection() as connection:
        await connection.execute("UPDATE runs SET key_id = %s", (here.issued["eve"].key.id,))
    _, eves = await linked(here, "eve")
    async with store.connection() as connection:
        await connection.execute("UPDATE runs SET key_id = %s", (here.issued["eve"].key.id,))
    async with here.browser() as browser:
        page = await browser.get(eves)
        assert "Ouvrir la tâche" in page.text and "sans rien changer" not in page.text
        assert (await browser.post(eves, do="approve")).status == 403
        assert (await browser.get(own)).status == 200
        await here.review.hand_off(TaskId(task), reviewer("zoe", "sav"), "group:compta", "à vous")
        assert (await browser.get(link)).status == 410


async def test_the_visit_by_a_link_ends_after_an_hour(here: Office, store: Store) -> None:
    task, link = await linked(here)
    async with here.browser() as browser:
        await browser.get(link)
        await browser.post(link, do="open")
        async with store.connection() as connection:
            await connection.execute("UPDATE task_links SET used_at = now() - interval '61 minutes'")
        assert (await browser.get(f"/review/tasks/{task}")).status == 401


async def test_a_link_of_another_house_is_none(here: Office, store: Store) -> None:
    from_elsewhere = Links(store, type(here.vault)(bytes(32)))
    task = await here.park(approval())
    async with here.browser() as browser:
        assert (await browser.get("/review/links/" + await from_elsewhere.make(task, "zoe"))).status == 404


async def test_who_claimed_a_task_on_the_page_decides_it_by_the_link_of_the_reminder(here: Office) -> None:
    task, link = await linked(here)
    async with here.browser("zoe") as page, here.browser() as mail:
        await page.get(f"/review/tasks/{task}")
        await page.post(f"/review/tasks/{task}/claim")
        assert (await here.review.get(TaskId(task))).state == "claimed"
        await mail.get(link)
        assert "C'est décidé" in (await mail.post(link, do="approve")).text
    assert (await here.review.get(TaskId(task))).decided_by == "zoe"


async def test_a_link_opens_the_page_where_somebody_else_has_the_task_in_hand(here: Office) -> None:
    task, link = await linked(here)
    async with here.browser("max") as page, here.browser() as mail:
        await mail.get(link)
        await page.get(f"/review/tasks/{task}")
        await page.post(f"/review/tasks/{task}/claim")
        shown = await mail.post(link, do="approve")
        assert (shown.status, shown.url) == (200, f"/review/tasks/{task}") and "max" in shown.text
        await page.get(f"/review/tasks/{task}")
        await page.post(f"/review/tasks/{task}/release")
        await mail.get(f"/review/tasks/{task}")
        assert "C'est décidé" in (await mail.post(f"/review/tasks/{task}/decide", decision="approve")).text
    assert (await here.review.get(TaskId(task))).decided_by == "zoe"


async def test_of_a_page_a_link_and_a_terminal_at_once_one_decides(here: Office) -> None:
    for number in range(4):
        task, link = await linked(here)
        async with here.browser("max") as page, here.browser() as mail:
            await mail.get(link)
            await page.get(f"/review/tasks/{task}")
            terminal = here.review.decide(TaskId(task), reviewer("ida", "sav"), {"decision": "approve"})
            done = await asyncio.gather(
                page.post(f"/review/tasks/{task}/decide", decision="approve"),
                mail.post(link, do="approve"),
                terminal,
                return_exceptions=True,
            )
            assert not [one for one in done if isinstance(one, BaseException) and not isinstance(one, Conflict)]
        await here.engine.drain()
        assert len(here.sent) == number + 1
        events = [event.kind for event in await here.review.history(TaskId(task))]
        assert events.count("decided") == 1
