"""E-mails and actions in doubt over HTTP: what waits for somebody to find out, and what they found; as on the pages."""

from __future__ import annotations

from typing import Final, Literal, Protocol

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.routing import BaseRoute, Route

from metier.api.endpoint import Endpoint
from metier.api.run_bodies import read
from metier.api.surface import Door, Surface
from metier.api.transfer import Asking, listed
from metier.calls import JSON, Principal
from metier.connectors.deliveries import Deliveries, Delivery
from metier.workflow.reviewer import Reviewer

__all__ = ["DeliveriesPages", "DeliveryServices", "SettleBody", "delivery_routes"]

_SURFACE: Final = "admin"
_MOST: Final = 200


class DeliveryServices(Protocol):
    """What effects in doubt over HTTP need of the platform."""

    @property
    def keys(self) -> Door:
        """Who is calling."""
        ...

    @property
    def deliveries(self) -> Deliveries:
        """The effects of which nobody knows whether they were done."""
        ...


class SettleBody(BaseModel):
    """Says what somebody found out about an effect in doubt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settlement: Literal["delivered", "again", "dropped"]
    """It was done; or it was not, and is done once more, or never."""


def delivery_routes(app: DeliveryServices) -> list[BaseRoute]:
    """List the paths of effects in doubt; they take the keys that open the pages of people."""
    keys, made = Surface(app.keys, _SURFACE), DeliveriesPages(app.deliveries)
    one = "/v1/deliveries/{id}"
    return [
        Route("/v1/deliveries", Endpoint(keys, made.several, Asking), methods=["GET"]),
        Route(one, Endpoint(keys, made.one, Asking), methods=["GET"]),
        Route(f"{one}/settle", Endpoint(keys, made.settle, Asking), methods=["POST"]),
    ]


class DeliveriesPages:
    """Answers requests about effects in doubt: to those whom their runs asked something, and to the group admins."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    async def several(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/deliveries: the e-mails and actions in doubt that the owner of the key may settle, oldest first."""
        asked = exchange.query("limit")
        found = await self._deliveries.list(
            Reviewer.behind(principal), limit=exchange.number(asked, "limit", 50, _MOST)
        )
        await exchange.json(listed([_delivery(one) for one in found], len(found)))

    async def one(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/deliveries/{id}: an e-mail or action with its contents, and what was found out about it."""
        exchange.query()
        found = await self._deliveries.get(exchange.target, Reviewer.behind(principal))
        await exchange.json(orjson.dumps(_delivery(found)))

    async def settle(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/deliveries/{id}/settle: say whether it was delivered; the second of two people gets 409."""
        body = await read(exchange, SettleBody)
        if body is not None:
            found = await self._deliveries.settle(exchange.target, Reviewer.behind(principal), body.settlement)
            await exchange.json(orjson.dumps(_delivery(found)))


def _delivery(one: Delivery) -> dict[str, JSON]:
    return {
        "id": one.message_id,
        "object": "delivery",
        "run": one.run,
        "path": one.path,
        "tool": one.tool,
        "state": one.state,
        "in_doubt": one.doubtful,
        "run_cancelled": one.cancelled,
        "since": one.since.isoformat(),
        "recipient": one.recipient,
        "subject": one.subject,
        "body": one.body,
        "settled_as": one.settled_as,
        "settled_by": one.settled_by,
        "settled_at": None if one.settled_at is None else one.settled_at.isoformat(),
    }
