"""How an error of ours looks to a client of OpenAI's API: status, headers and JSON body."""

from __future__ import annotations

import math

import orjson

from metier.errors import BudgetExceeded, Invalid, MetierError
from metier.providers.base import retry_after_s

__all__ = ["body", "headers", "plain_body"]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def body(error: MetierError) -> bytes:
    """Write the error object, the same in an answer and inside a stream."""
    kind = "insufficient_quota" if isinstance(error, BudgetExceeded) else _type(error.status)
    return _object(error.message, kind, error.code, error.param)


def plain_body(status: int, message: str, code: str) -> bytes:
    """Write the error object of a fault that is HTTP's own, such as an unknown path."""
    return _object(message, _type(status), code, None)


def headers(error: MetierError) -> list[tuple[bytes, bytes]]:
    """Tell the client whether and when trying again makes sense."""
    wait_s = retry_after_s(error)
    found: list[tuple[bytes, bytes]] = []
    if isinstance(error, BudgetExceeded | Invalid):
        found.append((b"x-should-retry", b"false"))
    elif wait_s is not None:
        found.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
        found.append((b"retry-after-ms", b"%d" % math.ceil(wait_s * 1000)))
    return found


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _object(message: str, kind: str, code: str, param: str | None) -> bytes:
    # An error may quote what a client sent; bytes that are no text must not turn a refusal into a failure.
    shown = message.encode("utf-8", "replace").decode()
    return orjson.dumps({"error": {"message": shown, "type": kind, "param": param, "code": code}})
