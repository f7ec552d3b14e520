"""What customers and models write stays text, whatever it holds and however long it is."""

from __future__ import annotations

import io
import re

import pytest

from metier.calls import JSON
from tests.console.desk import Office, approval

SCRIPT = "</textarea></div><script>alert(1)</script><img src=x onerror=alert(1)>"
TAGS = re.compile(r"<(script|img|iframe|svg|object|embed)\b|\son\w+\s*=", re.IGNORECASE)


def letter(text: str) -> dict[str, JSON]:
    return {"subject": text, "body": f"\n{text}\n", "citations": [{"id": text, "quote": text}, text]}


async def test_markup_is_shown_and_never_obeyed(here: Office) -> None:
    here.given |= {
        "docs": {"hits": [{"id": SCRIPT, "document": SCRIPT, "title": SCRIPT, "text": f"a {SCRIPT} b"}]},
        "check": {"verified": SCRIPT, "cited": SCRIPT, "findings": [{"fr": SCRIPT, "en": SCRIPT}, SCRIPT]},
        "grade": {"score": 1, "critique": SCRIPT},
        "policy": {"reason": SCRIPT, "priority": SCRIPT},
        "letter": letter(SCRIPT),
    }
    task = await here.park(approval(title="{{ inputs.subject }}"), text=SCRIPT, subject=SCRIPT)
    async with here.browser("zoe") as browser:
        listed = await browser.get("/review")
        shown = await browser.get(f"/review/tasks/{task.id}")
        wrong = await browser.post(f"/review/tasks/{task.id}/decide", decision=SCRIPT, **{"edited.body": SCRIPT})
        lost = await browser.get(f"/review/tasks/{SCRIPT}")
        after = await browser.get(f"/review?said={SCRIPT}&lang={SCRIPT}&after={SCRIPT}")
    for page in (listed, shown, wrong, lost, after):
        inside = re.sub(r"&lt;.*?&gt;", "", page.source)
        assert not TAGS.search(inside), TAGS.search(inside)
    assert shown.source.count("&lt;script&gt;") >= 10 and wrong.status == 422
    assert f"<mark>{SCRIPT.replace('<', '&lt;').replace('>', '&gt;')}</mark>" in shown.source


@pytest.mark.parametrize(
    "odd",
    [
        "\u202eexe.gpj\u202c \u2066abc مرحبا שלום",
        "a\x00b\x1b[31m\x7f\u200b\ufeff",
        "{{ 7 * 7 }} {% include 'x' %} {0} %s %(a)s",
        "mot" * 400_000,
    ],
    ids=["right-to-left", "control", "templates", "huge"],
)
async def test_odd_text_is_shown_as_it_is_and_comes_back_whole(here: Office, odd: str) -> None:
    here.given["letter"] = letter(odd)
    task = await here.park(approval(title="T {{ inputs.subject }}"), text=odd, subject=odd)
    async with here.browser("zoe") as browser:
        assert (await browser.get("/review")).status == 200
        page = await browser.get(f"/review/tasks/{task.id}")
        assert page.status == 200 and odd[:9] in page.source
        assert 'dir="auto"' in page.source and "<bdi>" in page.source
        sent = await browser.post(f"/review/tasks/{task.id}/decide", decision="approve", **{"edited.body": odd})
        assert sent.url == "/review"
    await here.engine.drain()
    (left,) = here.sent
    assert isinstance(left, dict) and isinstance(left["letter"], dict)
    assert left["letter"]["body"] == odd


async def test_a_form_that_is_too_large_or_no_text_is_refused(here: Office) -> None:
    task = await here.park(approval())
    url = f"{here.url}/review/tasks/{task.id}/decide"
    form = {"content-type": "application/x-www-form-urlencoded"}
    async with here.browser("zoe") as browser:
        for data in (b"a=" + b"x" * (5 << 20), b"a=%ff", b"\xff=1", b"&".join(b"a%d=1" % n for n in range(300))):
            async with browser.client.post(url, data=io.BytesIO(data), headers=form) as answer:
                assert answer.status == 400
                assert "Ce formulaire" in await answer.text()
    assert (await here.review.get(task.id)).state == "open"


async def test_an_address_that_is_none_is_an_answer_and_no_crash(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as browser:
        for path in ("/review/tasks/a%00b", "/review/deliveries/a%00b", "/review/deliveries/none"):
            assert (await browser.get(path)).status == 404, path
        assert (await browser.get("/review?after=%00")).status == 422
        await browser.get(f"/review/tasks/{task.id}")
        for name in ("a\x00b", "\x1b[31mred", "\u202egro"):
            sent = await browser.post(
                f"/review/tasks/{task.id}/hand-off", **{"to.kind": "group", "to.name": name, "to.note": "voyez"}
            )
            assert sent.status == 422, name
    assert (await here.review.get(task.id)).assignee == "group:sav"


async def test_what_is_shown_may_have_any_shape(here: Office) -> None:
    deep: JSON = "fond"
    for _ in range(100):
        deep = {"a": [deep]}
    here.given |= {
        "docs": {"hits": [1, None, {"id": 3}]},
        "check": {"verified": None, "cited": [], "findings": 3, "ok": "oui"},
        "grade": {"score": "dix", "critique": None},
        "policy": {"reason": 3, "deep": deep, "yes": True, "half": 0.5},
        "letter": {"subject": "S", "body": "B", "citations": {"a": 1}, "note": None},
    }
    task = await here.park(approval())
    async with here.browser("zoe") as browser:
        page = await browser.get(f"/review/tasks/{task.id}")
        assert page.status == 200 and "oui" in page.text and "0,5" in page.text
        await browser.post(f"/review/tasks/{task.id}/decide", decision="approve")
    await here.engine.drain()
    assert here.sent == [{"decision": "approve", "letter": here.given["letter"]}]
