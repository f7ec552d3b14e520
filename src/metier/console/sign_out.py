"""POST /review/sign-out: ends the session of this browser."""

from __future__ import annotations

from starlette.responses import Response

from metier.console.door import Door
from metier.console.rendering import Renderer
from metier.console.visit import Visit

__all__ = ["SignOut"]


class SignOut:
    """Forgets who was signed in here."""

    def __init__(self, door: Door, renderer: Renderer) -> None:
        self._door = door
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Drop the cookie and go to the sign-in form."""
        return self._door.dismiss(self._renderer.back("/review"))
