"""POST /review/deliveries/…/settle: says whether an e-mail in doubt was delivered; its run goes on."""

from __future__ import annotations

from typing import cast

from starlette.responses import Response

from metier.connectors.deliveries import Deliveries, Settlement
from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.errors import Conflict

__all__ = ["DeliverySettle"]


class DeliverySettle:
    """Settles an e-mail; the second of two people is told what the first has found."""

    def __init__(self, deliveries: Deliveries, renderer: Renderer) -> None:
        self._deliveries = deliveries
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Settle it, or show how it stands by now."""
        name, found = visit.request.path_params["delivery"], visit.form.get("settlement", "")
        try:
            await self._deliveries.settle(name, visit.who, cast(Settlement, found))
        except Conflict as error:
            now = await self._deliveries.get(name, visit.who)
            return self._renderer.page(visit, "delivery.html", error.status, delivery=now, fault=error)
        return self._renderer.back("/review", "settled")
