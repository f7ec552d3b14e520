from __future__ import annotations

import dataclasses
from decimal import Decimal

import pytest
from ecologits.tracers.utils import llm_impacts
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import Impact, Usage
from metier.catalog import Catalog, Deployment, EnergyCard
from metier.record.impact import NOT_ESTIMATED, cost, impact

BASE = Catalog.from_yaml({"m": {"deployments": [{"provider": "openai", "model_id": "gpt-4o-mini"}]}}).model("m")


def deployed(card: EnergyCard | None) -> Deployment:
    return dataclasses.replace(BASE.deployments[0], energy=card)


def figures(found: Impact) -> tuple[float, float, float, float]:
    assert found.energy_kwh is not None and found.carbon_g is not None
    return found.energy_kwh.low, found.energy_kwh.high, found.carbon_g.low, found.carbon_g.high


@pytest.mark.parametrize(
    ("card", "energy", "carbon_mg", "zone"),
    [
        (EnergyCard("openai", "gpt-4o-mini"), (1.64e-5, 1.98e-5), (6.9, 8.2), "USA"),
        (EnergyCard("mistralai", "mistral-small-latest"), (6.7e-5, 6.7e-5), (5.6, 5.6), "SWE"),
        (EnergyCard("mistralai", "mistral-small-latest", zone="FRA"), (6.7e-5, 6.7e-5), (6.0, 6.0), "FRA"),
    ],
)
def test_the_published_reference_figures_come_out(
    card: EnergyCard, energy: tuple[float, float], carbon_mg: tuple[float, float], zone: str
) -> None:
    found = impact(deployed(card), Usage(1000, 250), 5.0)
    assert figures(found)[:2] == pytest.approx(energy, rel=0.01)
    assert [g * 1000 for g in figures(found)[2:]] == pytest.approx(carbon_mg, rel=0.011)
    assert found.zone == zone and "EcoLogits 0.11" in found.method and "input tokens not counted" in found.method


@settings(max_examples=40, deadline=None)
@given(
    card=st.sampled_from(
        [
            EnergyCard("openai", "gpt-4o-mini"),
            EnergyCard("openai", "gpt-4o", zone="FRA"),
            EnergyCard("mistralai", "mistral-small-latest"),
            EnergyCard("anthropic", "claude-haiku-4-5"),
            EnergyCard("google_genai", "gemini-2.5-flash"),
        ]
    ),
    tokens=st.integers(1, 100_000),
    duration_s=st.floats(0.001, 10_000),
)
def test_the_four_lines_say_what_ecologits_says(card: EnergyCard, tokens: int, duration_s: float) -> None:
    wanted = llm_impacts(card.provider, card.model or "", tokens, duration_s, card.zone)
    assert wanted.energy is not None and wanted.gwp is not None
    low_high = [(getattr(v, "min", v), getattr(v, "max", v)) for v in (wanted.energy.value, wanted.gwp.value)]
    expected = (*low_high[0], *(g * 1000 for g in low_high[1]))
    assert figures(impact(deployed(card), Usage(0, tokens), duration_s)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    "card",
    [
        None,
        EnergyCard("openai", "never-heard-of"),
        EnergyCard("nobody", "gpt-4o-mini"),
        EnergyCard("openai", "gpt-4o-mini", zone="XXX"),
        EnergyCard(),
        EnergyCard(active_b=8, zone="XXX"),
    ],
)
def test_the_unknown_is_not_estimated_and_never_zero(card: EnergyCard | None) -> None:
    assert impact(deployed(card), Usage(10, 10), 1.0) is NOT_ESTIMATED
    assert Impact("not estimated", None, None, None) == NOT_ESTIMATED


def test_without_output_tokens_ecologits_knows_nothing() -> None:
    assert impact(BASE.deployments[0], Usage(1000, 0), 1.0) is NOT_ESTIMATED


def test_a_self_hosted_model_is_estimated_from_its_parameters() -> None:
    dense = impact(deployed(EnergyCard(active_b=8, total_b=8, zone="FRA")), Usage(0, 250), 60.0)
    sparse = impact(deployed(EnergyCard(active_b=8, total_b=120, zone="FRA")), Usage(0, 250), 60.0)
    assert "8 B active parameters, PUE 1.2-1.6 assumed, FRA mix" in dense.method
    assert figures(dense)[0] < figures(dense)[1] < figures(sparse)[1]
    assert impact(deployed(EnergyCard(total_b=8)), Usage(0, 250), 60.0).zone == "WOR"


def test_the_local_machine_counts_measured_time_times_declared_power() -> None:
    found = impact(deployed(EnergyCard(watts=50, zone="FRA")), Usage(10, 10), 36.0)
    assert found.energy_kwh is not None and found.carbon_g is not None
    assert (found.energy_kwh.low, found.energy_kwh.high) == pytest.approx((0.0004, 0.0006))
    assert "measured time x declared power" in found.method and found.zone == "FRA"
    assert 0.01 < found.carbon_g.low < found.carbon_g.high < 0.06
    wide = impact(deployed(EnergyCard(watts=50, watts_high=80)), Usage(10, 0), 36.0)
    assert wide.energy_kwh is not None and wide.zone == "WOR"
    assert (wide.energy_kwh.low, wide.energy_kwh.high) == pytest.approx((0.0005, 0.0008))
    nowhere = impact(deployed(EnergyCard(watts=50, zone="XXX")), Usage(10, 10), 36.0)
    assert nowhere.energy_kwh is not None and nowhere.carbon_g is None


def test_cost_counts_cached_tokens_at_their_own_price() -> None:
    assert cost(BASE.deployments[0], Usage(1_000_000, 1_000_000, 400_000)) == Decimal("0.72")
    assert cost(dataclasses.replace(BASE.deployments[0], price=None), Usage(10, 10)) == 0


def test_tokens_written_to_a_prompt_cache_cost_what_the_price_says() -> None:
    entry = {"provider": "openai", "model_id": "x", "price": {"input": 3, "output": 15, "cache_write": 3.75}}
    deployment = Catalog.from_yaml({"m": {"deployments": [entry]}}).model("m").deployments[0]
    usage = Usage(input_tokens=1_000_000, output_tokens=0, cache_write_tokens=400_000)
    assert cost(deployment, usage) == Decimal("3.3")
