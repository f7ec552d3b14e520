"""A conversation with a tool through the whole platform: what a provider wants back comes back to it, unchanged."""

from __future__ import annotations

import pathlib
from decimal import Decimal
from typing import Any

import orjson
import pytest

from metier.app import Parts
from metier.calls import Answer, Call, Message, Tool
from metier.catalog import Catalog
from metier.providers.scripted import ScriptedProvider
from metier.store import Store
from metier.testing import build_for_tests, caller
from tests.providers import amazon as aws
from tests.providers import google as gcp

GOLDEN = pathlib.Path(__file__).parent / "golden"
TOOLS = (Tool("heure", "Donne l'heure", {"type": "object"}), Tool("date", "Donne la date", {"type": "object"}))
PRICED = {"price": {"input": 1, "output": 10, "cached": 0.1}, "context_tokens": 8000, "max_output_tokens": 500}


def catalog(provider: str, **fields: Any) -> Catalog:
    return Catalog.from_yaml({"nuage": {"deployments": [{"id": "nuage", "provider": provider, **fields, **PRICED}]}})


async def conversation(home: pathlib.Path, database_url: str, models: Catalog) -> tuple[Answer, Answer]:
    """Ask, answer the tools that are called, ask again."""
    async with build_for_tests(home, database_url, ScriptedProvider(), Parts(catalog=models)) as app:
        principal = await caller(app)
        asked = Message("user", "Quelle heure est-il à Évry ?")
        first = await app.gateway.collect(Call(principal, "nuage", messages=(asked,), tools=TOOLS))
        said = Message("assistant", first.text, first.tool_calls, reasoning=first.reasoning)
        told = [Message("tool", "midi", tool_call_id=call.id) for call in first.tool_calls]
        again = Call(principal, "nuage", messages=(asked, said, *told), tools=TOOLS)
        return first, await app.gateway.collect(again)


@pytest.mark.parametrize("provider", ["gemini", "vertex"])
async def test_google_gets_its_signatures_back(provider: str, tmp_path: pathlib.Path, store: Store) -> None:
    events = [gcp.event(**fields) for fields in orjson.loads((GOLDEN / "gemini_events.json").read_bytes())]
    async with gcp.google(gcp.Reply(events), gcp.Reply([gcp.said("Il est midi.")])) as server:
        where: dict[str, Any] = {"base_url": f"{server.url}/v1", "model_id": "gemini-2.5-pro"}
        if provider == "vertex":
            options = {"project": "projet", "location": "eu", "service_account": gcp.account(server.url)}
            models = catalog(provider, **where, options=options)
        else:
            models = catalog(provider, **where, api_key=gcp.KEY)
        first, second = await conversation(tmp_path, store.url, models)
        parts = server.requests[1]["contents"][1]["parts"]
    assert (first.finish, second.text, second.finish) == ("tool_calls", "Il est midi.", "stop")
    assert first.receipt is not None
    assert first.receipt.cost_eur == (Decimal(23) + 100 * Decimal("0.1") + 39 * 10) / 1_000_000
    assert [part.get("thoughtSignature") for part in parts] == [None, "dW4=", "ZGV1eA==", None]
    assert [part["functionCall"]["name"] for part in parts[2:]] == ["heure", "date"]
    assert parts[0] == {"text": "Je réfléchis.", "thought": True}


async def test_amazon_gets_its_thoughts_back(tmp_path: pathlib.Path, store: Store) -> None:
    events = [aws.event(*pair) for pair in orjson.loads((GOLDEN / "bedrock_events.json").read_bytes())]
    async with aws.amazon(aws.Reply(events), aws.Reply([aws.stream("Il est midi.")])) as server:
        options = {"region": aws.REGION, "access_key_id": aws.KEY_ID, "secret_access_key": aws.SECRET}
        models = catalog("bedrock", base_url=server.url, model_id="anthropic.claude-opus-4-6-v1", options=options)
        first, second = await conversation(tmp_path, store.url, models)
        blocks = server.requests[1]["messages"][1]["content"]
    assert (first.finish, second.text, second.finish) == ("tool_calls", "Il est midi.", "stop")
    assert blocks[:2] == [
        {"reasoningContent": {"reasoningText": {"text": "Je réfléchis.", "signature": "c2ln"}}},
        {"reasoningContent": {"redactedContent": "c2VhbGVk"}},
    ]
    assert [block["toolUse"]["toolUseId"] for block in blocks[3:]] == ["t1", "t2"]
