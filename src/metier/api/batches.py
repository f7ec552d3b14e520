"""OpenAI's batches: many requests in one file, each answered as its endpoint answers it, in the background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from metier.api import answers, chat_body, failures, openai, responses_answers, responses_body
from metier.api.parsing import fit, load, refuse_unknown
from metier.api.responses_items import turns
from metier.api.transfer import Transfer, listed
from metier.batches import Batch, Batches, Prepared, Road, Runner, Surface
from metier.calls import Answer, KeyId, Principal, Range, Reasoning
from metier.errors import Invalid, NotAllowed
from metier.gateway import Gateway
from metier.policy.keys import Keys as HouseKeys
from metier.record.responses import StoredResponses

__all__ = ["BatchesPages", "runner", "surfaces"]

_SURFACE: Final = "batches"
_ENDPOINTS: Final = {"/v1/chat/completions": "chat", "/v1/embeddings": "embeddings", "/v1/responses": "responses"}
"""What each endpoint of a batch is called as a surface of keys."""
_ENDS: Final = ("completed", "failed", "expired", "cancelled")
_SHORT: Final = StringConstraints(max_length=64)
_LONG: Final = StringConstraints(max_length=512)


class _Services(Protocol):
    """What making the calls of batches needs of the platform."""

    @property
    def gateway(self) -> Gateway: ...
    @property
    def keys(self) -> HouseKeys: ...
    @property
    def batches(self) -> Batches: ...
    @property
    def responses(self) -> StoredResponses: ...


class BatchesPages:
    """Answers what clients ask of the batches of their project."""

    def __init__(self, batches: Batches, endpoints: tuple[str, ...]) -> None:
        self._batches = batches
        self._endpoints = endpoints

    async def several(self, exchange: Transfer, principal: Principal) -> None:
        """POST and GET /v1/batches: make a batch of a file, list those of the project."""
        if exchange.method == "GET":
            asked = exchange.query("after", "limit")
            limit = exchange.number(asked, "limit", 20, 99)
            after = asked.get("after") or None
            found = await self._batches.list(principal.project, after=after, limit=limit + 1)
            await exchange.json(listed([_batch(batch) for batch in found], limit))
            return
        data = await exchange.body()
        if data is None:
            return
        body = _read(data)
        if body.endpoint not in self._endpoints:
            known = ", ".join(self._endpoints)
            raise Invalid(
                f"endpoint is {body.endpoint[:80]!r}, which batches do not serve here: choose among {known}",
                param="endpoint",
            )
        _within(principal, body.endpoint)
        keep_s = None if body.output_expires_after is None else body.output_expires_after.seconds
        made = await self._batches.create(principal, body.endpoint, body.input_file_id, body.metadata, keep_s)
        await exchange.json(orjson.dumps(_batch(made)))

    async def one(self, exchange: Transfer, principal: Principal) -> None:
        """GET /v1/batches/{id}: where a batch stands, and what it took so far."""
        await exchange.json(orjson.dumps(_batch(await self._batches.get(exchange.target, principal.project))))

    async def cancel(self, exchange: Transfer, principal: Principal) -> None:
        """POST /v1/batches/{id}/cancel: calls under way are waited for, what was answered is given."""
        await exchange.json(orjson.dumps(_batch(await self._batches.cancel(exchange.target, principal.project))))


def surfaces(stored: StoredResponses) -> Mapping[str, Surface]:
    """Give the endpoints a batch may name, each understanding a body as it does when it is called itself."""

    def chat(body: bytes, principal: Principal) -> Prepared:
        _within(principal, "/v1/chat/completions")
        asked = chat_body.parse(body, principal, None)
        return Prepared(asked.call, lambda answer: answers.chat(asked.call, answer))

    def embeddings(body: bytes, principal: Principal) -> Prepared:
        _within(principal, "/v1/embeddings")
        call, as_base64 = openai.embedding_call(body, principal, None)
        return Prepared(call, lambda answer: answers.embeddings(call, answer, as_base64))

    return {
        "/v1/chat/completions": chat,
        "/v1/embeddings": embeddings,
        "/v1/responses": lambda body, principal: _response(body, principal, stored),
    }


def runner(app: _Services) -> Runner:
    """Give what makes the calls of batches, each in the name of the key its batch was made with."""

    async def principal(key: KeyId) -> Principal:
        found = await app.keys.principal(key)
        if found.surfaces is not None and _SURFACE not in found.surfaces:
            raise NotAllowed(
                f"key {key!r} may not be used on the surface {_SURFACE!r} any more: ask its owner to widen it"
            )
        return found

    return Runner(app.batches, surfaces(app.responses), Road(app.gateway.collect, principal, failures.body))


def _response(body: bytes, principal: Principal, stored: StoredResponses) -> Prepared:
    """Understand a body of /v1/responses that stands for itself: nothing is continued and nothing kept."""
    _within(principal, "/v1/responses")
    raw = load(body)
    for name in ("store", "previous_response_id"):
        if raw.get(name):
            raise Invalid(f"{name!r} is not supported in a batch: leave it out, results are in the file", param=name)
    asked = responses_body.parse(orjson.dumps({**raw, "store": False}), principal, None)
    own = [(f"input[{index}]", item) for index, item in enumerate(asked.items)]
    found = turns(own, lambda sealed: stored.open(principal, sealed))
    if not found:
        raise Invalid("there is nothing to answer: send a text or a message as input", param="input")
    call = replace(asked.call, messages=asked.call.messages + found)
    asked = replace(asked, call=call)

    def seal(thought: Reasoning) -> str:
        return stored.seal(principal, thought)

    def write(answer: Answer) -> bytes:
        return orjson.dumps(responses_answers.response(asked, answer, seal))

    return Prepared(call, write)


def _within(principal: Principal, endpoint: str) -> None:
    """A batch is no way around the surfaces of a key: it needs that of its endpoint beside its own."""
    needed = _ENDPOINTS[endpoint]
    if principal.surfaces is not None and needed not in principal.surfaces:
        raise NotAllowed(
            f"key {principal.key_id!r} may not be used on the surface {needed!r}, which {endpoint!r} needs: ask its "
            "owner to widen it"
        )


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Expiry(_Shape):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(gt=0)]


class _Body(_Shape):
    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    endpoint: Annotated[str, StringConstraints(max_length=200)]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[Annotated[str, _SHORT], Annotated[str, _LONG]], Field(max_length=16)] | None = None
    output_expires_after: _Expiry | None = None


def _read(data: bytes) -> _Body:
    raw = load(data)
    refuse_unknown(raw, _Body.model_fields, (), {})
    return fit(_Body, raw)


def _batch(batch: Batch) -> dict[str, Any]:
    counts = {"total": batch.total, "completed": batch.done, "failed": batch.failed}
    totals = batch.totals
    ended = {f"{status}_at": _at(batch.ended_at) if batch.status == status else None for status in _ENDS}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": [*batch.errors]} if batch.errors else None,
        "input_file_id": batch.input_file,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": _at(batch.created_at),
        "in_progress_at": _at(batch.in_progress_at),
        "expires_at": _at(batch.expires_at),
        "finalizing_at": _at(batch.finalizing_at),
        "cancelling_at": _at(batch.cancelling_at),
        **ended,
        "request_counts": counts,
        "metadata": dict(batch.metadata) or None,
        "usage": {
            "input_tokens": totals.input_tokens,
            "input_tokens_details": {"cached_tokens": totals.cached_tokens},
            "output_tokens": totals.output_tokens,
            "total_tokens": totals.input_tokens + totals.output_tokens,
        },
        "metier": {
            "calls": totals.calls,
            "cost_eur": float(totals.cost_eur),
            "energy_kwh": _range(totals.energy_kwh),
            "carbon_g": _range(totals.carbon_g),
            "window": batch.window,
            "waits_for": batch.paused,
            "resumes_at": _at(batch.resume_at),
        },
    }


def _at(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _range(value: Range | None) -> list[float] | None:
    return None if value is None else [value.low, value.high]
