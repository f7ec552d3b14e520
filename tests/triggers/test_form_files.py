"""Files sent with a form: read as those of e-mails are, bounded, tamed, once, and refused in plain words."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import re
import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from metier.api import multipart
from metier.api.form_body import Held, Taking, read_files
from metier.api.server import application
from metier.api.starting import starts
from metier.calls import JSON
from metier.errors import Invalid, Mistaken, RateLimited
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.triggers.form import KIND, Field, Form
from metier.triggers.uploads import WHOLE, shown_size, tame
from metier.workflow.definition import parse
from tests.api.client import Response, ask
from tests.triggers.house import trigger, triggered
from tests.triggers.test_doors import Desk, Http

FILE: Mapping[str, JSON] = {"type": "object", "format": "file", "title": "Contrat"}
FILES: Mapping[str, JSON] = {"type": "array", "items": {"format": "file"}, "maxItems": 2, "title": "Preuves"}
INPUTS: Mapping[str, JSON] = {"text": {"type": "string"}, "contract": dict(FILE), "proofs": dict(FILES)}
ONCE = "n" * 24
NOTE = ("note.txt", "text/plain", "Bail canari-7731 signé.\r\n".encode())
Sent = Sequence[tuple[str, str | tuple[str, str, bytes]]]


@pytest.fixture
async def desk(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[Desk]:
    async with contextlib.AsyncExitStack() as stack:
        app = await stack.enter_async_context(build_for_tests(tmp_path, store.url, ScriptedProvider(says("x"))))
        yield Desk(app, Http(application(app, more=starts(app))), await caller(app, "desk"), "none")


async def formed(
    desk: Desk,
    inputs: Mapping[str, JSON] = INPUTS,
    required: Sequence[str] = ("text", "contract"),
    config: Mapping[str, JSON] | None = None,
    with_: Mapping[str, JSON] | None = None,
) -> str:
    flow = triggered(trigger("form", config, with_), inputs=inputs)
    flow.inputs["required"] = [*required]  # type: ignore[index]  # the schema is a dict made for this test
    (found,) = await desk.triggers.deployments.deploy(flow, desk.who, "ada")
    return desk.triggers.form_path(found)


def body(sent: Sent) -> bytes:
    """Write a form as browsers do."""
    parts = b""
    for name, value in sent:
        if isinstance(value, str):
            parts += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        else:
            head = f'name="{name}"; filename="{value[0]}"\r\nContent-Type: {value[1]}\r\n\r\n'
            parts += b"--b\r\nContent-Disposition: form-data; " + head.encode() + value[2] + b"\r\n"
    return parts + b"--b--\r\n"


async def send(desk: Desk, path: str, sent: Sent, language: str = "fr", **headers: str) -> Response:
    kind = {"content-type": "multipart/form-data; boundary=b", "accept-language": language, **headers}
    return await ask(desk.http.app, path, body(sent), headers=kind, method="POST")


def good(**more: tuple[str, str, bytes] | str) -> Sent:
    return [("_once", ONCE), ("text", "Voilà"), ("contract", NOTE), *more.items()]


async def test_files_of_a_form_reach_the_flow_as_those_of_an_e_mail_do_and_once(desk: Desk) -> None:
    path = await formed(desk)
    page = (await desk.http.get(path, headers={"accept-language": "fr"})).body.decode()
    assert 'enctype="multipart/form-data"' in page and "<script" not in page
    assert re.search(r'<input type="file" id="f-contract" name="contract" required [^>]*accept="\.pdf', page)
    assert re.search(r'id="f-proofs"[^>]* multiple>', page) and not re.search(r'id="f-contract"[^>]* multiple', page)
    assert "2 fichiers au plus, 10\u00a0Mo chacun" in page
    html = ("C:\\Users\\ada\\p.html", "text/html", b"<p>Preuve</p>")
    sent = [*good(), ("proofs", html), ("proofs", ("b.md", "TEXT/Markdown; x", b"# Deux"))]
    # Clicked twice, then once more: the second arrives while the first is read.
    for told in [*await asyncio.gather(send(desk, path, sent), send(desk, path, sent)), await send(desk, path, sent)]:
        assert told.status == 200 and 'role="status"' in told.body.decode()
    (run,) = await desk.runs()
    assert run == {
        "text": "Voilà",
        "contract": {
            "name": "note.txt",
            "media_type": "text/plain",
            "size": len(NOTE[2]),
            "text": "Bail canari-7731 signé.",
        },
        "proofs": [
            {"name": "p.html", "media_type": "text/html", "size": 13, "text": "Preuve"},
            {"name": "b.md", "media_type": "text/markdown", "size": 6, "text": "Deux"},
        ],
    }


async def test_what_is_in_a_file_stands_nowhere_in_the_clear(desk: Desk) -> None:
    path = await formed(desk)
    assert (await send(desk, path, good())).status == 200
    async with desk.app.store.connection() as connection:
        found = await connection.execute("SELECT table_name AS name FROM information_schema.tables WHERE "
                                         "table_schema = 'public' AND table_type = 'BASE TABLE'")  # fmt: skip
        tables = [row["name"] for row in await found.fetchall()]
        for table in tables:
            rows = await connection.execute(b'SELECT t::text AS row FROM "' + table.encode() + b'" t')
            for row in await rows.fetchall():
                assert "canari-7731" not in row["row"], table
                assert b"canari-7731".hex() not in row["row"], table
    assert "runs" in tables


async def test_a_field_nobody_chose_a_file_for_is_left_out_or_missing(desk: Desk) -> None:
    path, none = await formed(desk), ("", "application/octet-stream", b"")
    assert (await send(desk, path, good(proofs=none))).status == 200
    assert "proofs" not in (await desk.runs())[0]
    told = await send(desk, path, [("_once", "m" * 24), ("text", "Voilà <ici>"), ("contract", none)])
    assert told.status == 422 and "«\u00a0Contrat\u00a0» manque" in told.body.decode()
    assert "Voilà &lt;ici&gt;" in told.body.decode() and "choisissez de nouveau les fichiers" in told.body.decode()


def wrong(name: str = "grand.txt", data: bytes = b"x" * 2001) -> tuple[str, str, bytes]:
    return (name, "text/plain", data)


@pytest.mark.parametrize(
    ("sent", "french", "english"),
    [
        ([("contract", wrong(data=b""))], "«\u00a0grand.txt\u00a0» est vide", "'grand.txt' is empty"),
        ([("contract", wrong())], "«\u00a0grand.txt\u00a0» dépasse 2\u00a0ko", "'grand.txt' is larger than 2 kB"),
        ([("contract", wrong("a.txt", b"\xff\xfe\xfd"))], "aucun texte n’a pu être lu", "no text could be read from"),
        ([("contract", wrong("a.png", b"\x89PNG"))], "envoyez un PDF", "send a PDF whose text"),
        ([("contract", NOTE), ("contract", NOTE)], "a reçu 2 fichiers\u00a0: 1 au plus", "got 2 files: 1 at most"),
        ([("contract", NOTE), ("autre", NOTE)], "ne demande pas «\u00a0autre\u00a0»", "asks no 'autre'"),
        ([("contract", "du texte")], "est un fichier\u00a0: choisissez-en un", "is a file: choose one"),
    ],
)
async def test_a_file_that_cannot_be_taken_is_told_and_nothing_typed_is_lost(
    desk: Desk, sent: Sent, french: str, english: str
) -> None:
    path = await formed(desk, config={"limit": 2000})
    # The text stands after the file: it must be read though the file is refused.
    whole = [("_once", ONCE), *sent, ("text", "Mon long récit")]
    for language, word in (("fr", french), ("en", english)):
        told = await send(desk, path, whole, language)
        assert told.status == 422 and word in told.body.decode().replace("&#x27;", "'")
        assert "Mon long récit" in told.body.decode()
    assert await desk.runs() == [] and await desk.triggers.intake.letters() == []


async def test_a_file_in_place_of_a_text_and_files_too_large_together_are_refused(desk: Desk) -> None:
    path = await formed(desk, config={"limit": WHOLE})
    told = await send(desk, path, [("_once", ONCE), ("text", NOTE), ("contract", NOTE)])
    assert told.status == 422 and "ne prend pas de fichier" in told.body.decode()
    half = ("a.txt", "text/plain", b"x" * (WHOLE // 2))
    told = await send(desk, path, [("_once", ONCE), ("proofs", half), ("proofs", half), ("contract", NOTE)])
    assert told.status == 422 and "dépassent ensemble 20\u00a0Mo" in told.body.decode()
    told = await send(desk, path, good(proofs=("a.txt", "text/plain", b"mot " * 120_000)))
    assert told.status == 422 and "400000 au plus" in told.body.decode()
    assert await desk.runs() == []


async def test_programs_send_files_too_and_get_json(desk: Desk) -> None:
    path = await formed(desk)
    sent: Sent = [("text", "a"), ("contract", NOTE)]
    headers = {"accept": "application/json", "idempotency-key": "k" * 20}
    told = [await send(desk, path, sent, **headers) for _ in range(2)]
    assert [one.status for one in told] == [202, 202] and told[0].json["run"] == told[1].json["run"]
    refused = await send(desk, path, [("text", "a")], **{**headers, "idempotency-key": "l" * 20})
    assert (refused.status, refused.json["error"]["code"]) == (422, "invalid")
    refused = await desk.http.post(path, json={"text": "a", "contract": "b"})
    assert refused.status == 422 and "multipart/form-data" in refused.json["error"]["message"]
    cut = await ask(
        desk.http.app, path, body(sent)[:-9], method="POST", headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert cut.status == 400
    assert len(await desk.runs()) == 1


async def test_a_flow_that_takes_text_gets_the_text_of_a_file_its_form_asks_for(desk: Desk) -> None:
    path = await formed(
        desk,
        {"text": {"type": "string"}},
        ("text",),
        {"files": {"contract": 1, "proofs": 3}},
        {"text": "{{ event.contract.text + string(size(event.proofs)) }}"},
    )
    page = (await desk.http.get(path)).body.decode()
    assert page.count('type="file"') == 2 and "<textarea" not in page
    told = await send(desk, path, [("_once", ONCE), ("contract", NOTE), ("proofs", NOTE)])
    assert told.status == 200
    assert await desk.runs() == [{"text": "Bail canari-7731 signé.1"}]


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"limit": WHOLE + 1}, "limit"),
        ({"limit": True}, "limit"),
        ({"files": ["contract"]}, "files"),
        ({"files": {"a b": 1}}, "'a b'"),
        ({"files": {"contract": 21}}, "from 1 to 20"),
    ],
)
def test_a_form_that_asks_files_badly_is_not_deployed(config: Mapping[str, JSON], word: str) -> None:
    with pytest.raises(Invalid, match=re.escape(word)):
        KIND.check(config)


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\fakepath\\bail signé.pdf", "bail signé.pdf"),
        ("..", "file"),
        ("", "file"),
        ("a\x00\r\nb\u202e.pdf", "a b.pdf"),
        ("fdp\u202e\u200b.txt", "fdp.txt"),
        (".pdf", "file.pdf"),
        ("\ud800.txt", "?.txt"),
        ("é" * 300 + ".docx", "é" * 115 + ".docx"),
        ("x" * 300, "x" * 120),
        ("<script>alert(1)<!--.txt", "<script>alert(1)<!--.txt"),
    ],
)
def test_a_hostile_name_becomes_a_plain_one(sent: str, known: str) -> None:
    assert tame(sent) == known


@settings(max_examples=300, deadline=None)
@given(name=st.text(st.characters(), max_size=200))
def test_whatever_a_file_is_called_its_name_is_one_short_visible_line(name: str) -> None:
    found = tame(name)
    assert 0 < len(found) <= 120 and not set(found) & set("/\\\n\r\t\x00") and found.strip(" ") not in (".", "..")
    assert not [one for one in found if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co")]


async def test_files_are_written_in_the_language_of_flows(desk: Desk) -> None:
    made = parse(
        "flow: claim\nschema: 1\ntriggers:\n  - form: {limit: 5000}\n"
        "inputs:\n  contract: {type: object, format: file, title: Contrat}\n"
        "  proofs?: {type: array, items: {type: object, format: file}, maxItems: 99}\n  rest?: string\n"
        "steps:\n  - id: a\n    code: text.language\n    with: {text: '{{ inputs.contract.text }}'}\n",
        {},
    )
    (trigger_made,) = await desk.triggers.deployments.deploy(made, desk.who, "ada")
    path = desk.triggers.form_path(trigger_made)
    found = await desk.triggers.form(trigger_made.id, path.rpartition("/")[2])
    assert [(one.name, one.widget, one.required, one.most, one.is_list) for one in found.fields] == [
        ("contract", "file", True, 1, False),
        ("proofs", "file", False, 20, True),
        ("rest", "long", False, 1, False),
    ]
    assert found.file_bytes == 5000 and set(found.files) == {"contract", "proofs"}


async def test_a_name_with_markup_is_text_on_the_page(desk: Desk) -> None:
    path = await formed(desk)
    told = await send(desk, path, good(proofs=("<img src=x onerror=alert(1)>.txt", "text/plain", b"")))
    assert told.status == 422 and "<img" not in told.body.decode() and "&lt;img src=x" in told.body.decode()


FORM = Form("T", "", (Field("f", "F", "", "file", True), Field("t", "T", "", "text", True)), 1000)


def opened(name: str, filename: str | None = None) -> multipart.Opened:
    return multipart.Opened(name, filename)


async def test_a_form_that_stops_on_its_way_holds_nothing_for_long() -> None:
    whole = body(good())
    coming = iter([{"type": "http.request", "body": whole[:-20], "more_body": True}])

    async def receive() -> dict[str, object]:
        for part in coming:
            return part
        await asyncio.Event().wait()
        return {}

    head = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "method": "POST", "headers": head}, receive)
    with pytest.raises(Mistaken, match="stopped on its way"):
        await read_files(request, FORM, Taking(FORM, Held(5000)), is_json=False, stalls_s=0.05)


def test_bytes_of_files_are_held_within_a_bound_and_given_back() -> None:
    held = Held(1500)
    first, second = Taking(FORM, held), Taking(FORM, held)
    first.take([opened("f", "a.txt"), b"x" * 900])
    with pytest.raises(RateLimited):
        second.take([opened("f", "b.txt"), b"x" * 900])
    first.take([b"x" * 900])
    second.take([opened("f", "c.txt"), b"x" * 900])
    second.drop()
    first.drop()
    held.take(1500)


def test_a_form_whose_files_never_end_still_gives_what_came_before() -> None:
    taking = Taking(FORM, Held(5000))
    taking.take([opened("t"), b"r\xc3\xa9cit", opened("f", "a.txt"), b"x" * 10])
    with pytest.raises(Mistaken):
        taking.ended()
    taking.stop(FORM.file_bytes)
    values, uploads = taking.ended()
    assert values == {"t": "récit"} and uploads["f"][0].size == 1001
    with pytest.raises(Mistaken):
        Taking(FORM, Held(1)).take([opened("t"), b"x" * (1024 * 1024 + 1)])


def test_sizes_are_said_as_people_do() -> None:
    assert [shown_size(1_500_000, "fr"), shown_size(20_000_000, "en"), shown_size(800, "en")] == [
        "1,5\u00a0Mo",
        "20 MB",
        "0.8 kB",
    ]
