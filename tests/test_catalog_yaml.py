from __future__ import annotations

from datetime import date, time
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metier.catalog import Catalog, Deployment
from metier.deployment import Abilities, Price
from metier.errors import ConfigError

LOCAL = {"provider": "local", "model_id": "x"}


def catalog(text: str, today: date = date(2026, 11, 21)) -> Catalog:
    return Catalog.from_yaml(yaml.safe_load(text), today=today)


def deployments(text: str) -> tuple[Deployment, ...]:
    return catalog(text).model("m").deployments


def test_what_is_said_of_a_model_holds_for_its_deployments_unless_they_say_otherwise() -> None:
    first, second = deployments("""
m:
  modalities: [text, image]
  tools: true
  languages: [fr, en]
  version: "2507"
  ends_on: 2027-01-31
  replaced_by: n
  deployments:
    - {provider: local, model_id: a}
    - {provider: local, model_id: b, id: b, modalities: [text], tools: false, version: "2601"}
""")
    assert first.abilities == Abilities(frozenset({"text", "image"}), True, None, frozenset({"fr", "en"}))
    assert (first.version, first.ends_on, first.replaced_by) == ("2507", date(2027, 1, 31), "n")
    assert (second.abilities.modalities, second.abilities.tools, second.version) == (frozenset({"text"}), False, "2601")


def test_without_a_word_the_declared_order_holds_and_one_word_makes_groups() -> None:
    plain = deployments("m: {deployments: [{provider: local, model_id: a}, {provider: local, model_id: b, id: b}]}")
    assert [d.priority for d in plain] == [0, 1]
    grouped = deployments("""
m:
  deployments:
    - {provider: local, model_id: a, weight: 3}
    - {provider: local, model_id: b, id: b}
    - {provider: local, model_id: c, id: c, priority: 1}
""")
    assert [(d.priority, d.weight) for d in grouped] == [(0, 3.0), (0, 1.0), (1, 1.0)]


@pytest.mark.parametrize(
    ("text", "affinity"),
    [
        ("m: {deployments: [{provider: local, model_id: a}]}", "none"),
        ("m: {deployments: [{provider: local, model_id: a, weight: 1}, {provider: local, model_id: b, id: b}]}",
         "prefix"),
        ("m: {deployments: [{provider: openai, model_id: a, weight: 1}, {provider: local, model_id: b, id: b}]}",
         "none"),
        ("m: {affinity: session, deployments: [{provider: openai, model_id: a}]}", "session"),
    ],
)  # fmt: skip
def test_servers_of_ours_keep_like_prompts_together_unless_told_otherwise(text: str, affinity: str) -> None:
    assert catalog(text).model("m").affinity == affinity


def test_a_price_holds_from_its_day_and_one_that_has_not_begun_is_unknown() -> None:
    text = """
m:
  deployments:
    - provider: openai
      model_id: x
      prices:
        - {from: 2026-12-01, input: 3, output: 6, currency: USD}
        - {from: 2026-06-01, input: 1, output: 2, cached: 0.1, cache_write: 1.25}
"""
    before, now, later = (catalog(text, day) for day in (date(2026, 1, 1), date(2026, 11, 21), date(2027, 1, 1)))
    prices = [found.model("m").deployments[0].price for found in (before, now, later)]
    assert prices[0] is None and prices[1] is not None and prices[2] is not None
    assert (prices[1].input_eur, prices[1].cache_write_eur) == (Decimal(1), Decimal("1.25"))
    assert prices[2].input_eur == 3
    assert (before.changes_on, now.changes_on, later.changes_on) == (date(2026, 6, 1), date(2026, 12, 1), None)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_cached_and_written_tokens_are_part_of_the_input(asked: int, cached: int, written: int) -> None:
    price = Price(Decimal(3), Decimal(15), Decimal("0.3"), Decimal("3.75"))
    found = price.of(asked, 0, cached, written)
    assert Decimal("0.3") * asked <= found * 1_000_000 <= Decimal("3.75") * asked + 1


