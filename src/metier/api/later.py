"""A room of the house that is opened when somebody first knocks: until then its pages take no memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound, Router
from starlette.types import Receive, Scope, Send

__all__ = ["Later"]


class Later(BaseRoute):
    """Every path under a prefix; what answers there is made, in a thread, for the first request that comes."""

    def __init__(self, prefix: str, make: Callable[[], Sequence[BaseRoute]]) -> None:
        self._prefix = prefix
        self._make = make
        self._router: Router | None = None
        self._making = asyncio.Lock()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Take every method: which paths know which, the pages themselves say."""
        path = scope["path"]
        here = scope["type"] == "http" and (path == self._prefix or path.startswith(f"{self._prefix}/"))
        return (Match.FULL if here else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: object) -> URLPath:
        """Know no name: nobody asks for addresses by name here."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by what stands there."""
        if self._router is None:
            async with self._making:
                if self._router is None:
                    self._router = Router(await asyncio.to_thread(self._make))
        await self._router(scope, receive, send)
