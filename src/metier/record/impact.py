"""Cost, energy and carbon of one call, with the method that found them; the only module that knows EcoLogits."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.metadata import version

from ecologits.electricity_mix_repository import electricity_mixes
from ecologits.impacts.llm import compute_llm_impacts
from ecologits.impacts.modeling import Impacts
from ecologits.tracers.utils import PROVIDER_CONFIG_MAP, ImpactsOutput, llm_impacts
from ecologits.utils.range_value import RangeValue

from metier.calls import Impact, Range, Usage
from metier.catalog import Deployment, EnergyCard

__all__ = ["NOT_ESTIMATED", "cost", "impact"]

NOT_ESTIMATED = Impact("not estimated")
"""The footprint is unknown, which is not the same as none."""

_WORLD = "WOR"
_SELF_HOSTED_PUE = (1.2, 1.6)
_POWER_MARGIN = 0.2
_SECONDS_PER_HOUR = 3600.0
_SECONDS_PER_MINUTE = 60
_ECOLOGITS = f"EcoLogits {version('ecologits')}"


def cost(deployment: Deployment, usage: Usage, images: int = 0, searches: int = 0) -> Decimal:
    """Price what was used, in euros; a deployment whose price is unknown costs nothing here."""
    if deployment.price is None:
        return Decimal(0)
    return deployment.price.of(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        images=images,
        minutes=Decimal(repr(usage.audio_s)) / _SECONDS_PER_MINUTE if usage.audio_s else Decimal(0),
        searches=searches,
    )


def impact(deployment: Deployment, usage: Usage, duration_s: float) -> Impact:
    """Estimate energy and carbon as ranges; `duration_s` is the measured time from request to last token."""
    card = deployment.energy
    if card is None:
        return NOT_ESTIMATED
    if card.watts is not None:
        return _measured(card, duration_s)
    if usage.output_tokens <= 0:
        # EcoLogits counts output tokens only: without any, it knows nothing, and that is not zero.
        return NOT_ESTIMATED
    estimate = _estimate(card)
    if estimate is None:
        return NOT_ESTIMATED
    return estimate.of(usage.output_tokens, duration_s)


def _measured(card: EnergyCard, duration_s: float) -> Impact:
    watts = card.watts or 0.0
    low, high = (
        (watts, card.watts_high) if card.watts_high else (watts * (1 - _POWER_MARGIN), watts * (1 + _POWER_MARGIN))
    )
    zone = card.zone or _WORLD
    hours = duration_s / _SECONDS_PER_HOUR
    energy = Range(low * hours / 1000, max(low, high) * hours / 1000)
    grams = _grams_per_kwh(zone)
    return Impact(
        method=f"measured time x declared power; {zone} mix of {_ECOLOGITS}; making of the machine not counted",
        energy_kwh=energy,
        carbon_g=None if grams is None else Range(energy.low * grams, energy.high * grams),
        zone=zone,
    )


@cache
def _grams_per_kwh(zone: str) -> float | None:
    mix = electricity_mixes.find_electricity_mix(zone=zone)
    return None if mix is None else float(mix.gwp) * 1000


@dataclass(frozen=True, slots=True)
class _Line:
    """One bound as EcoLogits computes it: a part per token, a part per second of a server that generates."""

    per_token: float
    per_second: float
    seconds_per_token: float
    first_token_s: float

    def at(self, tokens: int, duration_s: float) -> float:
        busy = min(duration_s, tokens * self.seconds_per_token + self.first_token_s)
        return self.per_token * tokens + self.per_second * busy


@dataclass(frozen=True, slots=True)
class _Estimate:
    """EcoLogits for one deployment, reduced to four lines so that a call costs microseconds, not a millisecond."""

    method: str
    zone: str
    energy: tuple[_Line, _Line]
    carbon: tuple[_Line, _Line]

    def of(self, tokens: int, duration_s: float) -> Impact:
        energy, carbon = (Range(*(line.at(tokens, duration_s) for line in pair)) for pair in (self.energy, self.carbon))
        return Impact(self.method, energy, carbon, self.zone)


@cache
def _estimate(card: EnergyCard) -> _Estimate | None:
    """Probe EcoLogits at four points; what it computes is linear in tokens and in the time it caps."""
    probes = [
        _ask(card, tokens, latency) for tokens, latency in ((1, 0.0), (0, math.inf), (1000, math.inf), (1000, 1e-3))
    ]
    known = [probe for probe in probes if probe is not None]
    if len(known) != len(probes):
        return None
    lines = [_line(*(probe[bound] for probe in known)) for bound in range(4)]
    zone = card.zone or _default_zone(card)
    basis = f"{card.provider}/{card.model}" if card.model else f"{card.active_b or card.total_b:g} B active parameters"
    place = "" if card.model else f", PUE {_SELF_HOSTED_PUE[0]}-{_SELF_HOSTED_PUE[1]} assumed"
    method = f"{_ECOLOGITS}, {basis}{place}, {zone} mix; input tokens not counted"
    return _Estimate(method, zone, (lines[0], lines[1]), (lines[2], lines[3]))


def _line(one_token_no_time: float, no_token: float, thousand: float, thousand_1ms: float) -> _Line:
    per_token = one_token_no_time
    per_second = (thousand_1ms - 1000 * per_token) / 1e-3
    first_token_s = no_token / per_second if per_second else 0.0
    busy = (thousand - 1000 * per_token) / per_second if per_second else 0.0
    return _Line(per_token, per_second, (busy - first_token_s) / 1000, first_token_s)


def _ask(card: EnergyCard, tokens: int, latency_s: float) -> tuple[float, float, float, float] | None:
    """Give energy low and high in kWh, carbon low and high in g, or None when EcoLogits does not know the card."""
    found: Impacts | ImpactsOutput
    if card.model:
        # Its warnings about undisclosed models say nothing the range does not say.
        chatter = logging.getLogger("ecologits")
        chatter.addFilter(_mute)
        try:
            found = llm_impacts(
                provider=card.provider,
                model_name=card.model,
                output_token_count=tokens,
                request_latency=latency_s,
                electricity_mix_zone=card.zone,
            )
        except KeyError:
            return None
        finally:
            chatter.removeFilter(_mute)
        if found.has_errors:
            return None
    else:
        active, mix = card.active_b or card.total_b, electricity_mixes.find_electricity_mix(zone=card.zone or _WORLD)
        if active is None or mix is None:
            return None
        found = compute_llm_impacts(
            model_active_parameter_count=active,
            model_total_parameter_count=card.total_b or active,
            output_token_count=tokens,
            request_latency=latency_s,
            if_electricity_mix_adpe=mix.adpe,
            if_electricity_mix_pe=mix.pe,
            if_electricity_mix_gwp=mix.gwp,
            if_electricity_mix_wue=mix.wue,
            datacenter_pue=RangeValue(min=_SELF_HOSTED_PUE[0], max=_SELF_HOSTED_PUE[1]),
            datacenter_wue=0.0,
        )
    if found.energy is None or found.gwp is None:
        return None
    (e_low, e_high), (g_low, g_high) = _bounds(found.energy.value), _bounds(found.gwp.value)
    return e_low, e_high, g_low * 1000, g_high * 1000


def _mute(_: logging.LogRecord) -> bool:
    return False


def _default_zone(card: EnergyCard) -> str:
    """The zone EcoLogits takes for a provider when none is given."""
    place = PROVIDER_CONFIG_MAP.get(card.provider) if card.model else None
    return str(place.datacenter_location) if place else _WORLD


def _bounds(value: float | RangeValue) -> tuple[float, float]:
    if isinstance(value, RangeValue):
        return float(value.min), float(value.max)
    return float(value), float(value)