def test_images_minutes_and_searches_have_prices_of_their_own() -> None:
    [one] = deployments("""
m: {deployments: [{provider: openai, model_id: x,
  price: {input: 0, output: 0, image: 0.04, minute: 0.006, search: 0.002}}]}
""")
    assert one.price is not None
    assert one.price.of(0, 0, images=2, minutes=Decimal("1.5"), searches=1) == Decimal("0.091")


def test_a_model_of_rules_offers_what_it_may_choose() -> None:
    found = catalog("""
small: {deployments: [{provider: local, model_id: a}]}
large: {deployments: [{provider: local, model_id: b}]}
auto:
  rules:
    - when: {max_tokens: 400, after: 18:30, before: "07:00", weekdays: [sat, sun], zone: UTC}
      use: small
    - use: night
night: {rules: [{use: large}]}
""")
    auto = found.model("auto")
    assert [d.id for d in auto.deployments] == ["small", "large"] and auto.operation == "chat"
    assert auto.rules[0].when.after == time(18, 30) and auto.rules[0].when.weekdays == frozenset({5, 6})


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"m": {"deployments": [LOCAL], "fallbacks": ["n"]}}, "models.m.fallbacks: there is no other model 'n'"),
        ({"m": {"deployments": [LOCAL], "fallbacks": ["m"]}}, "no other model 'm'"),
        ({"m": {"deployments": [LOCAL], "split": [{"use": "n", "percent": 5}]}}, "models.m.split"),
        ({"m": {"rules": [{"use": "m"}]}}, "no other model 'm'"),
        ({"m": {"rules": [{"use": "n"}]}, "n": {"rules": [{"use": "m"}]}}, "lead back to themselves"),
        ({"m": {"rules": [{"use": "n"}], "deployments": [LOCAL]}, "n": {"deployments": [{**LOCAL, "id": "n"}]}},
         "either `deployments`, or `rules`"),
        ({"m": {}}, "either `deployments`, or `rules`"),
        ({"m": {"deployments": [LOCAL], "fallbacks": ["v"]},
          "v": {"operation": "embed", "deployments": [{**LOCAL, "id": "v"}]}}, "'v' is for 'embed'"),
        ({"m": {"rules": [{"use": "n"}, {"use": "v"}]}, "n": {"deployments": [LOCAL]},
          "v": {"operation": "embed", "deployments": [{**LOCAL, "id": "v"}]}}, "different work"),
        ({"m": {"deployments": [LOCAL], "split": [{"use": "n", "percent": 60}, {"use": "o", "percent": 60}]}},
         "more than 100 percent"),
        ({"m": {"deployments": [{**LOCAL, "price": {"input": 1, "output": 1},
                                 "prices": [{"from": "2026-01-01", "input": 1, "output": 1}]}]}}, "not both"),
        ({"m": {"deployments": [{"provider": "openai", "model_id": "x", "sensitivity": "secret"}]}},
         "may receive 'internal' data at most"),
        ({"m": {"deployments": [LOCAL], "modalities": ["smell"]}}, "models.m.modalities"),
        ({"m": {"rules": [{"use": "n", "when": {"zone": "Mars/Olympus"}}]}}, "no time zone"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_by_its_path(entries: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Catalog.from_yaml(entries)
    assert said in caught.value.message


def test_what_ends_within_two_months_is_listed_with_its_replacement() -> None:
    found = catalog("""
m:
  deployments:
    - {provider: local, model_id: a, ends_on: 2027-01-10, replaced_by: n}
    - {provider: local, model_id: b, id: b, ends_on: 2027-06-01}
    - {provider: local, model_id: c, id: c, ends_on: 2026-11-01}
""")
    endings = found.endings(date(2026, 11, 21))
    assert [(e.deployment, e.days) for e in endings] == [("c", -20), ("m", 50)]
    assert "ended on 2026-11-01: choose a replacement" in endings[0].message
    assert "in 50 days): try its replacement 'n'" in endings[1].message
