"""The lines a batch writes: answers and errors in the shape that clients of OpenAI's batches read."""

from __future__ import annotations

from typing import Any

import orjson

from metier.batches.lines import Fault

__all__ = ["answered", "unanswered"]


def answered(batch: str, number: int, custom_id: str | None, request: str, response: tuple[int, bytes]) -> bytes:
    """Write what came back for a line: status and body as the endpoint would have sent them."""
    status, body = response
    told = {"status_code": status, "request_id": request, "body": orjson.Fragment(body)}
    return _line(batch, number, custom_id, told, None)


def unanswered(batch: str, number: int, custom_id: str | None, fault: Fault, *, param: str | None = None) -> bytes:
    """Write why a line was never called, with its number in the file."""
    error = {"code": fault.code, "message": fault.message, "line": number, "param": param or fault.param}
    return _line(batch, number, custom_id, None, error)


def _line(batch: str, number: int, custom_id: str | None, response: Any, error: Any) -> bytes:
    id = f"batch_req_{batch.removeprefix('batch_')}_{number}"
    return orjson.dumps({"id": id, "custom_id": custom_id, "response": response, "error": error}) + b"\n"
