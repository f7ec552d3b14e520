from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from importlib import resources
from typing import Any

import pytest
import yaml
from ecologits.model_repository import models

from metier.calls import Usage
from metier.catalog import Catalog, Deployment
from metier.deployment import Abilities
from metier.errors import ConfigError
from metier.record.impact import NOT_ESTIMATED, impact

ROWS: list[dict[str, Any]] = tomllib.loads(
    resources.files("metier").joinpath("data/known_models.toml").read_text("utf-8")
)["models"]


def deployment(text: str, today: date = date(2026, 11, 21)) -> Deployment:
    entry = yaml.safe_load(text)
    return Catalog.from_yaml({"m": {"deployments": [entry]}}, today=today).model("m").deployments[0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["model_id"]))
def test_an_entry_says_what_it_says_in_the_words_of_the_catalogue(row: dict[str, Any]) -> None:
    allowed = {
        "model_id", "also", "provider", "host", "recorded_on", "source", "publisher", "usd", "later", "context_tokens",
        "max_output_tokens", "modalities", "tools", "structured", "energy",
    }  # fmt: skip
    assert row.keys() <= allowed
    assert len(row["source"]) > 10 and isinstance(row["recorded_on"], date)
    assert set(row.get("modalities", ())) <= {"text", "image", "audio", "document"}
    for usd in (row.get("usd"), row.get("later", {}).get("usd")):
        if usd is not None:
            assert {"input", "output"} <= usd.keys() <= {"input", "output", "cached", "cache_write", "search"}
            assert all(Decimal(text) >= 0 for text in usd.values())
            assert Decimal(usd.get("cached", usd["input"])) <= Decimal(usd["input"])
    if row.get("publisher"):
        hosts = ("platform.claude.com/", "developers.openai.com/", "ai.google.dev/")
        assert any(host in row["source"] for host in hosts), "a publisher's page is on the publisher's site"


@pytest.mark.parametrize("row", [row for row in ROWS if "energy" in row], ids=lambda row: str(row["model_id"]))
def test_every_energy_card_names_a_model_that_ecologits_knows(row: dict[str, Any]) -> None:
    card = row["energy"]
    assert models.find_model(card["provider"], card["model"]) is not None
    found = deployment(f"{{provider: {row['provider']}, model_id: {row['model_id']}}}")
    assert found.energy is not None
    assert impact(found, Usage(100, 100), 2.0) != NOT_ESTIMATED


def test_no_name_stands_for_two_models() -> None:
    names = [name for row in ROWS for name in (row["model_id"], *row.get("also", ()))]
    assert len(names) == len(set(names))


def test_what_is_known_of_a_model_fills_what_the_entry_leaves_out() -> None:
    found = deployment("{provider: anthropic, model_id: claude-haiku-4-5-20251001, tools: false}")
    assert (found.context_tokens, found.max_output_tokens, found.window_known) == (200_000, 64_000, True)
    assert found.abilities == Abilities(frozenset({"text", "image", "document"}), False, True, None)
    assert found.price is not None and found.price.publisher and found.price.cache_write_eur == Decimal("1.25")
    assert found.base_url is None, "the provider knows its own address"
    assert deployment("{provider: openai, model_id: grok-4.5}").base_url == "https://api.x.ai/v1"


@pytest.mark.parametrize(
    "entry",
    [
        "{provider: azure, model_id: prod, base_url: 'https://x.openai.azure.com', base_model: gpt-4.1-mini}",
        "{provider: openai, model_id: prod, base_url: 'https://ours.example/v1', base_model: gpt-4.1-mini}",
    ],
)
def test_a_deployment_with_a_name_of_ones_own_says_what_model_it_is_but_not_at_the_publishers_price(entry: str) -> None:
    found = deployment(entry)
    assert found.price is None
    assert (found.context_tokens, found.max_output_tokens) == (1_047_576, 32_768)
    assert found.energy is not None and found.energy.model == "gpt-4.1-mini"
    assert found.abilities.tools and found.tokenizer == "o200k"


def test_the_publishers_price_holds_for_another_name_at_its_own_address() -> None:
    found = deployment("{provider: openai, model_id: 'gpt-4o-mini-2024-07-18', base_model: gpt-4o-mini}")
    assert found.price is not None and found.price.input_eur == Decimal("0.15")
    assert found.base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize(
    "entry",
    [
        "{provider: bedrock, model_id: 'eu.anthropic.claude-haiku-4-5-20251001-v1:0', options: {region: eu-west-3}}",
        "{provider: bedrock, model_id: 'anthropic.claude-haiku-5-5', options: {region: eu-west-3}}",
        "{provider: vertex, model_id: gemini-2.5-flash, options: {project: p, location: europe-west9}}",
    ],
)
def test_a_name_of_bedrock_or_vertex_tells_the_model_but_no_price(entry: str) -> None:
    found = deployment(entry)
    assert found.price is None and found.energy is not None and found.window_known


def test_a_name_met_at_another_address_says_nothing() -> None:
    found = deployment("{provider: openai, model_id: gpt-4o, base_url: 'http://10.0.0.5/v1'}")
    assert (found.price, found.energy, found.window_known, found.abilities) == (None, None, False, Abilities())


def test_a_base_model_nobody_knows_is_refused_with_names_near_it() -> None:
    with pytest.raises(ConfigError, match=r"base_model: gpt-4o-mimi.*did you mean gpt-4o-mini"):
        deployment("{provider: azure, model_id: x, base_url: 'https://x', base_model: gpt-4o-mimi}")


def test_a_change_of_price_that_is_announced_holds_from_its_day_unless_the_entry_has_a_price() -> None:
    entry = "{provider: gemini, model_id: gemini-3.8-flash}"
    before, after = deployment(entry, date(2026, 12, 31)).price, deployment(entry, date(2027, 1, 1)).price
    assert before is not None and after is not None
    assert (before.input_eur, after.input_eur) == (Decimal("0.75"), Decimal("1.50"))
    ours = deployment("{provider: gemini, model_id: gemini-3.8-flash, price: {input: 9, output: 9}}", date(2027, 1, 1))
    assert ours.price is not None and ours.price.input_eur == 9


def test_a_version_that_yaml_reads_as_a_date_is_taken_as_written() -> None:
    found = deployment("{provider: azure, model_id: m, base_url: 'https://x', options: {api_version: 2024-10-21}}")
    assert found.options == {"api_version": "2024-10-21"}
    with pytest.raises(ConfigError, match="api_version"):
        deployment("{provider: azure, model_id: m, base_url: 'https://x', options: {api_version: 2024}}")
