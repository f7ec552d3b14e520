"""OpenAI's Responses API over the one road: made whole or streamed, kept for a time, continued, listed, deleted."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import orjson
import psycopg
from starlette.types import Receive, Scope, Send

from metier.api import answers, relay, responses_answers, responses_body
from metier.api.responses_body import ResponseRequest
from metier.api.responses_items import Item, turns
from metier.api.transfer import Asking, listed
from metier.calls import Principal, Reasoning
from metier.errors import Invalid, MetierError, Mistaken, Unavailable
from metier.gateway import Gateway
from metier.record.responses import StoredResponses

__all__ = ["Responding", "Responses"]

_log = logging.getLogger("metier.api")

_KEEP_S = 5.0
"""What keeping a response may take before it is given without being kept."""
_MOST_LISTED = 100


class Responding(Asking):
    """An exchange whose stream ends with response.failed where it breaks off."""

    ignores = ("include", "include[]")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.events: responses_answers.ResponseStream | None = None

    async def _refuse(self, error: MetierError) -> None:
        if self.started and self.events is not None:
            await self.close_stream(self.events.failed(error))
        else:
            await super()._refuse(error)


class Responses:
    """Makes responses with any chat model of the catalogue, and gives those that were kept."""

    def __init__(self, gateway: Gateway, stored: StoredResponses) -> None:
        self._gateway = gateway
        self._stored = stored

    async def answer(self, exchange: Responding, principal: Principal) -> None:
        """POST /v1/responses, whole or streamed, for any chat model of the catalogue."""
        data = await exchange.body()
        if data is None:
            return
        asked = responses_body.parse(data, principal, exchange.conversation())
        asked = replace(asked, call=exchange.wanting(asked.call))
        # Only then is there a call: what does not continue anything is in no ledger.
        asked = await self._continued(asked)
        if asked.stream:
            events = exchange.events = responses_answers.ResponseStream(asked, self._seal(principal))
            await relay.stream(exchange, self._gateway, asked.call, events)
            closing, body = events.finish()
            await self._keep(asked, body)
            await exchange.close_stream(closing + events.end(body))
            return
        answer = await relay.collect(exchange, self._gateway, asked.call)
        body = responses_answers.response(asked, answer, self._seal(principal))
        await self._keep(asked, body)
        await exchange.json(orjson.dumps(body), answers.receipt_headers(answer.receipt))

    async def kept(self, exchange: Responding, principal: Principal) -> None:
        """GET and DELETE /v1/responses/{id}: a response that was stored."""
        asked = exchange.query("stream")
        if asked.get("stream", "false") not in ("false", ""):
            raise Invalid("a stored response is given whole: leave `stream` out", param="stream")
        if exchange.method == "DELETE":
            await self._stored.delete(principal, exchange.target)
            await exchange.json(orjson.dumps({"id": exchange.target, "object": "response", "deleted": True}))
            return
        kept = await self._stored.read(principal, exchange.target)
        await exchange.json(orjson.dumps(kept.body))

    async def input_items(self, exchange: Responding, principal: Principal) -> None:
        """GET /v1/responses/{id}/input_items: what was sent for a stored response."""
        asked = exchange.query("limit", "order", "after")
        most, newest = exchange.number(asked, "limit", 20, _MOST_LISTED), exchange.newest_first(asked)
        kept = await self._stored.read(principal, exchange.target)
        items = list(reversed(kept.items)) if newest else list(kept.items)
        after = asked.get("after")
        if after is not None:
            ids = [item["id"] for item in items]
            if after not in ids:
                raise Invalid(f"after is {after[:80]!r}, which is no item of this response", param="after")
            items = items[ids.index(after) + 1 :]
        await exchange.json(listed(items, most))

    async def cancel(self, exchange: Responding, principal: Principal) -> None:
        """POST /v1/responses/{id}/cancel: always refused, since no response is made in the background."""
        kept = await self._stored.read(principal, exchange.target)
        raise Mistaken(
            f"the response {kept.id!r} is finished, and none is made in the background: "
            "end one that is being made by closing its connection"
        )

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
