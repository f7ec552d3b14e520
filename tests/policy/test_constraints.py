from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.calls import Call, Media, Message, OutputSchema, Text, Tool
from metier.deployment import CEILINGS, SENSITIVITIES, Abilities, Model
from metier.errors import ConfigError, Invalid, MetierError, NoDeployment, NotAllowed, Unavailable
from metier.policy.constraints import Constraints, Rules
from tests.router.world import CALL, deployment

PUBLIC = deployment("public", hosting="public", country="US")
PRIVATE = deployment("private", hosting="private", country="FR")
LOCAL = deployment("local", country=None)
MODEL = Model("m", (PUBLIC, PRIVATE, LOCAL))


def left(rules: Rules | None, call: Call = CALL, model: Model = MODEL) -> list[str]:
    return [d.id for d in Constraints().eligible(call, model, rules).deployments]


def refused(rules: Rules | None, call: Call = CALL, model: Model = MODEL) -> MetierError:
    constraints = Constraints()
    return constraints.refusal(call, [constraints.eligible(call, model, rules)])


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        (None, ["public", "private", "local"]),
        (Rules(), ["public", "private", "local"]),
        (Rules(sensitivity="confidential"), ["private", "local"]),
        (Rules(sensitivity="secret"), ["local"]),
        (Rules(hosting=frozenset({"public"})), ["public"]),
        (Rules(sensitivity="confidential", hosting=frozenset({"public", "local"})), ["local"]),
        (Rules(countries=frozenset({"FR"})), ["private", "local"]),
        (Rules(countries=frozenset({"US"})), ["public", "local"]),
        (Rules(models=frozenset({"other"})), []),
    ],
)
def test_rules_of_the_house_remove_deployments(rules: Rules | None, allowed: list[str]) -> None:
    assert left(rules) == allowed


def test_a_missing_price_is_one_reason_among_others() -> None:
    priceless, deaf = deployment("p", price=None), deployment("t", abilities=Abilities(tools=False))
    tools = replace(CALL, tools=(Tool("t", "", {}),))
    assert left(None, model=Model("m", (priceless, LOCAL))) == ["local"]
    error = refused(None, tools, Model("m", (priceless, deaf)))
    assert isinstance(error, Invalid) and "declare `price`" in error.message and "cannot call tools" in error.message
    error = refused(Rules(sensitivity="secret"), model=Model("m", (priceless, PUBLIC)))
    assert isinstance(error, NotAllowed) and "'p' has no known price" in error.message and "systems:" in error.message
    kept = Constraints(any_price=True).eligible(CALL, Model("m", (priceless,)), None)
    assert kept.deployments == (priceless,)
    accepted = deployment("a", price=None, allow_unpriced=True)
    assert left(None, model=Model("m", (priceless, accepted))) == ["a"]


def test_an_unknown_country_is_not_an_allowed_one() -> None:
    nowhere = Model("m", (deployment("n", hosting="private", country=None),))
    assert left(Rules(countries=frozenset({"FR"})), model=nowhere) == []


def test_a_deployment_may_declare_a_lower_ceiling_and_never_a_higher_one() -> None:
    lower = deployment("l", hosting="private", sensitivity="public")
    higher = deployment("h", hosting="public", sensitivity="secret")
    assert (lower.ceiling, higher.ceiling) == ("public", "internal")


@given(st.sampled_from(SENSITIVITIES), st.lists(st.sampled_from(sorted(CEILINGS)), min_size=1, max_size=6))
def test_no_deployment_below_the_sensitivity_is_ever_left(sensitivity: Any, hostings: list[Any]) -> None:
    model = Model("m", tuple(deployment(str(i), hosting=hosting) for i, hosting in enumerate(hostings)))
    found = Constraints().eligible(CALL, model, Rules(sensitivity=sensitivity))
    rank = SENSITIVITIES.index
    assert all(rank(CEILINGS[d.hosting]) >= rank(sensitivity) for d in found.deployments)
    assert {d.id for d in found.deployments} | set(found.removed) == {d.id for d in model.deployments}


IMAGE = Message("user", parts=(Text("Que voit-on ?"), Media("image/png", "AAAA")))
TOOL = Tool("heure", "", {})


@pytest.mark.parametrize(
    ("able", "call", "said"),
    [
        (Abilities(modalities=frozenset({"text"})), replace(CALL, messages=(IMAGE,)), "does not take image"),
        (Abilities(tools=False), replace(CALL, tools=(TOOL,)), "cannot call tools"),
        (Abilities(structured=False), replace(CALL, output=OutputSchema("o", {})), "JSON Schema"),
        (Abilities(languages=frozenset({"en"})), replace(CALL, language="fr"), "good in fr"),
    ],
)
def test_what_is_declared_not_to_be_able_is_left_out(able: Abilities, call: Call, said: str) -> None:
    model = Model("m", (deployment("a", abilities=able),))
    assert left(None, call, model) == []
    error = refused(None, call, model)
    assert isinstance(error, Invalid) and said in error.message and "'a'" in error.message
    assert left(None, CALL, model) == ["a"] and left(None, call, Model("m", (deployment("b"),))) == ["b"]


