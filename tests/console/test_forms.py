"""Forms of any schema, and what people say to each other on a task."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from metier.calls import JSON
from metier.store import Store
from metier.workflow.definition import Workflow
from tests.console.desk import Office, approval
from tests.workflow.flows import flow, step

SCHEMA: dict[str, JSON] = {
    "type": "object",
    "properties": {
        "decision": {"enum": ["approve", "changes", "reject"]},
        "edited": {
            "type": "object",
            "properties": {
                "subject": {"type": "string", "maxLength": 60},
                "amount": {"type": "number", "minimum": 0, "maximum": 500},
                "urgent": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
                "customer": {
                    "type": "object",
                    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": ["integer", "null"]}},
                    "required": ["name"],
                },
                "rows": {"type": "array", "items": {"type": "object"}},
            },
        },
        "channel": {"enum": ["mail", "phone", 3]},
        "on": {"type": "string", "format": "date"},
        "times": {"type": "integer", "minimum": 1, "maximum": 5},
        "address": {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "integer"}}},
    },
    "required": ["decision", "edited", "channel"],
    "additionalProperties": False,
}
DRAFT: dict[str, JSON] = {
    "subject": "Geste",
    "amount": 12.5,
    "urgent": True,
    "tags": ["a", "b"],
    "customer": {"name": "Zoé", "age": 30},
    "rows": [{"n": 1}],
    "kept": {"deep": True},
}


def asking() -> Workflow:
    config: JSON = {"assign": "group:sav", "title": "Décider", "edit": "steps.letter"}
    return flow(step("letter"), step("ask", "human", config, output=SCHEMA), output="{{ steps.ask }}", name="wide")


async def test_every_kind_of_field_goes_there_and_back(here: Office) -> None:
    here.given["letter"] = DRAFT
    task = await here.park(asking())
    path = f"/review/tasks/{task.id}"
    async with here.browser("zoe") as browser:
        page = await browser.get(path)
        for piece in ('type="date"', 'type="checkbox"', "<option", "de 0 à 500", "une par ligne", "\na\nb<", "Zoé"):
            assert piece in page.source, piece
        await browser.post(
            f"{path}/decide",
            **{
                "decision": "approve", "edited.amount": " 234,5 ", "edited.tags": " x \n\ny ",
                "edited.customer.name": "Ana", "edited.customer.age": "", "edited.subject": "Geste",
                "edited.rows": '[{"n": 2}]', "channel": "3", "on": "2026-03-31", "times": "2", "address.city": "Lyon",
            },
        )  # fmt: skip
    await here.engine.drain()
    assert await here.engine.result(task.run) == {
        "decision": "approve",
        "edited": {
            "subject": "Geste", "amount": 234.5, "urgent": False, "tags": ["x", "y"],
            "customer": {"name": "Ana", "age": None}, "rows": [{"n": 2}], "kept": {"deep": True},
        },
        "channel": 3, "on": "2026-03-31", "times": 2, "address": {"city": "Lyon"},
    }  # fmt: skip


async def test_each_field_says_what_is_wrong_and_nothing_typed_is_lost(here: Office) -> None:
    here.given["letter"] = DRAFT
    task = await here.park(asking())
    path = f"/review/tasks/{task.id}"
    wrong = {
        "edited.amount": ("beaucoup", "Écrivez un nombre."),
        "edited.rows": ("[{", "Ce n'est pas du JSON."),
        "on": ("31/03", "Écrivez une date"),
        "times": ("1,5", "Écrivez un nombre entier."),
    }
    worse = {
        "edited.amount": ("501", "Au plus 500."),
        "edited.tags": ("a\nb\nc\nd", "Au plus 3 lignes."),
        "edited.customer.name": ("", "Trop court"),
        "channel": ("", "À remplir."),
        "edited.subject": ("x" * 61, "60 caractères au plus"),
    }
    async with here.browser("zoe") as browser:
        await browser.get(path)
        for fields in (wrong, worse):
            typed = {name: text for name, (text, _) in fields.items()}
            page = await browser.post(f"{path}/decide", decision="approve", **typed, **{"task.note": "Mon motif"})
            assert page.status == 422 and "Mon motif" in page.source
            for name, (text, said) in fields.items():
                assert said in page.text and text in page.source, name
                assert f'aria-describedby="{name}-problem"' in page.source
        refused = await browser.post(f"{path}/decide", decision="changes", channel="mail")
        assert refused.status == 422 and "Dites ce qu'il faut changer." in refused.text
        english = await browser.post(f"{path}/decide?lang=en", decision="reject", channel="mail")
        assert "A rejection needs its reason." in english.text
        assert (await here.review.get(task.id)).state == "open"


async def test_a_comment_is_kept_and_what_is_being_typed_too(here: Office) -> None:
    task = await here.park(approval())
    path = f"/review/tasks/{task.id}"
    async with here.browser("zoe") as zoe, here.browser("max") as max_:
        await zoe.get(path)
        page = await zoe.post(f"{path}/comment", comment="Le client a rappelé <b>", **{"edited.body": "En cours"})
        assert page.status == 200 and "En cours" in page.source and "a rappelé &lt;b&gt;" in page.source
        plain = await zoe.post(f"{path}/comment", comment="Encore")
        assert plain.url == path and "Le commentaire est gardé" in plain.text
        empty = await zoe.post(f"{path}/comment", comment=" ", **{"edited.body": "En cours"})
        assert empty.status == 422 and "En cours" in empty.source
        seen = await max_.get(path)
        assert here.known("zoe") in seen.text and "Encore" in seen.text


async def test_a_hand_off_needs_words_and_shows_them_to_the_next(here: Office) -> None:
    task = await here.park(approval())
    path = f"/review/tasks/{task.id}"
    to = {"to.kind": "group", "to.name": "compta"}
    async with here.browser("zoe") as zoe, here.browser("eve") as eve:
        await zoe.get(path)
        page = await zoe.post(f"{path}/hand-off", **to, **{"edited.body": "En cours"})
        assert page.status == 422 and "En cours" in page.source and 'value="compta"' in page.source
        assert (await zoe.post(f"{path}/hand-off", **to, **{"to.note": "C'est une facture"})).url == "/review"
        seen = await eve.get(path)
        assert "C'est une facture" in seen.text and here.known("zoe") in seen.text


async def test_who_started_the_run_sees_why_they_do_not_decide(here: Office, store: Store) -> None:
    task = await here.park(approval())
    path = f"/review/tasks/{task.id}"
    zoe = here.issued["zoe"].key
    here.issued["robot"] = await here.keys.issue("robot", zoe.project, zoe.system, by="Camille", groups=["sav"])
    async with store.connection() as connection:
        await connection.execute("UPDATE runs SET key_id = %s", (here.issued["robot"].key.id,))
    async with here.browser("robot") as robot:
        page = await robot.get(path)
        assert "Vous avez lancé ce traitement" in page.text and "/decide" not in page.source
        assert (await robot.post(f"{path}/comment", comment="Merci de regarder")).status == 200
        assert (await robot.post(f"{path}/decide", decision="approve")).status == 403


async def test_an_absence_is_declared_and_the_substitute_is_told(here: Office) -> None:
    task = await here.park(approval(assign="user:eve"))
    today = datetime.now(UTC).date()
    days = {"from": str(today - timedelta(days=1)), "until": str(today + timedelta(days=3))}
    async with here.browser("eve") as eve, here.browser("max") as max_:
        assert (await max_.get(f"/review/tasks/{task.id}")).status == 404
        await eve.get("/review/absences")
        for odd in ({"until": "demain"}, {"until": "2020-01-01"}, {"name": "eve"}):
            fields = {**days, "kind": "user", "name": "max", **odd}
            page = await eve.post("/review/absences", **fields)
            assert page.status == 422 and f'value="{fields["name"]}"' in page.source
        page = await eve.post("/review/absences", **days, kind="user", name="max")
        assert page.status == 200 and "L'absence est déclarée" in page.text and "remplacement par max" in page.text
        seen = await max_.get(f"/review/tasks/{task.id}")
        assert seen.status == 200 and "Pour eve, en absence jusqu'au" in seen.text
        found = re.search(r'action="(/review/absences/[^"]+/end)"', page.source)
        assert found is not None
        await max_.get("/review")
        assert (await max_.post(found[1])).status == 404
        assert "Aucune absence" in (await eve.post(found[1])).text
        assert (await max_.get(f"/review/tasks/{task.id}")).status == 404
