from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from importlib import resources
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metier.catalog import Catalog, Price
from metier.errors import ConfigError, NotFound


def catalog(text: str) -> Catalog:
    return Catalog.from_yaml(yaml.safe_load(text))


def test_a_known_model_at_its_publisher_has_a_price_a_card_and_an_address() -> None:
    [deployment] = (
        catalog("m: {deployments: [{provider: openai, model_id: gpt-4o-mini, api_key: sk}]}").model("m").deployments
    )
    assert deployment.price == Price(Decimal("0.15"), Decimal("0.60"), Decimal("0.075"))
    assert deployment.energy is not None and deployment.energy.model == "gpt-4o-mini"
    assert deployment.base_url == "https://api.openai.com/v1" and deployment.hosting == "public"
    assert (deployment.context_tokens, deployment.max_output_tokens) == (128000, 16384)


def test_the_same_name_at_a_reseller_has_no_known_price() -> None:
    text = "m: {deployments: [{provider: openai, model_id: gpt-4o-mini, base_url: 'https://reseller.example/v1'}]}"
    [deployment] = catalog(text).model("m").deployments
    assert deployment.price is None and deployment.energy is None and not deployment.allow_unpriced


def test_what_is_declared_wins_and_local_models_are_free() -> None:
    found = catalog("""
writer:
  description: Rédige
  licence: apache-2.0
  deployments:
    - {provider: local, model_id: qwen, energy: {watts: 45, watts_high: 65, zone: FRA}, country: FR}
    - provider: openai
      model_id: mistral-small-latest
      id: mistral-eu
      price: {input: 0.1, output: 0.3}
      max_output_tokens: 500
      timeout_s: 30
      country: FR
embedder: {operation: embed, deployments: [{provider: local, model_id: e5}]}
""")
    assert found.names() == ("writer", "embedder") and [m.operation for m in found.models()] == ["chat", "embed"]
    local, remote = found.model("writer").deployments
    assert local.price == Price(Decimal(0), Decimal(0), Decimal(0)) and local.hosting == "local"
    assert local.energy is not None and (local.energy.watts, local.energy.watts_high) == (45, 65)
    assert remote.price == Price(Decimal("0.1"), Decimal("0.3"), Decimal("0.1"))
    assert (remote.id, remote.max_output_tokens, remote.timeout_s, remote.country) == ("mistral-eu", 500, 30, "FR")
    assert (local.id, found.model("embedder").deployments[0].id) == ("writer", "embedder")


def test_every_price_says_who_gave_it_and_known_ones_are_to_be_verified() -> None:
    found = catalog("""
writer:
  deployments:
    - {provider: openai, model_id: gpt-4o}
    - {id: ours, provider: openai, model_id: gpt-4o, price: {input: 1, output: 2}}
    - {id: here, provider: local, model_id: qwen}
    - {id: nobody, provider: openai, model_id: x, base_url: "http://10.0.0.5/v1"}
""")
    known, ours, here, nobody = found.model("writer").deployments
    assert known.price is not None and known.price.recorded_on is not None
    assert known.price.source.endswith("1 USD counted as 1.00 EUR")
    assert ours.price is not None and (ours.price.source, ours.price.recorded_on) == ("metier.yaml", None)
    assert here.price is not None and (here.price.source, here.price.recorded_on) == ("this machine", None)
    assert nobody.price is None


@pytest.mark.parametrize("rate", [0.5, "0.5", 2])
def test_dollars_of_the_known_list_are_counted_at_the_rate_of_metier_yaml(rate: object) -> None:
    entries = [
        {"provider": "openai", "model_id": "gpt-4o"},
        {"provider": "openai", "model_id": "gpt-4o", "id": "ours", "price": {"input": 1, "output": 2}},
    ]
    known, ours = Catalog.from_yaml({"m": {"deployments": entries}}, rate).model("m").deployments
    times = Decimal(str(rate))
    assert known.price == Price(times * Decimal("2.5"), times * 10, times * Decimal("1.25"))
    assert known.price is not None and f"1 USD counted as {times} EUR" in known.price.source
    assert ours.price == Price(Decimal(1), Decimal(2), Decimal(1))


