"""The road: every model call of the house passes here, whatever door it came through."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace

from metier.cache.reuse import Cache, Reusing
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
from metier.errors import BudgetExceeded
from metier.guardrails.base import Guardrail, OutputFilter
from metier.policy.admission import Admission, Remaining
from metier.policy.hold import Meter
from metier.policy.limits import Measure
from metier.providers.base import Counter
from metier.record.entry import Entry
from metier.record.ledger import Ledger
from metier.shadow import Shadows
from metier.tries import Tries
from metier.ways import Way, Ways

__all__ = ["Gateway", "Thoughts", "Tools"]

_MOST_MODELS = 4


class Gateway:
    """The only door to a model: admits, masks, routes, answers piece by piece and records each call."""

    def __init__(
        self,
        *,
        ways: Ways,
        ledger: Ledger,
        admission: Admission,
        guardrail: Guardrail,
        tries: Tries,
        shadows: Shadows | None = None,
        counters: Mapping[str, Counter] | None = None,
    ) -> None:
        self.ways = ways
        """Where calls may go; another catalogue or other rules are put in force by its `use`."""
        self._ledger = ledger
        self._admission = admission
        self._guardrail = guardrail
        self._tries = tries
        self.shadows = shadows or Shadows()
        """Copies of calls, made while `run` runs."""
        self._counters = counters or {}
        self.cache: Cache | None = None
        """Answers kept from earlier calls; written and swept while `run` runs."""

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Yield the answer to `call` piece by piece, its receipt last; close the generator to leave early."""
        async with self._ledger.entry(call) as entry:
            call, way, meter = await self._admitted(call, entry)
            checked = await self._guardrail.check_input(call)
            entry.masked = checked.counts
            transcript = entry.transcript
            if transcript is not None:
                transcript.checked(checked.call)
            if way.shadows:
                self.shadows.copy(call, way.shadows)
            answer = self._tries.answer(checked.call, way, entry)
            reusing = await self._reusing(checked.call, way, entry)
            if reusing is not None:
                answer = reusing.answer(answer)
            if transcript is not None:
                answer = transcript.heard(answer)
            shown = answer if checked.output is None else _released(answer, checked.output)
            if reusing is not None:
                shown = reusing.shown(shown)
            async with aclosing(answer), aclosing(shown):
                async for chunk in shown:
                    if meter is not None and entry.deployment is not None and meter.passed(chunk):
                        await meter.extend()
                    if transcript is not None:
                        transcript.shown(chunk)
                    yield chunk
            yield Chunk(receipt=entry.receipt())

    async def _reusing(self, masked: Call, way: Way, entry: Entry) -> Reusing | None:
        if self.cache is None:
            return None
        return self.cache.begin(masked, way.model, await self.ways.caching(masked.principal), entry)

    async def _admitted(self, call: Call, entry: Entry) -> tuple[Call, Way, Meter | None]:
        """Find a way whose limits have room: where one degrades, that of the cheaper model it names."""
        for _ in range(_MOST_MODELS):
            way = await self.ways.find(call)
            verdict = await self._admission.admit(call, way.model, entry)
            if verdict.instead is None:
                entry.route = way.route
                return call, way, verdict.meter
            call = replace(call, model=verdict.instead)
        raise BudgetExceeded(
            f"the limits of {call.principal.key_id!r} name one model after the other, {call.model!r} being the last, "
            "and each is used up: raise one of them"
        )

    async def count(self, call: Call) -> int | None:
        """Have the input tokens of `call` counted by the first deployment it may go to; None where that cannot."""
        way = await self.ways.find(call)
        await self._admission.approved(call.principal)
        deployment = way.groups[0].deployments[0]
        counter = self._counters.get(deployment.provider)
        if counter is None:
            return None
        # The count is made elsewhere: what is sent for it is masked as for any call.
        checked = await self._guardrail.check_input(call)
        return await counter.count(checked.call, deployment)

    async def remaining(self, call: Call) -> Mapping[Measure, Remaining]:
        """Tell what is left of the tightest limits of requests and tokens for whoever makes `call`."""
        return await self._admission.remaining(call)

    async def run(self) -> None:
        """Make the copies that models ask for, for ever; owned by the lifespan of the process."""
        await self.shadows.run(self.collect)

    async def collect(self, call: Call) -> Answer:
        """Give the whole answer to `call`: the stream, collected."""
        texts: list[str] = []
        tools, thoughts = Tools(), Thoughts()
        finish: FinishReason = "stop"
        vectors: tuple[tuple[float, ...], ...] = ()
        scores: tuple[float, ...] = ()
        media: tuple[Media, ...] = ()
        receipt: Receipt | None = None
        async with aclosing(self.stream(call if call.whole else replace(call, whole=True))) as chunks:
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
