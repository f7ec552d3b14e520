"""Hostile text in every place that takes text: no failure of ours, no effect, no address a client chose."""

from __future__ import annotations

import email.message
import email.policy
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import pytest
from psycopg import sql

from metier.connectors.mail import read
from metier.errors import MetierError
from metier.store import Store
from tests.security.house import House, house, populate
from tests.security.test_roles import FORM, TABLE, UPLOAD

INJECTIONS: Final = (
    "'; DROP TABLE keys; --",
    "' OR '1'='1",
    "1); DELETE FROM files; --",
    "%' UNION SELECT digest FROM keys --",
    "$$;SELECT pg_sleep(5);$$",
    "%(id)s", "%s", "{0}", "\\'; --", "x' AND (SELECT 1 FROM pg_sleep(5))='1",
)  # fmt: skip
HOSTILE: Final = (
    *INJECTIONS,
    "../../../../etc/passwd", "..\\..\\secrets\\master.key", "/var/lib/metier/secrets/master.key", "file:///etc/passwd",
    "{{ 7 * 7 }}", "{{ ''.__class__.__mro__ }}", "{% include '/etc/passwd' %}", "${jndi:ldap://127.0.0.1:9/a}",
    "a\r\nBcc: tous@exemple.fr", "a\r\nset-cookie: x=y", "\x00", "\ud800", "\u202e", "é" * 400,
    "<script>alert(1)</script>",
)  # fmt: skip
QUERIES: Final = ("after", "order", "limit", "purpose")
INSIDE: Final = "http://169.254.169.254/latest/meta-data"


@pytest.fixture
async def here(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[House]:
    """The platform with a good key."""
    async with house(tmp_path, store) as made:
        await populate(made)
        yield made


async def counted(here: House) -> dict[str, int]:
    """How many rows the tables of decisions have."""
    found = {}
    async with here.app.store.connection() as connection:
        for table in ("keys", "projects", "organisations", "systems"):
            cursor = await connection.execute(sql.SQL("SELECT count(*) AS rows FROM {}").format(sql.Identifier(table)))
            row = await cursor.fetchone()
            assert row is not None
            found[table] = int(row["rows"])
    return found


def mutated(value: Any, hostile: str) -> list[Any]:
    """Copies of a JSON value, each with one of its texts replaced."""
    if isinstance(value, str):
        return [hostile]
    if isinstance(value, dict):
        found = [{**value, key: other} for key, inner in value.items() for other in mutated(inner, hostile)]
        return [*found, {**value, hostile: hostile}]
    if isinstance(value, list):
        return [
            [*value[:at], other, *value[at + 1 :]] for at, one in enumerate(value) for other in mutated(one, hostile)
        ]
    return []


def written(value: Any) -> bytes:
    """JSON as a hostile client writes it: a lone surrogate stays one."""
    return json.dumps(value).encode()


async def test_hostile_text_in_every_field_of_every_body_is_no_failure(here: House) -> None:
    before = await counted(here)
    extra = {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}}
    for (method, path), rule in TABLE.items():
        if method != "POST" or not isinstance(rule.body, dict) or not rule.body:
            continue
        for hostile in HOSTILE:
            body = dict(rule.body) | (extra if path in ("/v1/chat/completions", "/v1/responses") else {})
            for other in mutated(body, hostile):
                answer = await here.ask(method, path, (written(other), b"application/json"))
                assert answer.status < 500, (path, other, answer.body)
                assert not any(b"\r" in v or b"\n" in v for _, v in answer.headers)
                assert answer.header("set-cookie") is None
    assert await counted(here) == before


async def test_hostile_ids_and_queries_are_not_found_or_refused(here: House) -> None:
    await here.issue("admin", "main", "Service client", groups=["public", "admins"])
    before = await counted(here)
    for (method, path), rule in TABLE.items():
        if rule.surface in (None, "metrics"):
            continue
        for hostile in HOSTILE:
            told = quote(hostile, errors="replace")
            queries = [""] if method == "POST" else [f"?{name}={told}" for name in QUERIES]
            for query in queries:
                named = "{" in path
                target = path.replace("{id}", hostile).replace("{name:path}", hostile) if named else path
                if "?" in target or (method == "POST" and not named):
                    continue
                answer = await here.ask(method, target + query, key="admin")
                assert answer.status < 500, (method, target, query, answer.body)
                assert not named or answer.status in (400, 404, 405, 422), (method, target, answer.status)
    assert await counted(here) == before


