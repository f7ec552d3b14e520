"""A model server in the test's own process: it counts what it is asked, and can keep a caller waiting."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.upstream import answer

_SENTENCE = re.compile(r"^\((\d+)\) (.{25,})$", re.MULTILINE)


@dataclass(slots=True)
class Model:
    """The server while it runs."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each thing was asked, by the name of its output and its whole prompt."""
    bodies: list[bytes] = field(default_factory=list)
    holding: dict[str, int] = field(default_factory=dict)
    """How many answers to each kind of question are still to be held back."""
    held: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """Tells each question that is being held back."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an answer was given whole."""

    def kinds(self) -> Counter[str]:
        """How many requests came for each kind of question."""
        found: Counter[str] = Counter()
        for asked, number in self.asked.items():
            found[asked.partition(" ")[0]] += number
        return found

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as a faithful writer and a kind judge do, after some pieces at once."""
        body = await request.read()
        self.bodies.append(body)
        call: dict[str, Any] = orjson.loads(body)
        kind = call["response_format"]["json_schema"]["name"]
        prompt = call["messages"][-1]["content"]
        self.asked[f"{kind} {prompt}"] += 1
        stream = answer(*_pieces(kind, prompt))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(stream[:300])
        if self.holding.get(kind, 0):
            self.holding[kind] -= 1
            self.held.put_nowait(kind)
            await self.released.wait()
        await response.write(stream[300:])
        await response.write_eof()
        self.ended.set()
        return response

    def models(self) -> dict[str, Any]:
        """The `models:` section that leads here."""
        price = {"input": 1, "output": 4}
        own = {"provider": "openai", "base_url": self.url, "price": price, "timeout_s": 60}
        return {
            role: {"deployments": [{**own, "id": role, "model_id": role, "hosting": "private"}]}
            for role in ("writer", "judge")
        }


def _pieces(kind: str, prompt: str) -> list[str]:
    if kind == "draft":
        found = _SENTENCE.search(prompt)
        assert found is not None
        said: object = {"answers": [{"question": 1, "sentences": [int(found[1])], "answer": found[2][:300]}]}
    else:
        said = {"critique": "aucun", "grounded": True, "score": 9}
    text = orjson.dumps(said).decode()
    return [text[at : at + 20] for at in range(0, len(text), 20)]


@contextlib.asynccontextmanager
async def model() -> AsyncIterator[Model]:
    """Run the server on a free port of loopback."""
    server = Model()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        server.released.set()
        await runner.cleanup()
