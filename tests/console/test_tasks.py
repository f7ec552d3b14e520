"""A task from the list to its decision, as a browser without JavaScript sees it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from metier.calls import JSON
from metier.store import Store
from metier.workflow.definition import OnError
from tests.console.desk import LETTER, Office, approval, handoff, reviewer
from tests.workflow.flows import WHO, flow, step

SUBJECT, BODY = "edited.subject", "edited.body"


async def late(store: Store, task: str) -> None:
    async with store.connection() as connection:
        due = datetime.now(UTC) - timedelta(hours=2, minutes=5)
        await connection.execute("UPDATE tasks SET due_at = %s WHERE id = %s", (due, task))


async def test_the_list_says_what_is_late_and_who_has_it_in_hand(here: Office, store: Store) -> None:
    first = await here.park(approval(), subject="Un")
    second = await here.park(approval(due="1d"), subject="Deux")
    await here.park(approval(assign="group:compta"), subject="Trois")
    await late(store, first.id)
    await here.review.claim(second.id, reviewer("max", "sav"))
    async with here.browser("zoe") as browser:
        page = await browser.get("/review")
        assert page.text.index("Valider : Un") < page.text.index("Valider : Deux")
        assert "en retard de 2 h" in page.text and "dans 23 h 59 min" in page.text
        assert page.source.count('class="late"') == 1
        assert "max" in page.text and "groupe sav" in page.text and "Trois" not in page.text
    async with here.browser("eve") as browser:
        page = await browser.get("/review")
        assert "Trois" in page.text and "Un " not in page.text


async def test_a_long_list_has_pages(here: Office) -> None:
    workflow = approval()
    for number in range(52):
        await here.engine.start(workflow, {"text": "x", "subject": f"n{number:02}."}, WHO)
    await here.engine.drain()
    async with here.browser("zoe") as browser:
        page = await browser.get("/review")
        following = re.search(r'href="(/review\?after=[^"]+)"', page.source)
        assert following is not None
        rest = await browser.get(following[1])
        first, second = ({*re.findall(r"n\d\d\.", text)} for text in (page.text, rest.text))
        assert (len(first), len(second), len(first | second)) == (50, 2, 52)


async def test_an_empty_list_says_so(here: Office) -> None:
    async with here.browser("zoe") as browser:
        assert "Rien ne vous attend" in (await browser.get("/review")).text


async def test_a_task_shows_the_message_the_checks_and_the_sources(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as browser:
        page = await browser.get(f"/review/tasks/{task.id}")
    for words in (
        "Où est mon colis ?", "1 sur 2", "À corriger avant d'approuver", "« 30 » ne figure", "8 sur 10", "Un peu sec.",
        "Retour dans les délais.", "Priorité : haute", "Retours › Délai", "retours-1", "livraison-2",
    ):  # fmt: skip
        assert words in page.text, words
    assert re.findall(r"<mark>(.*?)</mark>", page.source) == ["Vous avez 14 jours calendaires"]
    assert page.text.index("retours-1") < page.text.index("livraison-2"), "what is cited comes first"
    assert "Bonjour,\n\nVous avez 14 jours pour changer" in page.source
    assert [int(level) for level in re.findall(r"<h(\d)", page.source)][:2] == [1, 2]


async def test_a_corrected_draft_reaches_the_run(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as browser:
        await browser.get(f"/review/tasks/{task.id}")
        page = await browser.post(
            f"/review/tasks/{task.id}/decide",
            decision="approve",
            **{SUBJECT: "Re: Retour\r\nBcc: x@y.example", BODY: "Bonjour,\r\n\r\nÀ bientôt 👋"},
        )
        assert (page.status, page.url) == (200, "/review")
        assert "C'est décidé" in page.text and "Rien ne vous attend" in page.text
        await here.engine.drain()
        (sent,) = here.sent
        assert sent == {
            "decision": "approve",
            "letter": {
                "subject": "Re: Retour Bcc: x@y.example",
                "body": "Bonjour,\n\nÀ bientôt 👋",
                "citations": LETTER["citations"],
            },
        }
        over = await browser.get(f"/review/tasks/{task.id}")
        assert "Cette tâche est terminée" in over.text and f"{here.known('zoe')} a décidé : Approuver" in over.text
        assert "/decide" not in over.source and "/claim" not in over.source


async def test_an_untouched_draft_leaves_as_it_was_and_a_rejection_is_one(here: Office) -> None:
    for choice in ("approve", "reject"):
        task = await here.park(approval())
        async with here.browser("zoe") as browser:
            page = await browser.get(f"/review/tasks/{task.id}")
            fields = dict(re.findall(r'name="(edited\.\w+)"[^>]*>\n(.*?)</textarea>', page.source, re.DOTALL))
            assert fields == {SUBJECT: LETTER["subject"], BODY: LETTER["body"].replace("'", "&#39;")}  # type: ignore[union-attr]  # it is text
            await browser.post(f"/review/tasks/{task.id}/decide", decision=choice, **{"task.note": "bon"})
        await here.engine.drain()
    assert here.sent == [{"decision": choice, "letter": LETTER} for choice in ("approve", "reject")]


async def test_what_does_not_fit_comes_back_as_it_was_written(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as browser:
        await browser.get(f"/review/tasks/{task.id}")
        for fields in ({"decision": "perhaps", BODY: "Mon texte"}, {"decision": "approve", BODY: "", SUBJECT: "Mien"}):
            page = await browser.post(f"/review/tasks/{task.id}/decide", **fields)
            assert page.status == 422 and "ne correspond pas" in page.text
            assert (fields.get(SUBJECT) or "Mon texte") in page.source
        assert (await here.review.get(task.id)).state == "open"


async def test_the_second_of_two_people_is_told_and_keeps_what_they_wrote(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as zoe, here.browser("max") as max_:
        for browser in (zoe, max_):
            await browser.get(f"/review/tasks/{task.id}")
        assert (
            await zoe.post(f"/review/tasks/{task.id}/decide", decision="reject", **{"task.note": "non"})
        ).status == 200
        page = await max_.post(f"/review/tasks/{task.id}/decide", decision="approve", **{BODY: "Une heure de travail"})
        assert page.status == 409
        assert (
            "Quelqu'un d'autre a été plus rapide" in page.text
            and f"{here.known('zoe')} a décidé : Rejeter" in page.text
        )
        assert "Une heure de travail" in page.text
    await here.engine.drain()
    assert [one["decision"] for one in here.sent if isinstance(one, dict)] == ["reject"]


async def test_a_reason_is_kept_with_the_decision_and_shown(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as zoe, here.browser("max") as max_:
        page = await zoe.get(f"/review/tasks/{task.id}")
        await max_.get(f"/review/tasks/{task.id}")
        assert 'name="task.note"' in page.source and "Motif" in page.text
        wrong = await zoe.post(f"/review/tasks/{task.id}/decide", decision="reject", **{"task.note": "x" * 10_001})
        assert wrong.status == 422 and "xxxx" in wrong.source
        why = "Trop sec.\n<b>À refaire</b>"
        assert (
            await zoe.post(f"/review/tasks/{task.id}/decide", decision="reject", **{"task.note": why})
        ).status == 200
        late = await max_.post(f"/review/tasks/{task.id}/decide", decision="reject", **{"task.note": "Moi aussi"})
        assert late.status == 409 and "Moi aussi" in late.text
        over = await max_.get(f"/review/tasks/{task.id}")
        assert "Trop sec." in over.text and "&lt;b&gt;À refaire" in over.source
    await here.engine.drain()
    assert here.sent == [{"decision": "reject", "letter": LETTER}], "what the run gets is what its task asked for"
    (kept,) = await here.review.of_run(task.run)
    assert (kept.note, kept.decided_by, kept.decided_id) == (why, "zoe", here.issued["zoe"].key.id)


async def test_two_people_of_one_name_are_two_people(here: Office) -> None:
    task = await here.park(approval())
    path = f"/review/tasks/{task.id}"
    await here.namesake("zoe", "other zoe")
    async with here.browser("zoe") as zoe, here.browser("other zoe") as other:
        await other.get(path)
        await zoe.get(path)
        await zoe.post(f"{path}/claim")
        assert (await other.post(f"{path}/decide", decision="approve")).status == 409
        assert (await other.post(f"{path}/release")).status == 409
        seen = await other.get(path)
        assert f"{here.known('zoe')} l'a en main" in seen.text and "/decide" not in seen.source
        assert here.known("zoe") != here.known("other zoe")
        assert "vous" not in (await other.get("/review")).text.split("Prise en main")[1]


async def test_a_task_in_hand_is_left_alone(here: Office) -> None:
    task = await here.park(approval())
    path = f"/review/tasks/{task.id}"
    async with here.browser("zoe") as zoe, here.browser("max") as max_:
        await zoe.get(path)
        await max_.get(path)
        page = await zoe.post(f"{path}/claim")
        assert page.url == path and "Vous l'avez en main" in page.text
        assert (await max_.post(f"{path}/claim")).status == 409
        seen = await max_.get(path)
        assert f"{here.known('zoe')} l'a en main" in seen.text and "/decide" not in seen.source
        assert "Vous avez 14 jours" in seen.text
        refused = await max_.post(f"{path}/decide", token=(await max_.get("/review")).token, decision="approve")
        assert refused.status == 409
        assert "remise à tous" in (await zoe.post(f"{path}/release")).text
        assert (await zoe.post(f"{path}/release")).status == 409
        await max_.get(path)
        assert (await max_.post(f"{path}/decide", decision="approve")).status == 200


async def test_a_task_of_others_does_not_exist(here: Office) -> None:
    task = await here.park(approval())
    path = f"/review/tasks/{task.id}"
    async with here.browser("eve") as browser:
        token = (await browser.get("/review")).token
        answers = [await browser.get(path), await browser.get("/review/tasks/task_none")]
        for act in ("claim", "release", "decide", "hand-off"):
            answers.append(
                await browser.post(
                    f"{path}/{act}", token=token, decision="approve", **{"to.kind": "group", "to.name": "x"}
                )
            )
        assert [page.status for page in answers] == [404] * 6
        assert {"Cette tâche n'existe pas" in page.text for page in answers} == {True}
        assert all("Retour" not in page.text for page in answers)
    found = await here.review.get(task.id)
    assert (found.state, found.assignee) == ("open", "group:sav")


async def test_a_task_is_handed_off_to_a_group_or_a_person(here: Office) -> None:
    task = await here.park(approval())
    path = f"/review/tasks/{task.id}"
    async with here.browser("zoe") as browser:
        await browser.get(path)
        for name in ("", " ", "x" * 101):
            wrong = await browser.post(f"{path}/hand-off", **{"to.kind": "group", "to.name": name, "to.note": "voyez"})
            assert wrong.status == 422 and "Transmettre" in wrong.text
        assert (
            await browser.post(f"{path}/hand-off", **{"to.kind": "robot", "to.name": "x", "to.note": "y"})
        ).status == 422
        page = await browser.post(f"{path}/hand-off", **{"to.kind": "user", "to.name": " eve ", "to.note": "voyez"})
        assert (page.url, "La tâche est transmise" in page.text) == ("/review", True)
        assert (await browser.get(path)).status == 404
    async with here.browser("eve") as browser:
        assert "Pour eve" in (await browser.get(path)).text
        assert (await browser.post(f"{path}/decide", decision="approve")).status == 200


async def test_a_case_without_a_draft_is_taken_with_a_note(here: Office) -> None:
    task = await here.park(handoff())
    path = f"/review/tasks/{task.id}"
    async with here.browser("zoe") as browser:
        page = await browser.get(path)
        assert "Je m'en charge" in page.text and "Retourner" in page.text and "Brouillon" not in page.text
        assert "Retour dans les délais." in page.text
        await browser.post(f"{path}/decide", decision="taken", note="Je l'appelle.\r\nCe soir.")
    await here.engine.drain()
    assert here.sent == [{"decision": "taken", "letter": "Je l'appelle.\nCe soir."}]


async def test_a_step_that_failed_is_given_its_result_by_hand(here: Office) -> None:
    schema: dict[str, JSON] = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    broken = step("docs", "tool", on_error=OnError(None, "human", "group:sav"), output=schema)
    run = await here.engine.start(flow(broken, output="{{ steps.docs.days }}"), {}, WHO)
    await here.engine.drain()
    path = f"/review/tasks/{(await here.task(run)).id}"
    async with here.browser("zoe") as browser:
        page = await browser.get(path)
        assert "Réessayer l'étape" in page.text and "Ce qui a échoué" in page.text
        wrong = await browser.post(f"{path}/decide", decision="output", **{"output.days": "trois"})
        assert wrong.status == 422 and "trois" in wrong.source and "nombre entier" in wrong.text
        assert (await browser.post(f"{path}/decide", decision="output", **{"output.days": "14"})).status == 200
    await here.engine.drain()
    assert await here.engine.result(run) == 14


async def test_what_the_calls_behind_a_draft_have_used_is_told(here: Office, store: Store) -> None:
    task = await here.park(approval())
    path = f"/review/tasks/{task.id}"
    call = (
        "INSERT INTO calls (id, at, key, project, system, model, deployment, operation, outcome, cost_eur, "
        "energy_low_kwh, energy_high_kwh, method, duration_s, masked, run) VALUES (%s, now(), 'k', 'p', 's', 'm', "
        "'d', 'chat', 'answered', 0.00105, %s, %s, 'm', 1, %s, %s)"
    )
    async with here.browser("zoe") as browser, store.connection() as connection:
        assert "Wh" not in (await browser.get(path)).text
        await connection.execute(call, ("c1", 0.0001, 0.0002, '{"iban": 2, "name": 1}', task.run))
        await connection.execute(call, ("c2", 0.0003, 0.0004, '{"name": 1}', task.run))
        page = await browser.get(path)
        for words in ("appels à un modèle : 2", "0,0021 €", "0,4 à 0,6 Wh (estimation)", "masquées : 3"):
            assert words in page.text, words
        await connection.execute(call, ("c3", None, None, "{}", task.run))
        assert "énergie non estimée" in (await browser.get(path)).text


async def test_without_a_database_a_page_says_so(here: Office, store: Store) -> None:
    async with here.browser("zoe") as browser:
        await store.__aexit__()
        page = await browser.get("/review")
        assert page.status == 503 and "La base de données ne répond pas" in page.text
        assert page.headers["content-security-policy"]
