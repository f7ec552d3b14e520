"""OpenAI's Responses API over the one road: made whole or streamed, kept for a time, continued, listed, deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import orjson
import psycopg
from starlette.types import Receive, Scope, Send

from metier.api import answers, responses_answers, responses_body
from metier.api.exchange import Exchange
from metier.api.openai import Keys
from metier.api.responses_body import ResponseRequest
from metier.api.responses_items import Item, turns
from metier.api.surface import limit_headers
from metier.calls import Principal, Reasoning
from metier.errors import Invalid, MetierError, Mistaken, Unavailable
from metier.gateway import Gateway
from metier.record.responses import StoredResponses

__all__ = ["CancelResponse", "InputItems", "KeptResponse", "Responses"]

_log = logging.getLogger("metier.api")

_KEEP_S = 5.0
"""What keeping a response may take before it is given without being kept."""
_MOST_LISTED = 100


class _Exchange(Exchange):
    """An exchange whose stream ends with response.failed where it breaks off, and which may have a query."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.method: str = scope["method"]
        self.response: str = scope.get("path_params", {}).get("id", "")
        self._query: bytes = scope["query_string"]
        self.events: responses_answers.ResponseStream | None = None

    def query(self, *names: str) -> dict[str, str]:
        """Read the query, which may have these parameters; any other is refused by name."""
        try:
            found = dict(parse_qsl(self._query.decode(), keep_blank_values=True, max_num_fields=20))
        except ValueError:
            raise Mistaken("the query of the address is no UTF-8, or has over 20 fields: mend it") from None
        for name in found:
            # `include` asks for what is always given here.
            if name not in names and name.removesuffix("[]") != "include":
                raise Invalid(f"the parameter {name[:80]!r} is not supported here: leave it out", param=name[:80])
        return found

    async def _refuse(self, error: MetierError) -> None:
        if self.started and self.events is not None:
            await self.close_stream(self.events.failed(error))
        else:
            await super()._refuse(error)


class Responses:
    """POST /v1/responses, whole or streamed, for any chat model of the catalogue."""

    def __init__(self, gateway: Gateway, keys: Keys, stored: StoredResponses) -> None:
        self._gateway = gateway
        self._keys = keys
        self._stored = stored

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = _Exchange(scope, receive, send)
        await exchange.run(lambda _: self._handle(exchange))

    async def _handle(self, exchange: _Exchange) -> None:
        principal = await self._keys.authenticate(exchange.secret())
        data = await exchange.body()
        if data is None:
            return
        asked = responses_body.parse(data, principal, exchange.conversation())
        asked = replace(asked, call=exchange.wanting(asked.call))
        asked = await self._continued(asked)
        # Only now is there a call: what does not continue anything is in no ledger.
        exchange.name(asked.call.id, lambda: limit_headers(self._gateway, asked.call))
        if asked.stream:
            await self._stream(exchange, asked)
            return
        async with exchange.presence():
            answer = await self._gateway.collect(asked.call)
        body = responses_answers.response(asked, answer, self._seal(principal))
        await self._keep(asked, body)
        await exchange.json(orjson.dumps(body), answers.receipt_headers(answer.receipt))

    async def _stream(self, exchange: _Exchange, asked: ResponseRequest) -> None:
        events = exchange.events = responses_answers.ResponseStream(asked, self._seal(asked.call.principal))
        async with exchange.presence(), aclosing(self._gateway.stream(asked.call)) as chunks:
            # The first chunk comes before the headers, so that a refusal is an HTTP status.
            first = await anext(chunks)
            told = [(b"x-metier-call-id", asked.call.id.encode()), *answers.kept_headers(first.kept)]
            await exchange.open_stream(told)
            await exchange.write(events.write(first))
            async for chunk in chunks:
                data = events.write(chunk)
                if data:
                    await exchange.write(data)
        closing, body = events.finish()
        await self._keep(asked, body)
        await exchange.close_stream(closing + events.end(body))

    async def _continued(self, asked: ResponseRequest) -> ResponseRequest:
        """Give the call its messages: those of the responses it continues, and its own."""
        call, before = asked.call, list[tuple[str, Item]]()
        if asked.previous is not None:
            for kept in await self._stored.chain(call.principal, asked.previous):
                before += [(f"{kept.id}.input[{index}]", dict(item)) for index, item in enumerate(kept.items)]
                before += [(f"{kept.id}.output[{index}]", item) for index, item in enumerate(kept.body["output"])]
                # Who continues a conversation goes on under its placeholders, unless another is named.
                call = replace(call, conversation=asked.call.conversation or kept.conversation)
        own = [(f"input[{index}]", item) for index, item in enumerate(asked.items)]
        found = turns([*before, *own], lambda sealed: self._stored.open(call.principal, sealed))
        if not found:
            raise Invalid("there is nothing to answer: send a text or a message as input", param="input")
        return replace(asked, call=replace(call, messages=call.messages + found))

    async def _keep(self, asked: ResponseRequest, body: dict[str, Any]) -> None:
        """Keep the response if that was asked; where it cannot be, the answer is still given, and says so."""
        if not asked.store:
            return
        call = asked.call
        try:
            async with asyncio.timeout(_KEEP_S):
                body["store"] = await self._stored.keep(call, body, asked.items)
        except (TimeoutError, Unavailable, psycopg.Error) as error:
            _log.warning("the response of %s is given without being kept: %s", call.id, type(error).__name__)
            body["store"] = False

    def _seal(self, principal: Principal) -> responses_answers.Seal:
        def seal(thought: Reasoning) -> str:
            return self._stored.seal(principal, thought)

        return seal


