"""What a call may use, told before it is made: its input counted cautiously, its output as this key's usual ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal

from metier.calls import Call, Impact, KeyId, Usage
from metier.deployment import Deployment, Model
from metier.errors import NotAllowed
from metier.policy.limits import Measure
from metier.tokens import bound, likely, shape_of, sound_s

__all__ = ["Expected", "Footprint", "Outputs", "expected", "used"]

Footprint = Callable[[Deployment, Usage, float], Impact]
"""Estimates energy and carbon of so many tokens in so many seconds."""

_ZERO = Decimal(0)
_ONE = Decimal(1)
_NANO = Decimal("0.000000001")
_FIRST_OUTPUT = 1_024
_MARGIN = 1.5
_FEWEST = 20
_MOST = 64
_MOST_KEYS = 20_000
_TOKENS_PER_S = 20.0
_BEFORE_FIRST_S = 2.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What a call is held for, on the dearest of the deployments it may go to."""

    input_tokens: int
    """Seldom exceeded by the real count."""
    likely_tokens: int
    """What the record counts where the provider gives no figure."""
    output_tokens: int
    model: Model
    footprint: Footprint | None
    images: int = 0
    searches: int = 0
    minutes: Decimal = _ZERO

    def need(self, measure: Measure) -> Decimal | None:
        """Give it in one measure; None when it is not known there."""
        if measure == "money":
            return self.money
        if measure == "tokens":
            return Decimal(self.input_tokens + self.output_tokens)
        if measure in ("energy", "carbon"):
            return self._footprint(measure, self.output_tokens)
        return _ONE

    def more(self, measure: Measure, output_tokens: int) -> Decimal:
        """Give what so many further output tokens use."""
        if measure == "money":
            return self._dearest(0, output_tokens)
        if measure == "tokens":
            return Decimal(output_tokens)
        if measure in ("energy", "carbon"):
            return self._footprint(measure, output_tokens) or _ZERO
        return _ZERO

    @property
    def money(self) -> Decimal:
        """The money held where any limit is of money."""
        return self._dearest(self.input_tokens, self.output_tokens, self.images, self.minutes, self.searches)

    def _dearest(
        self, input_tokens: int, output_tokens: int, images: int = 0, minutes: Decimal = _ZERO, searches: int = 0
    ) -> Decimal:
        most = _ZERO
        for deployment in self.model.deployments:
            price = deployment.price
            if price is not None:
                found = price.of(input_tokens, output_tokens, images=images, minutes=minutes, searches=searches)
                most = max(most, found)
        return most

    def _footprint(self, measure: Measure, output_tokens: int) -> Decimal | None:
        most = 0.0
        usage = Usage(self.input_tokens, output_tokens)
        for deployment in self.model.deployments:
            seconds = _BEFORE_FIRST_S + output_tokens / _TOKENS_PER_S
            found = self.footprint(deployment, usage, seconds) if self.footprint else None
            value = None if found is None else _high(found, measure)
            if value is None:
                return None
            most = max(most, value)
        return Decimal(most).quantize(_NANO, ROUND_UP)


class Outputs:
    """Remembers how long the answers to each key have been of late, so that a call holds about what it will use."""

    def __init__(self) -> None:
        self._seen: dict[tuple[KeyId, str], deque[int]] = {}
        self._usual: dict[tuple[KeyId, str], int] = {}

    def note(self, key: KeyId, model: str, tokens: int) -> None:
        """Take the length of one more answer of a model into account."""
        name = (key, model)
        seen = self._seen.get(name)
        if seen is None:
            if len(self._seen) >= _MOST_KEYS:
                self._seen.clear()
                self._usual.clear()
            seen = self._seen[name] = deque(maxlen=_MOST)
        seen.append(tokens)
        if len(seen) >= _FEWEST:
            self._usual.pop(name, None)

    def expect(self, call: Call, model: Model) -> int:
        """Expect min(asked, most of the model, 1.5 × p95 of this key); a key not seen yet: 1,024 where not asked."""
        if call.operation in ("embed", "rerank"):
            return 0
        most = max((deployment.max_output_tokens for deployment in model.deployments), default=0)
        asked = call.max_output_tokens
        usual = self._p95((call.principal.key_id, call.model))
        if usual is None:
            return min(_FIRST_OUTPUT if asked is None else asked, most)
        return min(most if asked is None else asked, most, usual)

    def _p95(self, name: tuple[KeyId, str]) -> int | None:
        usual = self._usual.get(name)
        if usual is None:
            seen = self._seen.get(name)
            if seen is None or len(seen) < _FEWEST:
                return None
            usual = self._usual[name] = max(1, int(sorted(seen)[int(0.95 * (len(seen) - 1))] * _MARGIN))
        return usual


def expected(call: Call, model: Model, outputs: Outputs, footprint: Footprint | None) -> Expected:
    """Say what a call is held for; a call that may go where the price is unknown is refused unless accepted there."""
    for deployment in model.deployments:
        if deployment.price is None and not deployment.allow_unpriced:
            raise NotAllowed(
                f"the price of deployment {deployment.id!r} behind {model.name!r} is unknown, so no money can be held "
                "for it: declare `price` in metier.yaml, or `allow_unpriced: true`",
                param="model",
            )
    shape, families = shape_of(call), {deployment.tokenizer for deployment in model.deployments}
    return Expected(
        bound(shape, families),
        likely(shape, families),
        outputs.expect(call, model),
        model,
        footprint,
        images=int(call.operation == "image"),
        searches=int(call.operation == "rerank"),
        minutes=Decimal(0) if call.audio is None else Decimal(repr(sound_s(call.audio))) / 60,
    )


def used(measure: Measure, cost: Decimal, usage: Usage | None, impact: Impact | None) -> Decimal:
    """Say what a call used in one measure, exactly as PostgreSQL charges it."""
    if measure == "money":
        return cost
    if measure == "tokens":
        return Decimal(usage.input_tokens + usage.output_tokens) if usage else _ZERO
    if measure in ("energy", "carbon"):
        value = None if impact is None else _high(impact, measure)
        return _ZERO if value is None else Decimal(repr(value)).quantize(_NANO)
    return _ONE


def _high(impact: Impact, measure: Measure) -> float | None:
    if measure == "energy":
        return None if impact.energy_kwh is None else impact.energy_kwh.high * 1000
    return None if impact.carbon_g is None else impact.carbon_g.high
