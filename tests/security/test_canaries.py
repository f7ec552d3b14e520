"""Planted secrets are found nowhere: no log, metric, span, table, file, answer or command, whatever goes wrong."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import pathlib
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import orjson
import pytest
from aiohttp import web
from click.testing import CliRunner

from metier.calls import Call, Chunk
from metier.catalog import Deployment
from metier.cli import main
from metier.errors import MetierError
from metier.policy.limits import Limit
from metier.providers.scripted import ScriptedProvider
from metier.settings import read_config
from metier.store import Store
from tests.security.canaries import Canaries, dumped, files, logged
from tests.security.echo import OUTCOMES, Echo, echo
from tests.security.house import MODELS, Answer, House, answered, exposition, house, send

PROMPT: Final = "Voici mon secret : "
_HELD: Final = ("metier.yaml", "master.key")
"""The two files that hold secrets by design."""


class Breaking(ScriptedProvider):
    """Raises what no provider should, with a secret in its message."""

    def __init__(self, secret: str) -> None:
        super().__init__(answer=answered)
        self.secret = secret

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Answer, or break."""
        if deployment.model_id == "breaks":
            raise ZeroDivisionError(self.secret)
        async for chunk in super().stream(call, deployment):
            yield chunk


@dataclass(slots=True)
class Trap:
    """The platform with secrets in every place that may hold one, and all that it said."""

    house: House
    upstream: Echo
    canaries: Canaries
    told: list[bytes]
    """What the collector of spans was sent."""
    mail: list[bytes]
    home: pathlib.Path

    async def ask(self, path: str, body: Mapping[str, Any] | tuple[bytes, bytes], method: str = "POST") -> Answer:
        """Send a request with a secret in every header that may hold one; what comes back is searched."""
        data, kind = body if isinstance(body, tuple) else (orjson.dumps(dict(body)), b"application/json")
        secret = self.house.keys["right"].secret
        headers = [
            (b"content-type", kind),
            (b"authorization", f"Bearer {secret}".encode()),
            (b"x-api-key", self.canaries.found["header x-api-key"].encode()),
            (b"cookie", f"session={self.canaries.found['header cookie']}".encode()),
            (b"proxy-authorization", f"Basic {self.canaries.found['header proxy']}".encode()),
            (b"anthropic-beta", self.canaries.found["header beta"].encode()),
            (b"traceparent", f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01".encode()),
        ]
        answer = await send(self.house.asgi, method, path, data, headers)
        self.canaries.look(f"answer {answer.status} of {path} ({self.upstream.outcome})", answer.whole, ("prompt",))
        return answer


def models(url: str, c: Canaries) -> dict[str, Any]:
    """Deployments of every provider, all of them at one address, each with secrets of its own."""

    def served(provider: str, operation: str = "chat", **more: Any) -> dict[str, Any]:
        entry = {"provider": provider, "model_id": "m", "base_url": url, "price": {"input": 1, "output": 4}, **more}
        return {"operation": operation, "deployments": [entry]}

    amazon = {"region": "eu-west-3", "access_key_id": c.new("aws id"), "secret_access_key": c.new("aws secret")}
    entra = {"tenant_id": "t", "client_id": "i", "client_secret": c.new("entra secret"), "authority": url}
    found = {
        "gpt": served("openai", api_key=c.new("openai key"), options={"organization": c.new("openai organisation")}),
        "mistral": served("mistral", api_key=c.new("mistral key")),
        "claude": served("anthropic", api_key=c.new("anthropic key")),
        "azure": served("azure", api_key=c.new("azure key")),
        "entra": served("azure", options=entra),
        "gemini": served("gemini", api_key=c.new("gemini key")),
        "bedrock": served("bedrock", options={**amazon, "session_token": c.new("aws token")}),
        "vecteurs": served("openai", "embed", api_key=c.new("embedding key")),
        "trieur": served("openai", "rerank", api_key=c.new("rerank key")),
        "oreille": served("openai", "transcribe", api_key=c.new("sound key")),
        "peintre": served("openai", "image", api_key=c.new("image key")),
    }
    found["nowhere"] = served("openai", base_url="http://127.0.0.1:9/v1", api_key=c.new("key of a dead server"))
    broken = {"provider": "scripted", "model_id": "breaks", "price": {"input": 1, "output": 4}}
    found["casse"] = {"deployments": [broken]}
    found["ombre"] = {**copy.deepcopy(MODELS["petit"]), "shadow": [{"use": "casse", "percent": 100}]}
    found["petit"] = copy.deepcopy(MODELS["petit"])
    return found


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Takes spans, and says what it got in a refusal every other time."""
    told: list[bytes] = []

    async def handle(request: web.Request) -> web.Response:
        told.append(repr(dict(request.headers)).encode() + await request.read())
        return web.Response(status=200 if len(told) % 2 else 400, text=told[-1].decode("utf-8", "replace"))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}", told
    finally:
        await runner.cleanup()


@asynccontextmanager
async def mail_server() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Refuses who signs in, and repeats the words it was given."""
    told: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            told.append(line)
            word = line[:4].upper()
            if word == b"EHLO":
                writer.write(b"250-here\r\n250 AUTH PLAIN LOGIN\r\n")
            elif word == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"535 5.7.8 refused: " + line.strip() + b"\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], told
    finally:
        server.close()


@pytest.fixture
async def trap(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[Trap]:
    """Plant everything and open the house."""
    c = Canaries()
    async with echo() as upstream, collector() as (otlp, told), mail_server() as (smtp, mail):
        master = secrets.token_bytes(32)
        c.keep("master key", master.hex())
        hook = f"http://{otlp}/{c.new('path of a webhook')}?token={c.new('query of a webhook')}"
        config = {
            "models": models(upstream.url, c),
            "alerts": {"webhooks": [{"url": hook, "secret": c.new("webhook secret")}], "emails": ["a@exemple.fr"]},
        }
        for header in ("x-api-key", "cookie", "proxy", "beta"):
            c.new(f"header {header}")
        c.new("prompt")
        breaking = Breaking(c.new("exception"))
        settings = {
            "config": config,
            "master_key": master,
            "otlp_url": f"http://user:{c.new('collector password')}@{otlp}",
            "smtp_url": f"smtp://user:{c.new('mail password')}@127.0.0.1:{smtp}",
            "mail_from": "metier@exemple.fr",
            "log_level": "debug",
        }
        async with house(tmp_path, store, breaking, settings=settings) as made:
            issued = await made.issue("right", "main", "Service client")
            await made.app.records.keepings.decide(issued.key.system, "tests", "tests", capture="full")
            await made.app.records.contents.refresh()
            c.keep("virtual key", issued.secret.split("-", 3)[3])
            yield Trap(made, upstream, c, told, mail, tmp_path)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that any library logs, at every level."""
    with caplog.at_level(logging.DEBUG):
        yield caplog


def bodies(model: str, prompt: str, stream: bool) -> list[tuple[str, Mapping[str, Any]]]:
    """A request to each surface that chats."""
    turn = [{"role": "user", "content": PROMPT + prompt}]
    return [
        ("/v1/chat/completions", {"model": model, "messages": turn, "stream": stream}),
        ("/v1/responses", {"model": model, "input": PROMPT + prompt, "stream": stream}),
        ("/v1/messages", {"model": model, "messages": turn, "max_tokens": 9, "stream": stream}),
    ]


async def everywhere(trap: Trap, log: pytest.LogCaptureFixture) -> None:
    """Search every place where something is written down."""
    app, c = trap.house.app, trap.canaries
    await app.ledger.flush()
    if app.spans is not None:
        await app.spans.flush()
    c.look("metrics", await exposition(app))
    for name, data in (await dumped(app.store)).items():
        c.look(f"table {name}", data)
    for name, data in files(trap.home, _HELD).items():
        c.look(f"file {name}", data)
    c.look("logs", logged(record for record in log.records if record.name != "aiohttp.access"))
    # Who sends to a collector shows it the password of the collector, and nothing else.
    for data in trap.told:
        c.look("spans and alerts", data, ("collector password", "path of a webhook", "query of a webhook"))
    c.none()


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_no_secret_is_told_whatever_a_provider_does(
    trap: Trap, log: pytest.LogCaptureFixture, outcome: str
) -> None:
    trap.upstream.outcome = outcome
    prompt = trap.canaries.found["prompt"]
    for model in ("gpt", "mistral", "claude", "azure", "entra", "gemini", "bedrock"):
        for stream in (False, True):
            for path, body in bodies(model, prompt, stream):
                answer = await trap.ask(path, body)
                assert outcome in ("cut", "mid-stream") or answer.status >= 400, (model, path, answer.body)
    await trap.ask("/v1/embeddings", {"model": "vecteurs", "input": prompt})
    await trap.ask("/v1/rerank", {"model": "trieur", "query": prompt, "documents": ["a"]})
    await trap.ask("/v1/images/generations", {"model": "peintre", "prompt": prompt})
    assert any(trap.canaries.found["openai key"] in seen for seen in trap.upstream.told), "the trap is not set"
    await everywhere(trap, log)


async def test_no_secret_is_told_by_what_breaks_or_is_kept(trap: Trap, log: pytest.LogCaptureFixture) -> None:
    prompt = trap.canaries.found["prompt"]
    for model in ("casse", "nowhere", "petit", "ombre", "inconnu"):
        for stream in (False, True):
            for path, body in bodies(model, prompt, stream):
                await trap.ask(path, body)
    await trap.house.app.gateway.shadows.settle()
    line = orjson.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": prompt}})
    form = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="' + prompt.encode() + b'"\r\n\r\n'
        + line + b"\r\n--b--\r\n"
    )  # fmt: skip
    assert (await trap.ask("/v1/files", (form, b"multipart/form-data; boundary=b"))).status == 200
    await everywhere(trap, log)


async def test_no_secret_is_told_by_paths_queries_and_wrong_keys(trap: Trap, log: pytest.LogCaptureFixture) -> None:
    c = trap.canaries
    wrong = c.new("wrong key", "sk-mt-0123456789ab-")
    for path in ("/v1/models", "/v1/responses/x", "/metrics", "/review", "/v1/files"):
        for header in (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"):
            value = f"Bearer {wrong}" if header == b"authorization" else wrong
            answer = await send(
                trap.house.asgi, "GET", path, headers=[(header, value.encode())], client="203.0.113.9",
                query=f"key={c.found['virtual key']}&api_key={wrong}".encode(),
            )  # fmt: skip
            c.look(f"answer {answer.status} of {path}", answer.whole)
    token = orjson.dumps({"model": "petit", "messages": wrong, "metadata": {"key": wrong}})
    await trap.ask("/v1/chat/completions", (token[: len(token) // 2], b"application/json"))
    await everywhere(trap, log)


async def test_no_secret_is_told_when_mail_and_webhooks_are_refused(trap: Trap, log: pytest.LogCaptureFixture) -> None:
    app = trap.house.app
    soft = Limit("", "organisation", "main", "money", "total", Decimal("0.00001"), "alert")
    await app.admission.limits.set(soft, "tests")
    for _ in range(3):
        await trap.ask(*bodies("petit", "x", False)[0])
        await app.ledger.flush()
    await app.admission.alerts.deliver()
    assert trap.mail and trap.told, "the trap is not set"
    await everywhere(trap, log)


async def test_what_is_stored_of_a_key_is_a_keyed_digest(trap: Trap) -> None:
    app, issued = trap.house.app, trap.house.keys["right"]
    secret = issued.secret.split("-", 3)[3].encode()
    async with app.store.connection() as connection:
        row = await (await connection.execute("SELECT digest FROM keys WHERE id = %s", (issued.key.id,))).fetchone()
    assert row is not None
    stored = bytes(row["digest"])
    assert stored == app.vault.digest("key", secret)
    assert stored not in (hashlib.sha256(secret).digest(), hashlib.sha512(secret).digest()[:32])
    assert issued.secret not in repr(issued)


def test_commands_tell_no_secret(store: Store, tmp_path: pathlib.Path) -> None:
    c = Canaries()
    found = models("http://127.0.0.1:9", c)
    for place in found.values():
        for entry in place["deployments"]:
            if entry["provider"] == "scripted":
                entry |= {"provider": "openai", "base_url": "http://127.0.0.1:9"}
    hook = {"url": f"https://exemple.fr/{c.new('path of a webhook')}", "secret": c.new("webhook secret")}
    path = tmp_path / "metier.yaml"
    path.write_text(json.dumps({"models": found, "alerts": {"webhooks": [hook]}}))
    master = secrets.token_bytes(32)
    c.keep("master key", master.hex())
    environment = {
        "METIER_HOME": str(tmp_path), "METIER_CONFIG": str(path), "METIER_DATABASE_URL": store.url,
        "METIER_MASTER_KEY": master.hex(), "METIER_LOG_LEVEL": "debug", "METIER_MAIL_FROM": "a@exemple.fr",
        "METIER_SMTP_URL": f"smtp://user:{c.new('mail password')}@127.0.0.1:9",
        "METIER_OTLP_URL": f"http://user:{c.new('collector password')}@127.0.0.1:9",
    }  # fmt: skip

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, [*arguments, "--json"], env=environment, prog_name="metier")
        c.look(f"metier {' '.join(arguments)}", (done.output + done.stderr).encode())
        assert done.exit_code in (0, 2), done.output
        return done.stdout

    register = ("system", "register", "Essai", "--purpose", "tests", "--owner", "tests")
    system = json.loads(run(*register))["system"]["id"]
    run("system", "move", system, "pilot")
    run("key", "project", "default")
    issue = ["key", "issue", "essai", "--system", system, "--json"]
    told = CliRunner().invoke(main, issue, env=environment, prog_name="metier")
    assert told.exit_code == 0, told.output
    secret = json.loads(told.stdout)["secret"]
    c.keep("virtual key", secret.split("-", 3)[3])
    for arguments in (
        ("key", "list"), ("key", "show", secret), ("models", "list"), ("system", "list"), ("usage",), ("runs", "list"),
        ("review", "list"), ("budget", "list"), ("budget", "alerts"), ("cache", "show"), ("calls", "list"),
        ("calls", "holds"), ("calls", "reads"), ("batches", "list"), ("key", "revoke", secret),
    ):  # fmt: skip
        run(*arguments)
    c.none()


@pytest.mark.parametrize(
    "wrong",
    [
        "alerts: {{webhooks: [{{url: 'https://user:{c}@exemple.fr/'}}]}}",
        "alerts: {{webhooks: [{{url: 'ftp://exemple.fr/{c}', secret: 'x'}}]}}",
        "alerts: {{webhooks: [{{url: 'https://exemple.fr/', secret: '{c}'}}], {c}: 1}}",
        "models: {{m: {{deployments: [{{provider: openai, model_id: m, api_key: ['{c}']}}]}}}}",
        "models: {{m: {{deployments: [{{provider: openai, model_id: m, base_url: '{c} x'}}]}}}}",
        "models: {{m: {{deployments: [{{provider: '{c}', model_id: m}}]}}}}",
        "models: {{m: {{deployments: [{{provider: openai, model_id: m, price: {{input: '{c}'}}}}]}}}}",
        "models: {{m: {{deployments: [{{provider: openai, model_id: m, base_url: 'http://u:{c}@a/'}}]}}}}",
        "models: {{m: {{deployments: [{{provider: openai, model_id: m, base_url: 'http://a/?k={c}'}}]}}}}",
        "models: {{m: '{c}'}}",
        "models: '{c}'",
        "roles: '{c}'",
        "systems: {{s: {{sensitivity: '{c}'}}}}",
        "eur_per_usd: '{c}'",
        "batches: '{c}'",
        "api_key: &{c} !!python/object:{c} {{",
    ],
)
async def test_a_wrong_configuration_is_told_without_its_values(
    store: Store, tmp_path: pathlib.Path, log: pytest.LogCaptureFixture, wrong: str
) -> None:
    c = Canaries()
    path = tmp_path / "metier.yaml"
    path.write_text(wrong.format(c=c.new("value of the file")))
    try:
        async with house(tmp_path, store, settings={"config": read_config(path, {})}):
            pass
    except MetierError as error:
        c.look("the error", str(error).encode())
    c.look("logs", logged(record for record in log.records if record.name != "aiohttp.access"))
    c.none()
