"""Anthropic's API over the one road: messages, whole or streamed, and the count of their tokens."""

from __future__ import annotations

import orjson

from metier.api import answers, failures, messages_answers, messages_body, relay
from metier.api.exchange import Exchange, Headers
from metier.calls import Call, Principal
from metier.errors import MetierError, Mistaken, Unavailable
from metier.gateway import Gateway
from metier.tokens import likely, shape_of

__all__ = ["Messages", "Speaking"]


class Speaking(Exchange):
    """An exchange whose refusals have Anthropic's shape, in an answer and inside a stream."""

    def named(self) -> Headers:
        """Give the id of the request under the name Anthropic's clients look for."""
        return [(b"request-id", self.id.encode())]

    async def _refuse(self, error: MetierError) -> None:
        await self._failed(error, messages_answers.status(error), failures.headers(error))

    async def _too_large(self, limit: int) -> None:
        error = Mistaken(f"the request body is over {limit} bytes: send less, or in several requests")
        await self._failed(error, 413, [(b"connection", b"close"), (b"x-should-retry", b"false")])

    async def _failed(self, error: MetierError, status: int, headers: Headers) -> None:
        data = messages_answers.failure(error, self.id, status)
        if self.started:
            await self.close_stream(b"event: error\ndata: " + data + b"\n\n")
        else:
            await self.json(data, [*headers, *self.named()], status)


class Messages:
    """Answers in Anthropic's words, with any chat model of the catalogue."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, exchange: Speaking, principal: Principal) -> None:
        """POST /v1/messages, whole or streamed, for any chat model of the catalogue."""
        data = await exchange.body()
        if data is None:
            return
        asked = messages_body.parse(data, principal, exchange.conversation())
        call = exchange.wanting(asked.call)
        if asked.stream:
            events = messages_answers.MessageStream(call, _estimate(call, self._gateway))
            await relay.stream(exchange, self._gateway, call, events, exchange.named)
            await exchange.close_stream(events.end())
        else:
            answer = await relay.collect(exchange, self._gateway, call)
            headers = [*answers.receipt_headers(answer.receipt), *exchange.named()]
            await exchange.json(messages_answers.message(call, answer), headers)

    async def count(self, exchange: Speaking, principal: Principal) -> None:
        """POST /v1/messages/count_tokens: how many input tokens a message would have."""
        data = await exchange.body()
        if data is None:
            return
        call = messages_body.parse(data, principal, exchange.conversation(), counting=True).call
        async with exchange.presence():
            try:
                counted, whose = await self._gateway.count(call), b"provider"
            except Unavailable:
                counted = None
        if counted is None:
            counted, whose = _estimate(call, self._gateway), b"estimate"
        body = orjson.dumps({"input_tokens": counted})
        await exchange.json(body, [(b"x-metier-count", whose), *exchange.named()])


def _estimate(call: Call, gateway: Gateway) -> int:
    """Count what the call likely has, by the tokenizers of the deployments it may go to."""
    catalog = gateway.ways.catalog
    names = {d.tokenizer for d in catalog.model(call.model).deployments} if call.model in catalog else {"other"}
    return max(1, likely(shape_of(call), names))
