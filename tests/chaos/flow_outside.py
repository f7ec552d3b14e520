"""What is outside of the platform in the chaos matrix: a model, a shop and a mail server that count."""

from __future__ import annotations

import asyncio
import contextlib
import email
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.chaos.flow_deaths import Deaths, Holder
from tests.chaos.flow_shapes import AGENT_TURNS, said
from tests.upstream import answer, event

__all__ = ["Asked", "Outside", "outside"]

_ASKED = re.compile(r"RUN=(\S+) ASK=([^.]*)\.")


@dataclass(slots=True)
class Asked:
    """One request that reached the model."""

    at: float
    holder: Holder | None
    answered: float | None = None
    """When the whole answer was on the wire."""


@dataclass(slots=True)
class Outside:
    """The three servers, and what reached them."""

    deaths: Deaths
    port: int = 0
    smtp_port: int = 0
    asked: dict[tuple[str, str], list[Asked]] = field(default_factory=dict)
    """Requests of the model by run and question."""
    effects: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What was done at the shop by idempotency key: run and thing."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests at the shop by idempotency key."""
    mails: Counter[str] = field(default_factory=Counter)
    """E-mails taken, by Message-ID."""
    unclear: list[str] = field(default_factory=list)

    async def model(self, request: web.Request) -> web.StreamResponse:
        """Answer a question; whoever asks it first dies while it is under way."""
        call: dict[str, Any] = orjson.loads(await request.read())
        texts = " ".join(str(message.get("content")) for message in call["messages"])
        found = _ASKED.search(texts)
        if found is None:
            self.unclear.append(texts[:300])
            return web.Response(status=400, text="which run?")
        run, ask = found[1], found[2]
        turn = sum(message["role"] == "assistant" for message in call["messages"])
        key = (run, f"turn {turn}" if ask == "turn" else ask)
        asked = Asked(time.time(), self.deaths.holder(run))
        self.asked.setdefault(key, []).append(asked)
        self.deaths.reach(f"{run} model {key[1]} asked", run)
        await asyncio.sleep(0.005)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        with contextlib.suppress(ConnectionError):  # whoever asked is dead
            await response.prepare(request)
            await response.write(_reply(run, ask, turn))
            await response.write_eof()
            asked.answered = time.time()
        return response

    async def shop(self, request: web.Request) -> web.StreamResponse:
        """Do a thing once for a key; whoever asks first dies before it is done, and after."""
        given = await request.json()
        run, what, key = given["run"], given["what"], request.headers["Idempotency-Key"]
        self.requests[key] += 1
        self.deaths.reach(f"{run} shop {what} asked", run)
        self.effects.setdefault(key, (run, what))
        self.deaths.reach(f"{run} shop {what} done", run)
        await asyncio.sleep(0.005)
        return web.json_response({"done": what})

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        """Take an e-mail; whoever sends it dies while it is on the wire, and when it was taken."""
        message = email.message_from_bytes(envelope.content)
        run = str(message["Subject"]).removeprefix("RUN=").strip()
        self.deaths.reach(f"{run} mail wire", run)
        name = str(message["Message-ID"]).strip("<> ")
        self.mails[name] += 1
        (self.deaths.folder / f"mail {name}").touch()
        self.deaths.reach(f"{run} mail taken", run)
        await asyncio.sleep(0.005)
        return "250 kept"


def _reply(run: str, ask: str, turn: int) -> bytes:
    if ask != "turn" or turn >= len(AGENT_TURNS):
        return answer(orjson.dumps({"v": "Done."} if ask == "turn" else said(ask)).decode())
    calls = [
        {"index": n, "id": f"call_{turn}_{n}", "type": "function",
         "function": {"name": name, "arguments": orjson.dumps({"run": run, "what": what}).decode()}}
        for n, (name, what) in enumerate(AGENT_TURNS[turn])
    ]  # fmt: skip
    figures = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    last = b"data: " + orjson.dumps({"id": "c", "choices": [], "usage": figures}) + b"\n\ndata: [DONE]\n\n"
    return event({"role": "assistant", "tool_calls": calls}) + event(finish="tool_calls") + last


@contextlib.asynccontextmanager
async def outside(deaths: Deaths) -> AsyncIterator[Outside]:
    """Run the servers on free ports of loopback."""
    from aiosmtpd.smtp import SMTP

    made = Outside(deaths)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.model)
    app.router.add_post("/shop/{what}", made.shop)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = int(runner.addresses[0][1])
    mail = await asyncio.get_running_loop().create_server(lambda: SMTP(made, hostname="localhost"), "127.0.0.1", 0)
    made.smtp_port = int(mail.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        mail.close()
        await runner.cleanup()
