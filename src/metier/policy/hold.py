"""What one call holds of every limit above it, from its admission to its end, and what ends it midway."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

from metier.calls import Chunk, Impact, Principal, Usage
from metier.errors import BudgetExceeded
from metier.policy.estimate import Expected, Outputs, used
from metier.policy.leases import Leases, Reserved
from metier.policy.limits import UNITS, Limit
from metier.policy.rates import Drawn

__all__ = ["Entry", "Hold", "Meter"]

_ZERO = Decimal(0)
_BYTES_PER_TOKEN = 3
"""As the ledger counts where a provider gives no figure."""
_LEAST_MORE = 64


class Entry(Protocol):
    """What admission needs of the record of a call: to write down what is held for it, and to read what it used."""

    usage: Usage | None
    impact: Impact

    def hold(self, hold: Hold | None, input_tokens: int) -> None:
        """Record the reservation durably, or raise LedgerBroken so that no call is made."""
        ...


class Hold:
    """Everything held for one call; settled once, when the call ends, however it ends."""

    __slots__ = ("_drawn", "_entry", "_model", "_outputs", "_principal", "amount", "lease", "parts")

    def __init__(self, entry: Entry, principal: Principal, model: str, outputs: Outputs) -> None:
        self.amount = _ZERO
        """Money held, where any limit is of money: what a call that is lost is charged."""
        self.lease = ""
        """The leases that pay, each with what it holds, as the ledger keeps them: id=amount id=amount."""
        self.parts: list[Reserved] = []
        self._drawn: list[Drawn] = []
        self._entry = entry
        self._principal = principal
        self._model = model
        self._outputs = outputs

    def add(self, part: Reserved | Drawn) -> None:
        """Hold a further part; a reservation of a lease that is held already is merged into it."""
        if isinstance(part, Drawn):
            self._drawn.append(part)
            return
        if part.limit.measure == "money":
            self.amount = max(self.amount, part.amount)
        for held in self.parts:
            if held.take(part):
                return
        self.parts.append(part)

    def seal(self) -> None:
        """Write down the leases with what each holds for this call."""
        self.lease = " ".join([f"{part.lease}={part.amount:f}" for part in self.parts])

    def settle(self, cost: Decimal) -> None:
        """Replace what was held by what the call really cost and used; call it once."""
        self.seal()
        usage, impact = self._entry.usage, self._entry.impact
        for part in self.parts:
            part.settle(used(part.limit.measure, cost, usage, impact))
        for drawn in self._drawn:
            drawn.settle(int(used(drawn.limit.measure, cost, usage, impact)))
        if usage is not None and usage.output_tokens:
            self._outputs.note(self._principal.key_id, self._model, usage.output_tokens)

    def undo(self) -> None:
        """Give everything back: the call is not made, or not like this."""
        for part in self.parts:
            part.settle(_ZERO)
        for drawn in self._drawn:
            drawn.settle(0)
        self.parts.clear()
        self._drawn.clear()
        self.amount = _ZERO


class Meter:
    """Follows one answer past what was held for it: holds more while every budget has it, else ends the answer."""

    __slots__ = ("_bytes", "_expected", "_hold", "_leases", "_limits", "_until", "tokens")

    def __init__(
        self, hold: Hold, expected: Expected, leases: Leases, limits: Sequence[tuple[Limit, str, bool]]
    ) -> None:
        self._hold = hold
        self._expected = expected
        self._leases = leases
        self._limits = limits
        """Each with its end user, and whether it is only told, not enforced."""
        self._bytes = 0
        self.tokens = max(expected.output_tokens, 1)
        """Output tokens held so far."""
        self._until = self.tokens * _BYTES_PER_TOKEN

    def passed(self, chunk: Chunk) -> bool:
        """Count a piece, and tell whether the answer is longer than what is held for it."""
        text = chunk.text
        self._bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        for thought in chunk.reasoning:
            self._bytes += len(thought.text)
        for delta in chunk.tool_calls:
            self._bytes += len(delta.arguments)
        # A piece that ends the answer has been paid for: to keep it back would save nothing.
        return self._bytes > self._until and chunk.finish is None

    async def extend(self) -> None:
        """Hold as much again, or a little where no more is left; else raise BudgetExceeded, which ends the answer."""
        behind = -(-(self._bytes - self._until) // _BYTES_PER_TOKEN)
        for more in (behind + max(self.tokens, _LEAST_MORE), behind + _LEAST_MORE, behind):
            short = await self._reserve(more)
            if short is None:
                self.tokens += more
                self._until = self.tokens * _BYTES_PER_TOKEN
                return
        assert short is not None
        raise BudgetExceeded(
            f"the answer was cut off after about {self.tokens} tokens: the limit of {short.amount:f} "
            f"{UNITS[short.measure]} per {short.period} of {short.whose} is used up; raise it, or wait for its next "
            "period"
        )

    async def _reserve(self, tokens: int) -> Limit | None:
        """Hold so many further tokens of every limit; gives the limit that has no more, and then holds nothing."""
        got: list[Reserved] = []
        for limit, member, forced in self._limits:
            need = self._expected.more(limit.measure, tokens)
            part = await self._leases.reserve(limit, member, need, forced=forced) if need else None
            if part is not None:
                got.append(part)
            elif need:
                for held in got:
                    held.settle(_ZERO)
                return limit
        for held in got:
            self._hold.add(held)
        return None