class KeptResponse:
    """GET and DELETE /v1/responses/{id}: a response that was stored."""

    def __init__(self, keys: Keys, stored: StoredResponses) -> None:
        self._keys = keys
        self._stored = stored

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = _Exchange(scope, receive, send)
        await exchange.run(lambda _: self._handle(exchange))

    async def _handle(self, exchange: _Exchange) -> None:
        principal = await self._keys.authenticate(exchange.secret())
        asked = exchange.query("stream")
        if asked.get("stream", "false") not in ("false", ""):
            raise Invalid("a stored response is given whole: leave `stream` out", param="stream")
        if exchange.method == "DELETE":
            await self._stored.delete(principal, exchange.response)
            await exchange.json(orjson.dumps({"id": exchange.response, "object": "response", "deleted": True}))
            return
        kept = await self._stored.read(principal, exchange.response)
        await exchange.json(orjson.dumps(kept.body))


class InputItems:
    """GET /v1/responses/{id}/input_items: what was sent for a stored response."""

    def __init__(self, keys: Keys, stored: StoredResponses) -> None:
        self._keys = keys
        self._stored = stored

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = _Exchange(scope, receive, send)
        await exchange.run(lambda _: self._handle(exchange))

    async def _handle(self, exchange: _Exchange) -> None:
        principal = await self._keys.authenticate(exchange.secret())
        asked = exchange.query("limit", "order", "after")
        most, order = asked.get("limit", "20"), asked.get("order", "desc")
        if not (most.isascii() and most.isdigit() and len(most) <= 3 and 1 <= int(most) <= _MOST_LISTED):
            raise Invalid(f"limit is {most[:20]!r}: use 1 to {_MOST_LISTED}", param="limit")
        if order not in ("asc", "desc"):
            raise Invalid(f"order is {order[:20]!r}: use 'asc' or 'desc'", param="order")
        kept = await self._stored.read(principal, exchange.response)
        items = list(kept.items) if order == "asc" else list(reversed(kept.items))
        after = asked.get("after")
        if after is not None:
            ids = [item["id"] for item in items]
            if after not in ids:
                raise Invalid(f"after is {after[:80]!r}, which is no item of this response", param="after")
            items = items[ids.index(after) + 1 :]
        await exchange.json(orjson.dumps(_page(items, int(most))))


class CancelResponse:
    """POST /v1/responses/{id}/cancel: always refused, since no response is made in the background."""

    def __init__(self, keys: Keys, stored: StoredResponses) -> None:
        self._keys = keys
        self._stored = stored

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = _Exchange(scope, receive, send)
        await exchange.run(lambda _: self._handle(exchange))

    async def _handle(self, exchange: _Exchange) -> None:
        principal = await self._keys.authenticate(exchange.secret())
        kept = await self._stored.read(principal, exchange.response)
        raise Mistaken(
            f"the response {kept.id!r} is finished, and none is made in the background: "
            "end one that is being made by closing its connection"
        )


def _page(items: Sequence[Any], most: int) -> dict[str, Any]:
    shown = items[:most]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > most,
    }
