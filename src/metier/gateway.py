"""The road: every model call of the house passes here, whatever door it came through."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

import orjson

from metier.calls import Answer, Call, Chunk, FinishReason, Receipt, ToolCall, ToolCallDelta, Usage
from metier.catalog import Catalog, Deployment, Model
from metier.errors import MetierError, NoDeployment, Unavailable
from metier.guardrails.base import Guardrail, OutputFilter
from metier.providers.base import Provider, retry_after_s
from metier.router import Health, plan

__all__ = ["Admission", "Entry", "Gateway", "Ledger", "Tools"]

# Where no provider counts, 3 bytes a token is on the dear side for French and English, so budgets hold.
_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 4


class Entry(Protocol):
    """What the road notes about one call while it lasts; the ledger settles it."""

    deployment: Deployment | None
    usage: Usage | None
    masked: Mapping[str, int]
    first_token_s: float | None

    def receipt(self) -> Receipt:
        """Say what the call cost, once it is settled."""
        ...


class Ledger(Protocol):
    """Opens the entry of a call and settles it however the call ends, cancellation included."""

    def entry(self, call: Call) -> AbstractAsyncContextManager[Entry]:
        """Record `call` from here to the end of the block."""
        ...


class Admission(Protocol):
    """Decides whether a call may be made, and holds the money for it."""

    async def admit(self, call: Call, model: Model, entry: Entry) -> None:
        """Return if the call may go on; raise what refuses it otherwise."""
        ...


class Gateway:
    """The only door to a model: admits, masks, routes, answers piece by piece and records each call."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        ledger: Ledger,
        admission: Admission,
        guardrail: Guardrail,
        providers: Mapping[str, Provider],
        health: Health,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._admission = admission
        self._guardrail = guardrail
        self._providers = providers
        self._health = health
        self._clock = clock

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Yield the answer to `call` piece by piece, its receipt last; close the generator to leave early."""
        began = self._clock()
        async with self._ledger.entry(call) as entry:
            model = self._catalog.model(call.model)
            await self._admission.admit(call, model, entry)
            checked = await self._guardrail.check_input(call)
            entry.masked = checked.counts
            count = _Count(checked.call)
            answer = self._answer(checked.call, model, entry, count)
            shown = answer if checked.output is None else _released(answer, checked.output)
            try:
                async with aclosing(answer), aclosing(shown):
                    async for chunk in shown:
                        if entry.first_token_s is None:
                            entry.first_token_s = self._clock() - began
                        yield chunk
            finally:
                entry.usage = count.usage()
        yield Chunk(receipt=entry.receipt())

    async def collect(self, call: Call) -> Answer:
        """Give the whole answer to `call`: the stream, collected."""
        texts: list[str] = []
        tools = Tools()
        finish: FinishReason = "stop"
        vectors: tuple[tuple[float, ...], ...] = ()
        receipt: Receipt | None = None
        async with aclosing(self.stream(call)) as chunks:
            async for chunk in chunks:
                texts.append(chunk.text)
                tools.add(chunk.tool_calls)
                finish = chunk.finish or finish
                vectors += chunk.vectors
                receipt = chunk.receipt
        usage = Usage() if receipt is None else receipt.usage
        return Answer("".join(texts), tools.whole(), finish, usage, receipt, vectors)

    async def _answer(self, call: Call, model: Model, entry: Entry, count: _Count) -> AsyncGenerator[Chunk, None]:
        """Ask the deployments in order; once one has begun to answer, its failure is the call's."""
        failure: Unavailable | None = None
        for deployment in plan(call, model, self._health, self._clock()):
            provider = self._providers.get(deployment.provider)
            if provider is None:
                failure = failure or NoDeployment(
                    f"deployment {deployment.id!r} needs the provider {deployment.provider!r}, "
                    "which is not installed here: install its extra or remove the deployment"
                )
                continue
            entry.deployment = deployment
            count.begin()
            chunks = provider.stream(call, deployment)
            try:
                async for chunk in chunks:
                    count.add(chunk)
                    yield chunk
                self._health.answered(deployment)
                return
            except MetierError as error:
                if not count.begun:
                    count.abandon()
                if not isinstance(error, Unavailable):
                    raise
                self._health.failed(deployment, self._clock(), retry_after_s(error))
                if count.begun:
                    raise
                failure = error
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        raise failure or NoDeployment(f"no deployment of model {model.name!r} can take the call")


async def _released(answer: AsyncGenerator[Chunk, None], output: OutputFilter) -> AsyncGenerator[Chunk, None]:
    """Pass the answer through what the guardrails ask of it on the way out."""
    async for chunk in answer:
        released = output.feed(chunk)
        if released is not None:
            yield released
    held = output.flush()
    if held is not None:
        yield held


class Tools:
    """Puts the pieces of streamed tool calls together."""

    def __init__(self) -> None:
        self._calls: dict[int, ToolCall] = {}

    def add(self, pieces: tuple[ToolCallDelta, ...]) -> None:
        """Take the pieces of one chunk."""
        for piece in pieces:
            before = self._calls.get(piece.index)
            self._calls[piece.index] = (
                ToolCall(piece.id or f"call_{piece.index}", piece.name or "", piece.arguments)
                if before is None
                else ToolCall(before.id, before.name or piece.name or "", before.arguments + piece.arguments)
            )

    def whole(self) -> tuple[ToolCall, ...]:
        """Give the tool calls in the order of their index."""
        return tuple(self._calls[index] for index in sorted(self._calls))


class _Count:
    """Tokens of one call: the provider's figures, or an estimate of ours where it gave none."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._usage: Usage | None = None
        self._bytes = 0
        self._asked = False
        self.begun = False

    def begin(self) -> None:
        self._asked = True

    def abandon(self) -> None:
        """A deployment that failed before its first piece charges nothing."""
        self._asked = False

    def add(self, chunk: Chunk) -> None:
        self.begun = True
        if chunk.usage is not None:
            self._usage = chunk.usage
        self._bytes += len(chunk.text.encode("utf-8", "replace"))
        for piece in chunk.tool_calls:
            self._bytes += len(piece.arguments) + len(piece.name or "")

    def usage(self) -> Usage | None:
        if self._usage is not None or not self._asked:
            return self._usage
        return Usage(_input_tokens(self._call), _tokens(self._bytes), estimated=True)


def _input_tokens(call: Call) -> int:
    size = sum(len(text.encode("utf-8", "replace")) for text in call.inputs)
    for message in call.messages:
        size += len(message.content.encode("utf-8", "replace"))
        size += sum(len(tool.arguments) + len(tool.name) for tool in message.tool_calls)
    for tool in call.tools:
        size += len(tool.description) + len(orjson.dumps(dict(tool.parameters)))
    if call.output is not None:
        size += len(orjson.dumps(dict(call.output.schema)))
    return _tokens(size) + _TOKENS_PER_MESSAGE * len(call.messages)


def _tokens(size: int) -> int:
    return -(-size // _BYTES_PER_TOKEN)
