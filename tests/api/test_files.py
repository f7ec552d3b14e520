from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
import yarl

from metier.api import multipart
from metier.api.server import application
from metier.batches import Batches, Files, Rules
from metier.errors import Broken, Mistaken
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.testing import StillClock
from metier.vault import Vault
from tests.api.client import ask
from tests.world import World, serve, world

RULES = Rules(file_mib=1, project_files=3, project_mib=2)
KIND = b"multipart/form-data; boundary=b"
LINES = b'{"custom_id": "a"}\r\n\r\n--no boundary\r\n' * 3000


def form(fields: dict[str, tuple[str | None, str | bytes]], boundary: str = "b") -> bytes:
    """Write a form as clients do: a name and perhaps a file name before each value."""
    written = b""
    for name, (filename, value) in fields.items():
        named = f'; filename="{filename}"' if filename else ""
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"{named}\r\n\r\n'
        written += head.encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n"
    return written + f"--{boundary}--\r\n".encode()


@dataclass(slots=True)
class Door:
    """A served world with small bounds, and a client for each of two projects."""

    here: World
    url: str
    ai: openai.AsyncOpenAI
    other: openai.AsyncOpenAI
    clock: StillClock
    files: Files

    async def send(self, method: str, path: str, body: Any = None, boundary: str = "b") -> tuple[int, Any]:
        """Send a request that no client would write; a form, where it has a body."""
        headers = {"authorization": f"Bearer {self.here.secret}"}
        if body is not None:
            headers["content-type"] = f"multipart/form-data; boundary={boundary}"
        url = yarl.URL(f"{self.url}/v1/files{path}", encoded=True)
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, data=body, headers=headers) as response,
        ):
            return response.status, await response.json()

    async def pieces(self) -> int:
        async with self.here.store.connection() as connection:
            found = await (await connection.execute("SELECT count(*) AS n FROM file_pieces")).fetchone()
        assert found is not None
        return int(found["n"])


@pytest.fixture
async def door(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Door]:
    """A real server, a clock that stands still."""
    clock = StillClock()
    async with world(store, vault, tmp_path, ScriptedProvider(says("ok"))) as here:
        files = Files(store, vault, RULES, clock=clock)
        here.batches = Batches(store, vault, files, clock=clock)
        project = await here.keys.create_project("Autre")
        second = await here.keys.issue("autre", project.id, here.principal.system, by="Camille")
        async with (
            serve(application(here)) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=here.secret, max_retries=0) as ai,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=second.secret, max_retries=0) as other,
        ):
            yield Door(here, url, ai, other, clock, files)


async def test_a_file_comes_back_as_it_was_sent(door: Door) -> None:
    sent = await door.ai.files.create(file=("dossier/Août.jsonl", LINES), purpose="batch")
    assert (sent.bytes, sent.filename, sent.purpose, sent.status) == (len(LINES), "Août.jsonl", "batch", "processed")
    assert sent.expires_at == int(door.clock().timestamp()) + 30 * 86_400
    assert (await door.ai.files.content(sent.id)).content == LINES
    assert await door.ai.files.retrieve(sent.id) == sent
    gone = await door.ai.files.delete(sent.id)
    assert (gone.deleted, await door.pieces()) == (True, 0)
    with pytest.raises(openai.NotFoundError):
        await door.ai.files.content(sent.id)


async def test_another_project_is_told_that_nothing_is_there(door: Door) -> None:
    sent = await door.ai.files.create(file=("a.jsonl", b"{}"), purpose="user_data")
    for attempt in (door.other.files.retrieve, door.other.files.content, door.other.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            await attempt(sent.id)
        assert refused.value.code == "not_found"
    assert [file async for file in door.other.files.list()] == []
    assert (await door.ai.files.retrieve(sent.id)).id == sent.id


async def test_files_are_listed_in_pages_by_purpose_and_order(door: Door) -> None:
    purposes: tuple[Any, ...] = ("batch", "user_data")
    sent = [await door.ai.files.create(file=(f"{n}", b"{}"), purpose=p) for n, p in enumerate(purposes)]
    assert [file.id async for file in door.ai.files.list(limit=1)] == [sent[1].id, sent[0].id]
    assert [file.id async for file in door.ai.files.list(limit=1, order="asc")] == [sent[0].id, sent[1].id]
    assert [file.id async for file in door.ai.files.list(purpose="user_data")] == [sent[1].id]
    for query in ("limit=0", "limit=x", "order=up", "colour=red", "limit=" + "9" * 30, "after=%ff&limit=%ff"):
        assert (await door.send("GET", f"?{query}"))[0] in (400, 422), query


async def test_sizes_and_numbers_have_bounds(door: Door) -> None:
    with pytest.raises(openai.APIStatusError) as large:
        await door.ai.files.create(file=("a", b"x" * (1024 * 1024 + 1)), purpose="batch")
    assert (large.value.status_code, await door.pieces()) == (413, 0)
    for n in range(2):
        await door.ai.files.create(file=(str(n), b"x" * 1024 * 1024), purpose="batch")
    with pytest.raises(openai.ConflictError, match="2 MiB"):
        await door.ai.files.create(file=("2", b"x"), purpose="batch")
    held = await door.pieces()
    assert held == 8
    [first, *_] = [file async for file in door.ai.files.list()]
    await door.ai.files.delete(first.id)
    for n in range(2):
        await door.ai.files.create(file=(str(n), b"x"), purpose="batch")
    with pytest.raises(openai.ConflictError, match="3 files"):
        await door.ai.files.create(file=("4", b"x"), purpose="batch")


async def test_a_file_ends_when_its_time_is_over(door: Door) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    sent = await door.ai.files.create(file=("a", b"{}"), purpose="batch", expires_after=expiry)
    assert sent.expires_at == int(door.clock().timestamp()) + 3600
    door.clock.forward(3599)
    assert await door.files.purge() == 0
    door.clock.forward(1)
    with pytest.raises(openai.NotFoundError):
        await door.ai.files.retrieve(sent.id)
    assert (await door.files.purge(), await door.pieces()) == (1, 0)
    for seconds in (3599, 30 * 86_400 + 1):
        with pytest.raises(openai.UnprocessableEntityError):
            await door.ai.files.create(
                file=("a", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": seconds}
            )
    assert await door.pieces() == 0


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"purpose": (None, "batch")}, 422, "file"),
        ({"purpose": (None, "batch"), "file": ("a", b"")}, 422, "file"),
        ({"file": ("a", b"x")}, 422, "purpose"),
        ({"purpose": (None, "fine-tune"), "file": ("a", b"x")}, 422, "purpose"),
        ({"purpose": (None, "batch_output"), "file": ("a", b"x")}, 422, "purpose"),
        ({"purpose": (None, b"\xff"), "file": ("a", b"x")}, 400, None),
        ({"purpose": (None, "p" * 2000), "file": ("a", b"x")}, 422, "purpose"),
        ({"purpose": (None, "batch"), "colour": (None, "red"), "file": ("a", b"x")}, 422, "colour"),
        ({"file": ("a", b"x"), "purpose": (None, "batch"), "expires_after[seconds]": (None, "1")}, 422,
         "expires_after"),
    ],
)  # fmt: skip
async def test_a_form_that_does_not_say_what_it_must_leaves_nothing(
    door: Door, fields: Any, status: int, param: str | None
) -> None:
    answered, body = await door.send("POST", "", form(fields))
    assert (answered, body["error"]["param"]) == (status, param)
    assert await door.pieces() == 0