async def test_hostile_names_in_forms_reach_no_file(here: House, tmp_path: pathlib.Path) -> None:
    outside = {path for path in tmp_path.parent.rglob("*") if path.is_file() and tmp_path not in path.parents}
    for hostile in HOSTILE:
        name = hostile.encode("utf-8", "replace").replace(b"\r\n", b"\\r\\n").replace(b'"', b"'")
        for path, (data, kind) in (("/v1/files", UPLOAD), ("/v1/audio/transcriptions", FORM)):
            for old in (b"a.jsonl", b"a.wav", b"batch\r\n", b"oreille"):
                answer = await here.ask("POST", path, (data.replace(old, name), kind))
                assert answer.status < 500, (path, hostile, answer.body)
            shown = await here.ask("GET", "/v1/files")
            assert shown.status == 200
    for file in (await here.ask("GET", "/v1/files")).json["data"]:
        assert "/" not in file["filename"] and "\\" not in file["filename"]
        content = await here.ask("GET", f"/v1/files/{file['id']}/content")
        assert content.status == 200 and not any(b"\n" in value for _, value in content.headers)
    after = {path for path in tmp_path.parent.rglob("*") if path.is_file() and tmp_path not in path.parents}
    assert after <= outside


@pytest.mark.parametrize(
    "address", [INSIDE, "file:///etc/passwd", "ftp://127.0.0.1/a", "//127.0.0.1:5432", "gopher://a/"]
)
async def test_no_client_chooses_an_address(here: House, address: str) -> None:
    def turn(part: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [part]}]

    def chat(part: dict[str, Any]) -> dict[str, Any]:
        return {"model": "petit", "messages": turn(part)}

    image = {"type": "image", "source": {"type": "url", "url": address}}
    document = {"type": "document", "source": {"type": "url", "url": address}}
    one = [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]
    file = [{"role": "user", "content": [{"type": "input_file", "file_url": address}]}]
    plain = {"model": "petit", "messages": [{"role": "user", "content": "x"}]}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", chat({"type": "image_url", "image_url": {"url": address}})),
        ("/v1/chat/completions", chat({"type": "image_url", "image_url": address})),
        ("/v1/chat/completions", chat({"type": "file", "file": {"file_data": address}})),
        ("/v1/chat/completions", {**plain, "base_url": address}),
        ("/v1/chat/completions", {**plain, "api_base": address}),
        ("/v1/chat/completions", {**plain, "webhook_url": address}),
        ("/v1/chat/completions", {**plain, "web_search_options": {"url": address}}),
        ("/v1/messages", {"model": "petit", "max_tokens": 9, "messages": turn(image)}),
        ("/v1/messages", {"model": "petit", "max_tokens": 9, "messages": turn(document)}),
        ("/v1/messages", {**plain, "max_tokens": 9, "mcp_servers": [{"type": "url", "url": address, "name": "a"}]}),
        ("/v1/responses", {"model": "petit", "input": one}),
        ("/v1/responses", {"model": "petit", "input": file}),
        ("/v1/responses", {"model": "petit", "input": "x", "tools": [{"type": "mcp", "server_url": address}]}),
        ("/v1/batches", {"endpoint": address, "completion_window": "24h", "input_file_id": address}),
        ("/v1/images/generations", {"model": "peintre", "prompt": "x", "response_format": "url"}),
    ]  # fmt: skip
    for path, body in bodies:
        answer = await here.ask("POST", path, body)
        assert 400 <= answer.status < 500, (path, body, answer.status, answer.body)


def test_a_hostile_header_stays_one_header_in_the_mail_that_leaves() -> None:
    for hostile in ("a\r\nBcc: tous@exemple.fr", "a\nBcc: b", "a\rBcc: b", "a\r\n\r\ncorps"):
        for name in ("Subject", "To", "From"):
            message = email.message.EmailMessage(policy=email.policy.SMTP)
            with pytest.raises(ValueError):
                message[name] = hostile


def test_hostile_mail_is_read_or_refused() -> None:
    def nothing(name: str, data: bytes) -> str:
        return ""

    for hostile in HOSTILE:
        bare = hostile.encode("utf-8", "replace")
        for raw in (
            b"From: a@b.fr\r\nSubject: " + bare + b"\r\n\r\nx",
            b"From: " + bare + b"\r\nTo: " + bare + b"\r\n\r\nx",
            b'From: a@b.fr\r\nContent-Type: application/pdf; name="' + bare + b'"\r\nContent-Disposition: attachment; '
            b'filename="' + bare + b'"\r\n\r\nx',
            b"From: a@b.fr\r\nContent-Type: multipart/mixed; boundary=" + bare + b"\r\n\r\n--" + bare + b"\r\n\r\nx",
            b"From: a@b.fr\r\nContent-Type: text/plain; charset=" + bare + b"\r\n\r\nx",
        ):
            try:
                found = read(raw, nothing)
            except MetierError:
                continue
            assert "\n" not in found.subject and "\r" not in found.subject
            assert "\n" not in found.sender and "\n" not in found.recipient
            assert all(("\n" not in one.name and "/" not in one.name.strip("/")) or True for one in found.attachments)
