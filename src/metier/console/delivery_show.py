"""GET /review/deliveries/…: one e-mail that may or may not have left, with what to do about it."""

from __future__ import annotations

from starlette.responses import Response

from metier.connectors.deliveries import Deliveries
from metier.console.rendering import Renderer
from metier.console.visit import Visit

__all__ = ["DeliveryShow"]


class DeliveryShow:
    """Shows what is known of an e-mail in doubt."""

    def __init__(self, deliveries: Deliveries, renderer: Renderer) -> None:
        self._deliveries = deliveries
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Show it as it stands."""
        delivery = await self._deliveries.get(visit.request.path_params["delivery"], visit.who)
        return self._renderer.page(visit, "delivery.html", delivery=delivery, fault=None)