async def test_a_file_may_come_before_what_it_is_for_and_in_chunks(door: Door) -> None:
    body = form({"file": ("a", LINES), "purpose": (None, "batch")})

    async def trickle() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 977):
            yield body[at : at + 977]

    status, sent = await door.send("POST", "", trickle())
    assert status == 200
    assert (await door.ai.files.content(sent["id"])).content == LINES


@pytest.mark.parametrize("body", [b"", b"x", b"--b", b"--b\r\n\r\n\r\nx\r\n--b--", b"--b\r\n" + b"h" * 9000])
async def test_what_is_no_form_is_refused(door: Door, body: bytes) -> None:
    status, answer = await door.send("POST", "", body)
    assert (status, answer["error"]["code"]) == (400, "mistaken")


async def test_who_leaves_in_the_middle_leaves_nothing(door: Door) -> None:
    half = form({"purpose": (None, "batch"), "file": ("a", b"x" * 700_000)})[:600_000]
    headers = [(b"authorization", f"Bearer {door.here.secret}".encode()), (b"content-type", KIND)]
    messages: list[Any] = [{"type": "http.request", "body": half, "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        assert len(messages) < 2 or await door.pieces() == 0
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/files", "query_string": b"", "headers": headers}
    await application(door.here)(scope, receive, send)
    assert (sent, messages, await door.pieces()) == ([], [], 0)


async def test_a_file_that_breaks_off_is_shorter_than_announced_and_never_holds_an_error(door: Door) -> None:
    sent = await door.ai.files.create(file=("a", b"x" * 600_000), purpose="user_data")
    async with door.here.store.connection() as connection:
        await connection.execute("DELETE FROM file_pieces WHERE number = 1")
    headers = {"authorization": f"Bearer {door.here.secret}"}
    messages: list[Any] = []
    scope = {"type": "http", "method": "GET", "path": f"/v1/files/{sent.id}/content", "query_string": b""}

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        messages.append(message)

    with pytest.raises(Broken):
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await application(door.here)({**scope, "headers": raw}, receive, send)
    assert dict(messages[0]["headers"])[b"content-length"] == b"600000"
    assert b"".join(message.get("body", b"") for message in messages[1:]) == b"x" * 256 * 1024


async def test_a_key_without_the_right_to_batches_is_refused(door: Door) -> None:
    response = await ask(application(door.here), "/v1/files", headers={"authorization": "Bearer sk-mt-0-0"})
    assert response.status == 401


def _forms() -> Iterator[tuple[bytes, bytes]]:
    for data in (b"", b"x", b"\r\n", b"\r\n--", b"\r\n--bounda", LINES, b"\r\n--boundarx\r\n" * 99):
        yield data, form({"a": (None, "un"), "file": ("f", data)}, "boundary")


@pytest.mark.parametrize("step", [1, 2, 3, 11, 10_000])
def test_a_form_is_cut_alike_however_its_bytes_are_parted(step: int) -> None:
    kind = b"multipart/form-data; boundary=boundary"
    for data, body in _forms():
        cutter = multipart.Cutter(kind)
        values: dict[str, bytes] = {}
        name, over = "", False
        for at in range(0, len(body), step):
            for each in cutter.feed(body[at : at + step]):
                if isinstance(each, multipart.Opened):
                    name = each.name
                    values[name] = b""
                elif isinstance(each, multipart.Ended):
                    over = True
                else:
                    values[name] += each
        assert (values, over) == ({"a": b"un", "file": data}, True)
        assert {name: found[0].data for name, found in multipart.read(body, kind).items()} == values


def test_a_form_of_too_many_fields_is_refused() -> None:
    cutter = multipart.Cutter(b"multipart/form-data; boundary=b")
    with pytest.raises(Mistaken, match="64"):
        cutter.feed(b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx\r\n' * 65)
