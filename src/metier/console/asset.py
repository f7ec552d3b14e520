"""GET /review/static/…: the style sheet and the icon."""

from __future__ import annotations

from starlette.responses import Response

from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.errors import NotFound

__all__ = ["Asset"]


class Asset:
    """Gives a file that pages refer to."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Give it, or say that there is none."""
        name = visit.request.path_params["name"]
        response = self._renderer.asset(name)
        if response is None:
            raise NotFound(f"there is no file {name[:80]!r} among those of the pages: reload the page")
        return response
