"""A room opened when somebody first knocks: what it answers is what it would have answered from the start."""

from __future__ import annotations

import threading

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Message, Scope

from metier.api.later import Later


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"hello {request.path_params.get('name', 'nobody')}")


def _pages() -> list[BaseRoute]:
    return [Route("/room", _hello, methods=["GET"]), Route("/room/{name}", _hello, methods=["POST"])]


async def _asked(router: Router, method: str, path: str) -> tuple[int, bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    await router(scope, receive, send)
    return int(sent[0]["status"]), b"".join(message.get("body", b"") for message in sent[1:])


async def test_paths_answer_as_if_they_had_stood_there_from_the_start() -> None:
    early, late = Router(_pages()), Router([Later("/room", _pages)])
    for method in ("GET", "POST", "DELETE"):
        for path in ("/room", "/room/", "/room/ada", "/room/ada/more", "/roomy", "/"):
            assert await _asked(late, method, path) == await _asked(early, method, path), (method, path)


async def test_the_room_is_made_once_for_the_first_who_knocks_and_in_a_thread() -> None:
    made: list[int] = []

    def make() -> list[BaseRoute]:
        made.append(threading.get_ident())
        return _pages()

    router = Router([Later("/room", make)])
    assert await _asked(router, "GET", "/elsewhere") == (404, b"Not Found")
    assert made == []
    assert [await _asked(router, "GET", "/room") for _ in range(3)] == [(200, b"hello nobody")] * 3
    assert len(made) == 1 and made[0] != threading.get_ident()