def test_a_system_keeps_to_models_good_in_its_languages() -> None:
    model = Model("m", (deployment("a", abilities=Abilities(languages=frozenset({"en"}))), deployment("b")))
    assert left(Rules(languages=frozenset({"fr"})), model=model) == ["b"]


def test_a_call_larger_than_a_window_goes_to_a_larger_one() -> None:
    small = deployment("small", context_tokens=1_000, window_known=True)
    large = deployment("large", context_tokens=100_000, window_known=True)
    guessed = deployment("guessed", context_tokens=10)
    model = Model("m", (small, large, guessed))
    long = replace(CALL, messages=(Message("user", "mot " * 2_000),))
    assert left(None, model=model) == ["small", "large", "guessed"]
    assert left(None, long, model) == ["large", "guessed"]
    with_answer = replace(CALL, messages=(Message("user", "mot " * 700),), max_output_tokens=400)
    assert left(None, with_answer, model) == ["large", "guessed"]
    error = refused(None, long, Model("m", (small,)))
    assert isinstance(error, Invalid) and "holds 1000 tokens" in error.message


def test_a_refusal_by_rules_says_each_of_them_and_is_not_to_be_retried() -> None:
    error = refused(Rules(sensitivity="secret", countries=frozenset({"FR"})), model=Model("m", (PUBLIC, PRIVATE)))
    assert isinstance(error, NotAllowed) and not isinstance(error, Unavailable)
    assert "'public' takes 'internal' data at most" in error.message and "'private'" in error.message
    assert isinstance(refused(None, model=Model("m", ())), NoDeployment)


def test_what_a_system_prefers_orders_what_is_left() -> None:
    grams = {"public": 5.0, "local": 1.0}
    constraints = Constraints(carbon=lambda d: grams.get(d.id))

    def order(prefer: Any) -> list[list[str]]:
        found = constraints.eligible(CALL, model, Rules(prefer=prefer))
        return [[d.id for d in part] for part in found.parts]

    dear = replace(PUBLIC.price, input_eur=Decimal(5), output_eur=Decimal(5)) if PUBLIC.price else None
    model = Model(
        "m",
        (replace(PUBLIC, price=dear), replace(PRIVATE, priority=1), replace(LOCAL, price=None, allow_unpriced=True)),
    )
    assert order("cost") == [["private"], ["public"], ["local"]]
    constraints = Constraints(carbon=lambda d: grams.get(d.id))
    assert order("carbon") == [["local"], ["public"], ["private"]]
    constraints = Constraints()
    assert order("latency") == [["public", "private", "local"]]
    constraints = Constraints()
    assert order("order") == [["public", "local"], ["private"]]


async def test_rules_are_found_by_id_by_name_and_for_all_others() -> None:
    async def names(ids: Any) -> dict[str, str]:
        return {"s": "Service client"} if "s" in ids else {}

    sheet = {"Service client": {"sensitivity": "secret"}, "id-7": {"countries": ["EU"]}, "*": {"hosting": ["local"]}}
    constraints = Constraints.from_yaml(sheet, names)
    principal = CALL.principal
    assert (await constraints.of(principal)) == Rules(sensitivity="secret")
    by_id = await constraints.of(replace(principal, system="id-7"))  # type: ignore[arg-type]  # an id is a text
    assert by_id is not None and by_id.countries is not None and {"FR", "DE"} <= by_id.countries
    other = await constraints.of(replace(principal, system="other"))  # type: ignore[arg-type]  # as above
    assert other == Rules(hosting=frozenset({"local"}))
    assert await Constraints().of(principal) is None


async def test_without_the_names_of_systems_no_call_is_made() -> None:
    async def down(_: Any) -> dict[str, str]:
        raise TimeoutError

    constraints = Constraints.from_yaml({"Service client": {"sensitivity": "secret"}}, down)
    with pytest.raises(Unavailable):
        await constraints.of(CALL.principal)


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        ({"s": {"sensitivity": "top"}}, "systems.s.sensitivity"),
        ({"s": {"hosting": ["moon"]}}, "systems.s.hosting"),
        ({"s": {"countries": ["France"]}}, "systems.s.countries"),
        ({"s": {"country": ["FR"]}}, "systems.s.country"),
        (["s"], "systems"),
    ],
)
def test_a_wrong_rule_is_named_by_its_path(sheet: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Constraints.from_yaml(sheet)


def test_a_rule_that_names_no_model_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="no model 'petti'"):
        Constraints.from_yaml({"s": {"models": ["petti"]}}).check(["petit"])


def test_five_hundred_deployments_are_compared_once() -> None:
    looked: list[str] = []

    class Counted(Constraints):
        def _part(self, *given: Any) -> Any:
            looked.append("once")
            return super()._part(*given)

    model = Model("m", tuple(deployment(str(n), context_tokens=8_000, window_known=True) for n in range(500)))
    constraints = Counted()
    first = constraints.eligible(CALL, model, Rules())
    assert all(constraints.eligible(CALL, model, Rules()) is first for _ in range(10))
    assert looked == ["once"]
