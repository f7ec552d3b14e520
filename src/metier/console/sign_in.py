"""POST /review/sign-in: shows a key once, and begins a session."""

from __future__ import annotations

import re

from starlette.responses import Response

from metier.console.attempts import Attempts
from metier.console.door import Door
from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.errors import NotAuthenticated, RateLimited
from metier.policy.keys import Keys

__all__ = ["SignIn"]

_INSIDE = re.compile(r"/review(/tasks/[A-Za-z0-9_-]{1,80})?")


class SignIn:
    """Takes a virtual key; its name and groups say which tasks are the reviewer's."""

    def __init__(self, keys: Keys, door: Door, renderer: Renderer, attempts: Attempts) -> None:
        self._keys = keys
        self._door = door
        self._renderer = renderer
        self._attempts = attempts

    async def __call__(self, visit: Visit) -> Response:
        """Let in who holds a good key, show the form again to the others."""
        asked = visit.form.get("after", "")
        after = asked if _INSIDE.fullmatch(asked) else "/review"
        try:
            self._attempts.check(visit.address)
            principal = await self._keys.authenticate(visit.form.get("key", "").strip())
        except NotAuthenticated as error:
            self._attempts.count(visit.address)
            return self._renderer.page(visit, "sign_in.html", error.status, fault="wrong", after=after)
        except RateLimited as error:
            return self._renderer.page(visit, "sign_in.html", error.status, fault="slow", after=after)
        self._attempts.forget(visit.address)
        return self._door.admit(visit, self._renderer.back(after), principal.key_id)
