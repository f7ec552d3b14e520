"""The road: every model call of the house passes here, whatever door it came through."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from metier.calls import (
    Answer,
    Call,
    Chunk,
    FinishReason,
    Media,
    Reasoning,
    ReasoningDelta,
    Receipt,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from metier.catalog import Catalog, Model
from metier.errors import NoDeployment, Unavailable
from metier.guardrails.base import Guardrail, OutputFilter
from metier.policy.admission import Admission
from metier.providers.base import Provider, retry_after_s
from metier.record.entry import Entry
from metier.record.ledger import Ledger
from metier.router import Health, plan

__all__ = ["Gateway", "Thoughts", "Tools"]


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
        async with self._ledger.entry(call) as entry:
            model = self._catalog.model(call.model)
            await self._admission.admit(call, model, entry)
            checked = await self._guardrail.check_input(call)
            entry.masked = checked.counts
            answer = self._answer(checked.call, model, entry)
            shown = answer if checked.output is None else _released(answer, checked.output)
            async with aclosing(answer), aclosing(shown):
                async for chunk in shown:
                    yield chunk
            yield Chunk(receipt=entry.receipt())

    async def collect(self, call: Call) -> Answer:
        """Give the whole answer to `call`: the stream, collected."""
        texts: list[str] = []
        tools, thoughts = Tools(), Thoughts()
        finish: FinishReason = "stop"
        vectors: tuple[tuple[float, ...], ...] = ()
        scores: tuple[float, ...] = ()
        media: tuple[Media, ...] = ()
        receipt: Receipt | None = None
        async with aclosing(self.stream(call)) as chunks:
            async for chunk in chunks:
                texts.append(chunk.text)
                tools.add(chunk.tool_calls)
                finish = chunk.finish or finish
                thoughts.add(chunk.reasoning)
                vectors += chunk.vectors
                scores += chunk.scores
                media += chunk.media
                receipt = chunk.receipt
        usage = Usage() if receipt is None else receipt.usage
        return Answer("".join(texts), tools.whole(), finish, usage, receipt, vectors, thoughts.whole(), scores, media)

    async def _answer(self, call: Call, model: Model, entry: Entry) -> AsyncGenerator[Chunk, None]:
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
            begun = False
            chunks = provider.stream(call, deployment)
            try:
                async for chunk in chunks:
                    begun = True
                    entry.observe(chunk)
                    yield chunk
                self._health.answered(deployment)
                return
            except Unavailable as error:
                self._health.failed(deployment, self._clock(), retry_after_s(error))
                # Text that was shown cannot be taken back: from here on the failure is the caller's to see.
                if begun:
                    raise
                failure = error
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        raise failure or NoDeployment(f"no deployment of model {model.name!r} can take the call")


class Tools:
    """Puts the pieces of streamed tool calls together."""

    def __init__(self) -> None:
        self._calls: dict[int, ToolCall] = {}

    def add(self, pieces: tuple[ToolCallDelta, ...]) -> None:
        """Take the pieces of one chunk."""
        for piece in pieces:
            before = self._calls.get(piece.index)
            self._calls[piece.index] = (
                ToolCall(piece.id or f"call_{piece.index}", piece.name or "", piece.arguments, piece.signature)
                if before is None
                else ToolCall(
                    before.id,
                    before.name or piece.name or "",
                    before.arguments + piece.arguments,
                    before.signature + piece.signature,
                )
            )

    def whole(self) -> tuple[ToolCall, ...]:
        """Give the tool calls in the order of their index."""
        return tuple(self._calls[index] for index in sorted(self._calls))


class Thoughts:
    """Puts the pieces of streamed reasoning together."""

    def __init__(self) -> None:
        self._thoughts: dict[int, Reasoning] = {}

    def add(self, pieces: tuple[ReasoningDelta, ...]) -> None:
        """Take the pieces of one chunk."""
        for piece in pieces:
            before = self._thoughts.get(piece.index, Reasoning())
            self._thoughts[piece.index] = Reasoning(
                before.text + piece.text, before.signature + piece.signature, before.sealed or piece.sealed
            )

    def whole(self) -> tuple[Reasoning, ...]:
        """Give the thoughts in the order of their index."""
        return tuple(self._thoughts[index] for index in sorted(self._thoughts))


async def _released(answer: AsyncGenerator[Chunk, None], output: OutputFilter) -> AsyncGenerator[Chunk, None]:
    """Pass the answer through what the guardrails ask of it on the way out."""
    async for chunk in answer:
        released = output.feed(chunk)
        if released is not None:
            yield released
    held = output.flush()
    if held is not None:
        yield held
