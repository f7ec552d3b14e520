"""Deployments and calls that tests of OpenAI-compatible providers share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

from metier.calls import Call, Chunk, KeyId, Message, Principal, ProjectId, SystemId
from metier.catalog import Deployment, Price
from metier.providers.openai import Dialect, OpenAIProvider
from tests.upstream import Reply, Upstream, upstream

__all__ = ["CALL", "WHO", "ask", "deployment", "reply", "serving"]

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
CALL = Call(WHO, "petit", messages=(Message("user", "Bonjour"),))


def deployment(url: str | None, **changes: Any) -> Deployment:
    """A deployment of the model petit-1 that costs nothing."""
    made = Deployment(
        id="petit-a",
        provider="openai",
        model_id="petit-1",
        base_url=url,
        api_key="sk-provider-secret",
        price=Price(Decimal(0), Decimal(0), Decimal(0)),
        energy=None,
        context_tokens=8000,
        max_output_tokens=500,
        timeout_s=30.0,
        country="FR",
        hosting="private",
    )
    return replace(made, **changes)


def reply(body: bytes, status: int = 200, **headers: str) -> Reply:
    """A whole JSON answer."""
    return Reply([body], status, "application/json", headers)


@asynccontextmanager
async def serving(*replies: Reply, dialect: Dialect | None = None) -> AsyncIterator[tuple[OpenAIProvider, Upstream]]:
    """A provider and the server it asks."""
    provider = OpenAIProvider(dialect)
    async with upstream(*replies) as server:
        try:
            yield provider, server
        finally:
            await provider.close()


async def ask(provider: OpenAIProvider, target: Deployment, call: Call = CALL) -> list[Chunk]:
    """Everything the provider yields."""
    return [chunk async for chunk in provider.stream(call, target)]