@pytest.mark.parametrize("rate", [0, -1, "one", float("nan"), float("inf"), [1], 10**9])
def test_a_rate_that_is_none_is_refused_by_name(rate: object) -> None:
    with pytest.raises(ConfigError, match="eur_per_usd"):
        Catalog.from_yaml({}, rate)


def test_the_known_list_claims_no_more_than_a_day_and_a_source() -> None:
    text = resources.files("metier").joinpath("data/known_models.toml").read_text("utf-8")
    assert "verified_on" not in text and "TO VERIFY" in text
    for row in tomllib.loads(text)["models"]:
        assert isinstance(row["recorded_on"], date) and len(row["source"]) > 10, row["model_id"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"m": {"deployments": [{"provider": "openai", "model_id": "x", "price": {"input": -1, "output": 1}}]}},
         "metier.yaml: models.m.deployments[0].price.input must be greater than or equal to 0"),
        ({"m": {"deployments": [{"provider": "openai", "model_id": "x", "prise": 1}]}},
         "models.m.deployments[0].prise is no entry that is known"),
        ({"m": {"deployments": [{"provider": "azur", "model_id": "x"}]}}, "deployments[0] cannot be used: `provider`"),
        ({"m": {"deployments": [{"provider": "bedrock", "model_id": "x"}]}}, "needs options: region"),
        ({"m": {"deployments": [{"provider": "openai", "model_id": "x", "options": {"regoin": "y"}}]}}, "not 'regoin'"),
        ({"m": {"deployments": []}}, "models.m.deployments"),
        ({"m": {"deployments": [{"provider": "local", "model_id": "x", "country": "France"}]}}, "country"),
        ({"m": {"deployments": [{"provider": "local", "model_id": "x", "timeout_s": float("inf")}]}}, "timeout_s"),
        ({"m": {"deployments": [{"provider": "openai", "model_id": "x", "price": {"input": "NaN", "output": 1}}]}},
         "price.input"),
        ({"m": {"deployments": [{"provider": "openai", "model_id": "x", "base_url": "file:///etc"}]}}, "base_url"),
        ({"a name": {"deployments": [{"provider": "local", "model_id": "x"}]}}, "models.a name"),
        (["m"], "models must be entries of the form `name: value`"),
        ({"m": {"deployments": [{"provider": "local", "model_id": "x", "id": "i"}] * 2}}, "the id 'i' is already used"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_by_its_path(data: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Catalog.from_yaml(data)
    assert said in caught.value.message


def test_a_credential_shows_neither_in_an_error_nor_in_a_representation() -> None:
    with pytest.raises(ConfigError) as caught:
        Catalog.from_yaml({"m": {"deployments": [{"provider": "openai", "model_id": "x", "api_key": ["canary"]}]}})
    assert "canary" not in caught.value.message and "api_key" in caught.value.message
    model = catalog("m: {deployments: [{provider: openai, model_id: x, api_key: canary}]}").model("m")
    assert "canary" not in repr(model) and model.deployments[0].api_key == "canary"


def test_an_unknown_model_is_not_found_and_the_known_ones_are_offered() -> None:
    with pytest.raises(NotFound, match=r"no model 'x' here.*\(m\)"):
        catalog("m: {deployments: [{provider: local, model_id: x}]}").model("x")
    with pytest.raises(NotFound, match="metier init"):
        Catalog.from_yaml({}).model("x")


@given(
    st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7),
    st.decimals(0, 1000, places=6), st.decimals(0, 1000, places=6),
)  # fmt: skip
def test_a_price_is_exact_to_the_ninth_decimal_and_never_below_the_sum(
    asked: int, answered: int, cached: int, first: Decimal, second: Decimal
) -> None:
    price = Price(first, second, first / 2)
    exact = (first * (asked - min(cached, asked)) + first / 2 * min(cached, asked) + second * answered) / 1_000_000
    assert 0 <= price.of(asked, answered, cached) - exact < Decimal("0.000000001")
