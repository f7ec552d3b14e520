"""What stands around every request: an id, told in x-request-id, and an answer where nothing else gave one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metier.api import failures
from metier.calls import new_id
from metier.errors import Broken, MetierError
from metier.providers.cause import cause, place

__all__ = ["Frame", "record", "request_id"]

_KEY = "metier.request"
_HEADER = b"x-request-id"

_log = logging.getLogger("metier.api")


class Frame:
    """Names each request before anything handles it, and sees that each answer has that name and a body."""

    def __init__(self, app: ASGIApp, posts: Mapping[str, ASGIApp] | None = None) -> None:
        self._app = app
        self._posts = posts or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = self._app
        if scope["method"] == "POST" and not scope.get("root_path"):
            # What stands between costs as much as the surface itself, and has nothing to do for these.
            app = self._posts.get(scope["path"], app)
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = list(message.get("headers", ()))
                # The surfaces put it last.
                if not any(header.lower() == _HEADER for header, _ in reversed(headers)):
                    message = {**message, "headers": [*headers, (_HEADER, request_id(scope).encode())]}
            await send(message)

        try:
            await app(scope, receive, named)
        except ClientDisconnect:
            return
        except Exception as error:  # the edge of the process: recorded, and answered 500 where that is still possible
            name = request_id(scope)
            record(name, scope["path"], Broken.code, error)
            if started:
                raise
            await _answer(named, Broken(f"request {name!r} failed inside Métier; report this id to whoever runs it"))


def request_id(scope: Scope) -> str:
    """Give the id of a request, the same to whoever asks about the same scope."""
    if _KEY not in scope:
        scope[_KEY] = new_id("req")
    return str(scope[_KEY])


def record(
    request: str, path: str, code: str, unexpected: BaseException | None, failure: MetierError | None = None
) -> None:
    """Log what broke, where and why; never the message of a foreign exception or provider, which may quote contents."""
    line: dict[str, object] = {"event": "failed", "request": request, "path": path, "code": code}
    told = {} if failure is None else {"deployment": place(failure), "cause": cause(failure)}
    line |= {name: value for name, value in told.items() if value is not None}
    if unexpected is not None:
        line["error"] = type(unexpected).__name__
        line["at"] = _places(unexpected.__traceback__)
    _log.log(logging.ERROR, orjson.dumps(line).decode())


async def _answer(send: Send, error: Broken) -> None:
    body = failures.body(error)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _places(trace: TracebackType | None) -> list[str]:
    found: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return found[-12:]
