"""What every page has in common: language, session, the token of forms, headers, and errors a person can read."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from metier.calls import KeyId
from metier.console import form
from metier.console.language import Words, choose
from metier.console.rendering import Renderer
from metier.console.session import LASTS_S, Sessions
from metier.console.visit import Visit
from metier.errors import MetierError, NotAllowed, NotAuthenticated, Unavailable
from metier.policy.keys import Keys
from metier.policy.mirror import UNREACHABLE
from metier.workflow.links import Links
from metier.workflow.review import Reviewer

__all__ = ["Action", "Door"]

_log = logging.getLogger(__name__)

Action: TypeAlias = Callable[[Visit], Awaitable[Response]]
"""Does the work of one page: what it sees is a visitor already recognised."""

_SURFACE = "admin"
_LINK = "link_"
_SESSION = "metier_session"
_GUEST = "metier_guest"
_LANGUAGE = "metier_language"
_YEAR_S = 365 * 86_400

_HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Door:
    """Lets visitors in to actions, and answers those who may not come in."""

    def __init__(self, keys: Keys, links: Links, sessions: Sessions, renderer: Renderer, language: str) -> None:
        self._keys = keys
        self._links = links
        self._sessions = sessions
        self._renderer = renderer
        self._language = language

    def members(self, action: Action) -> Callable[[Request], Awaitable[Response]]:
        """Open an action to those who are signed in; the others are shown the sign-in form."""

        async def answer(request: Request) -> Response:
            try:
                visit = await self._recognise(request)
            except MetierError as error:
                visit = self._guest(request)
                return self._finish(visit, self._fault(visit, error))
            if visit.reviewer is None:
                return self._finish(visit, self._unknown(visit))
            if visit.only is not None and request.path_params.get("task") != visit.only:
                if request.url.path == "/review":
                    return self._finish(visit, self._came_by_link(visit))
                if request.url.path != "/review/sign-out":
                    return self._finish(visit, self._unknown(visit))
            return self._finish(visit, await self._run(visit, action))

        return answer

    def guests(self, action: Action) -> Callable[[Request], Awaitable[Response]]:
        """Open an action to anybody."""

        async def answer(request: Request) -> Response:
            visit = self._guest(request)
            return self._finish(visit, await self._run(visit, action))

        return answer

    def admit(self, visit: Visit, response: Response, key: KeyId) -> Response:
        """Begin the session of somebody who showed a good key."""
        session = self._sessions.start(key)
        self._keep(visit.request, response, _SESSION, self._sessions.seal(session), LASTS_S)
        return response

    def dismiss(self, response: Response) -> Response:
        """End the session of this browser."""
        response.delete_cookie(_SESSION, path="/review", httponly=True, samesite="strict")
        return response

    def _words(self, request: Request) -> Words:
        asked = request.headers.get("accept-language", "")
        return Words(choose(request.query_params.get("lang"), request.cookies.get(_LANGUAGE), asked, self._language))

    async def _recognise(self, request: Request) -> Visit:
        session = self._sessions.read(request.cookies.get(_SESSION))
        if session is None or not session.key_id:
            return self._guest(request)
        if session.key_id.startswith(_LINK):
            link = await self._links.visiting(session.key_id)
            if link is None:
                return self._guest(request)
            return Visit(request, self._words(request), session, link.reviewer, only=link.task)
        try:
            principal = await self._keys.principal(KeyId(session.key_id))
        except NotAuthenticated:
            return self._guest(request)
        if principal.surfaces is not None and _SURFACE not in principal.surfaces:
            # Its owner may have been narrowed since the session began.
            return self._guest(request)
        return Visit(request, self._words(request), session, Reviewer.behind(principal))

    def _guest(self, request: Request) -> Visit:
        session = self._sessions.read(request.cookies.get(_GUEST))
        if session is None or session.key_id:
            session = self._sessions.start("")
        return Visit(request, self._words(request), session)

    async def _run(self, visit: Visit, action: Action) -> Response:
        try:
            if visit.request.method == "POST":
                visit = await self._received(visit)
            return await action(visit)
        except MetierError as error:
            return self._fault(visit, error)
        except UNREACHABLE as error:
            return self._fault(visit, Unavailable(f"the database does not answer: {error}; try again"))

    def _fault(self, visit: Visit, error: MetierError) -> Response:
        if error.status >= 500:
            _log.error("%s %s failed: %s", visit.request.method, visit.request.url.path, error)
        return self._renderer.page(visit, "error.html", error.status, error=error, task=None, kept=())

    async def _received(self, visit: Visit) -> Visit:
        """Read a form and make sure that a page of this very session sent it."""
        sent = await form.read(visit.request)
        elsewhere = visit.request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if elsewhere or not self._sessions.fits(visit.session, sent.get("token", "")):
            raise NotAllowed("the form carries no token of this session: open its page again")
        return Visit(visit.request, visit.words, visit.session, visit.reviewer, sent, visit.only)

    def _came_by_link(self, visit: Visit) -> Response:
        """What somebody sees beyond the one task of their link: that it is done, and nothing else."""
        said = visit.request.query_params.get("said") == "decided"
        state = "done" if said else "over"
        return self._renderer.page(visit, "link.html", state=state, task=None, fields=(), choice="")

    def _unknown(self, visit: Visit) -> Response:
        request = visit.request
        if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
            # A link on another site carries no strict cookie; the same link followed from here does.
            return self._renderer.page(visit, "arrive.html")
        ended = request.method == "POST" or _SESSION in request.cookies
        plain = request.url.path == "/review" and not ended
        after = request.url.path if request.method == "GET" else request.url.path.rpartition("/")[0]
        return self._renderer.page(
            visit, "sign_in.html", 200 if plain else 401, fault="ended" if ended else None, after=after
        )

    def _finish(self, visit: Visit, response: Response) -> Response:
        request = visit.request
        for name, value in _HEADERS.items():
            response.headers[name] = value
        if "cache-control" in response.headers:
            return response
        response.headers["cache-control"] = "no-store"
        if request.query_params.get("lang") == visit.words.language:
            self._keep(request, response, _LANGUAGE, visit.words.language, _YEAR_S)
        if not visit.session.key_id and request.cookies.get(_GUEST) != (guest := self._sessions.seal(visit.session)):
            self._keep(request, response, _GUEST, guest, LASTS_S)
        return response

    def _keep(self, request: Request, response: Response, name: str, value: str, age_s: int) -> None:
        response.set_cookie(
            name, value, max_age=age_s, path="/review", secure=request.url.scheme == "https", httponly=True,
            samesite="strict",
        )  # fmt: skip
