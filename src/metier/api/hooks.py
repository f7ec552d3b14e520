"""POST /hooks/{trigger}: what another program sends, proved by its signature, becomes a run once."""

from __future__ import annotations

import orjson
from starlette.types import Receive, Scope, Send

from metier.api.exchange import Exchange
from metier.triggers import Delivery, Gate, Triggers
from metier.triggers.webhook import BODY_LIMIT

__all__ = ["Hook"]


class Hook:
    """Takes deliveries signed as the Standard Webhooks say; the same one again is known and starts nothing."""

    def __init__(self, triggers: Triggers, gate: Gate) -> None:
        self._triggers = triggers
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = dict(scope["headers"])
        told = tuple(headers.get(b"webhook-" + name, b"").decode("latin-1") for name in (b"id", b"timestamp"))
        signatures = headers.get(b"webhook-signature", b"").decode("latin-1")
        id: str = scope["path_params"]["trigger"]

        async def handle(exchange: Exchange) -> None:
            self._gate.enter(id)
            body = await exchange.body(BODY_LIMIT)
            if body is None:
                return
            taken = await self._triggers.hook(id, Delivery(told[0], told[1], signatures, body))
            status = 202 if taken.outcome == "started" else 200
            await exchange.json(orjson.dumps({"outcome": taken.outcome, "run": taken.run}), status=status)

        await Exchange(scope, receive, send).run(handle)
