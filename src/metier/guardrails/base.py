"""What a guardrail is, what it answers, and how several of them stand in a row on the road."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from metier.calls import Call, Chunk
from metier.errors import Broken, GuardrailBlocked, MetierError

__all__ = ["Chain", "Checked", "Guardrail", "OutputFilter", "Verdict"]


class Verdict(StrEnum):
    """What a guardrail decides about one call, from harmless to refused."""

    PASS = "pass"
    FLAG = "flag"
    """Goes on unchanged; the record says what was seen."""
    MASK = "mask"
    """Goes on with parts replaced."""
    BLOCK = "block"


class OutputFilter(Protocol):
    """Rewrites one answer while it streams; made for one call and used once."""

    def feed(self, chunk: Chunk) -> Chunk | None:
        """Take one chunk and give what may be shown now; None means everything is held for later."""
        ...

    def flush(self) -> Chunk | None:
        """Give back what is still held, when the answer ends without saying so."""
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer of a guardrail about a call."""

    call: Call
    """The call as it may go on, masked where the verdict says so."""
    verdict: Verdict
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many things were found, per type; never the things themselves."""
    output: OutputFilter | None = None
    """What the answer must pass through; None when it may pass as it is."""
    reason: str = ""
    """For a refusal: the rule, in words the caller may read."""


class Guardrail(Protocol):
    """One check on the way in; what it must do on the way out it hands over as an OutputFilter."""

    name: str
    revision: str
    """Another one may decide otherwise: answers kept under this one are not given again under that."""

    async def check_input(self, call: Call) -> Checked:
        """Judge `call`; raising closes the road, there is no way to fail open."""
        ...


class _Filters:
    """Several output filters as one; the guardrail that came last on the way in comes first on the way out."""

    def __init__(self, filters: Sequence[OutputFilter]) -> None:
        self._filters = tuple(reversed(filters))

    def feed(self, chunk: Chunk) -> Chunk | None:
        """Pass the chunk through every filter, stopping when one holds it back."""
        passed: Chunk | None = chunk
        for one in self._filters:
            if passed is None:
                return None
            passed = one.feed(passed)
        return passed

    def flush(self) -> Chunk | None:
        """Empty every filter in turn, each into the next."""
        held: Chunk | None = None
        for one in self._filters:
            passed = one.feed(held) if held is not None else None
            rest = one.flush()
            held = _joined(passed, rest)
        return held


def _joined(first: Chunk | None, second: Chunk | None) -> Chunk | None:
    if first is None or second is None:
        return first or second
    return Chunk(
        text=first.text + second.text,
        tool_calls=first.tool_calls + second.tool_calls,
        finish=second.finish or first.finish,
        usage=second.usage or first.usage,
        vectors=second.vectors or first.vectors,
        receipt=second.receipt or first.receipt,
        reasoning=first.reasoning + second.reasoning,
        scores=second.scores or first.scores,
        media=first.media + second.media,
    )


class Chain:
    """Guardrails in a row, itself a guardrail: a block, an error or a timeout of any of them ends the call."""

    name = "chain"

    def __init__(self, guardrails: Sequence[Guardrail], timeout_s: float = 10.0) -> None:
        self.guardrails = tuple(guardrails)
        self.timeout_s = timeout_s
        self.revision = "; ".join(f"{type(one).__qualname__} {one.name} {one.revision}" for one in guardrails)

    async def check_input(self, call: Call) -> Checked:
        """Let each guardrail judge what the one before it let through."""
        counts: Counter[str] = Counter()
        filters: list[OutputFilter] = []
        verdicts = {Verdict.PASS}
        for guardrail in self.guardrails:
            checked = await self._checked(guardrail, call)
            if checked.verdict is Verdict.BLOCK:
                raise GuardrailBlocked(checked.reason or f"guardrail {guardrail.name!r} refused the request")
            call = checked.call
            counts.update(checked.counts)
            verdicts.add(checked.verdict)
            if checked.output is not None:
                filters.append(checked.output)
        output = None if not filters else filters[0] if len(filters) == 1 else _Filters(filters)
        worst = next(v for v in (Verdict.MASK, Verdict.FLAG, Verdict.PASS) if v in verdicts)
        return Checked(call, worst, dict(counts), output)

    async def _checked(self, guardrail: Guardrail, call: Call) -> Checked:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await guardrail.check_input(call)
        except MetierError:
            raise
        except TimeoutError as error:
            raise Broken(
                f"guardrail {guardrail.name!r} did not answer within {self.timeout_s} s for call {call.id!r}; "
                "the call was not made"
            ) from error
        except Exception as error:  # a guardrail may be anybody's code, and none may open the road by failing
            raise Broken(
                f"guardrail {guardrail.name!r} failed on call {call.id!r} with {type(error).__name__}; "
                "the call was not made: look at the cause in the log"
            ) from error
