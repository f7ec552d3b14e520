"""The road with several hops: fallbacks, rules, splits, shadows and constraints, through the gateway."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import Answer, Call, Chunk, ConversationId, Media, Message, Text, Usage
from metier.catalog import Catalog
from metier.deployment import SENSITIVITIES
from metier.errors import (
    BudgetExceeded,
    Invalid,
    NoDeployment,
    NotAllowed,
    NotFound,
    ProviderUnavailable,
    SystemNotApproved,
)
from metier.policy.constraints import Constraints
from metier.providers.scripted import Script, ScriptedProvider, breaks, fails, says
from metier.shadow import Shadows
from metier.store import Store
from metier.vault import Vault
from metier.ways import Ways
from tests.router.world import CALL
from tests.world import World, world


def one(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "provider": "scripted", "model_id": name, "price": {"input": 1, "output": 4}} | more


def entry(*deployments: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"deployments": list(deployments)} | more


MODELS: Mapping[str, Any] = {
    "petit": entry(one("petit-a"), fallbacks=["grand"]),
    "grand": entry(one("grand-a", price={"input": 10, "output": 40})),
}


@asynccontextmanager
async def house(
    store: Store, vault: Vault, folder: pathlib.Path, provider: ScriptedProvider, models: Mapping[str, Any] = MODELS,
    systems: Mapping[str, Any] | None = None,
) -> AsyncIterator[World]:  # fmt: skip
    async with world(store, vault, folder, provider, models=models, systems=systems) as here:
        yield here


async def test_a_fallback_answers_when_the_model_cannot_and_pays_its_own_price(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(fails(503), says("du grand", usage=Usage(1000, 500)))
    async with house(store, vault, tmp_path, provider) as here:
        answer = await here.gateway.collect(here.call(max_output_tokens=500))
        assert (answer.text, provider.deployments) == ("du grand", ["petit-a", "grand-a"])
        [row] = await here.rows()
        assert (row["deployment"], row["cost_eur"]) == ("grand-a", Decimal("0.03"))
        assert row["model"] == "petit", "what the client asked for"


async def test_a_deployment_without_a_price_is_passed_over_while_others_have_one(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    def priceless(name: str) -> dict[str, Any]:
        return {"id": name, "provider": "openai", "model_id": "unheard", "base_url": "http://127.0.0.1:9/v1"}

    models = {
        "petit": entry(priceless("a"), one("b"), fallbacks=["sans", "grand"]),
        "sans": entry(priceless("c")),
        "grand": entry(one("d")),
        "seul": entry(priceless("e"), priceless("f"), fallbacks=["sans"]),
        "ailleurs": entry(priceless("i"), fallbacks=["grand"]),
    }
    provider = ScriptedProvider(fails(503), says("ok"), says("ok"))
    async with house(store, vault, tmp_path, provider, models) as here:
        for name in ("petit", "ailleurs"):
            await here.gateway.collect(here.call(model=name))
        assert provider.deployments == ["b", "d", "d"]
        with pytest.raises(NotAllowed) as refused:
            await here.gateway.collect(here.call(model="seul"))
        said = refused.value.message
        assert all(f"{name!r} has no known price" in said for name in "efc")
        assert "declare `price`" in said and "allow_unpriced" in said and "systems:" not in said
        assert len(provider.calls) == 3


async def test_what_is_held_covers_the_dearest_hop(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("ok"))
    async with house(store, vault, tmp_path, provider) as here:
        await here.admission.set_budget(here.principal.project, Decimal("0.01"))
        with pytest.raises(BudgetExceeded):
            await here.gateway.collect(here.call(max_output_tokens=500))
        assert provider.calls == [], "500 tokens of the fallback may cost 0.02 €"
        await here.gateway.collect(here.call(max_output_tokens=100))


async def test_a_key_without_right_to_the_fallback_does_not_get_there(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(fails(503))
    async with house(store, vault, tmp_path, provider) as here:
        narrow = replace(here.principal, models=frozenset({"petit"}))
        with pytest.raises(ProviderUnavailable):
            await here.gateway.collect(here.call(principal=narrow))
        assert provider.deployments == ["petit-a"]


async def test_data_that_must_stay_here_does_not_leave_by_a_fallback(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    models = {"ici": entry(one("ici"), fallbacks=["nuage"]), "nuage": entry(one("nuage", hosting="public"))}
    provider = ScriptedProvider(fails(503))
    async with house(store, vault, tmp_path, provider, models, {"Essai": {"sensitivity": "secret"}}) as here:
        with pytest.raises(ProviderUnavailable):
            await here.gateway.collect(here.call(model="ici"))
        assert provider.deployments == ["ici"]
        with pytest.raises(NotAllowed, match="'nuage' takes 'internal' data at most"):
            await here.gateway.collect(here.call(model="nuage"))
        rows = await here.rows()
        assert [row["outcome"] for row in rows] == ["failed", "refused"]


async def test_embeddings_of_secret_data_stay_here_too(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    models = {"vecteurs": entry(one("v", hosting="public"), operation="embed")}
    provider = ScriptedProvider()
    async with house(store, vault, tmp_path, provider, models, {"*": {"sensitivity": "confidential"}}) as here:
        call = replace(here.call(model="vecteurs"), operation="embed", inputs=("x",), messages=())
        with pytest.raises(NotAllowed):
            await here.gateway.collect(call)
        assert provider.calls == []


async def test_an_image_goes_to_the_model_that_takes_it_or_is_refused(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    models = {
        "texte": entry(one("texte"), modalities=["text"], fallbacks=["vue"]),
        "vue": entry(one("vue"), modalities=["text", "image"]),
        "seul": entry(one("seul"), modalities=["text"]),
    }
    provider = ScriptedProvider(says("un chat"))
    image = (Message("user", parts=(Text("?"), Media("image/png", "AAAA"))),)
    async with house(store, vault, tmp_path, provider, models) as here:
        await here.gateway.collect(replace(here.call(model="texte"), messages=image))
        assert provider.deployments == ["vue"]
        with pytest.raises(Invalid, match="'seul' does not take image"):
            await here.gateway.collect(replace(here.call(model="seul"), messages=image))


def cannot(what: str) -> Script:
    """What a provider does with a call it cannot express, before anything is sent."""
    return Script((), error=Invalid(f"this deployment cannot take {what}: leave it out", param=what))


async def test_what_one_deployment_cannot_take_another_of_the_way_may(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(cannot("seed"), says("du grand", usage=Usage(1000, 500)))
    async with house(store, vault, tmp_path, provider) as here:
        answer = await here.gateway.collect(here.call())
        assert (answer.text, provider.deployments) == ("du grand", ["petit-a", "grand-a"])
        [row] = await here.rows()
        assert (row["outcome"], row["deployment"], row["tries"]) == ("answered", "grand-a", 1)


@pytest.mark.parametrize(
    ("scripts", "raised", "asked"),
    [
        ((cannot("seed"), cannot("top_k")), "cannot take top_k", 2),
        ((fails(400),), "answered 400", 1),
        ((fails(503), cannot("seed")), "answered 503", 2),
        ((Script((Chunk(text="Bon"),), error=Invalid("later")),), "later", 1),
    ],
    ids=["nobody can", "refused by the deployment itself", "away, and cannot", "after the first word"],
)
async def test_when_nobody_takes_a_call_the_last_refusal_is_told(
    store: Store, vault: Vault, tmp_path: pathlib.Path, scripts: tuple[Script, ...], raised: str, asked: int
) -> None:
    provider = ScriptedProvider(*scripts)
    async with house(store, vault, tmp_path, provider) as here:
        with pytest.raises((Invalid, ProviderUnavailable), match=raised):
            await here.gateway.collect(here.call())
        assert len(provider.calls) == asked


async def test_who_prefers_quality_falls_back_to_what_was_measured_best(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    models = {
        "petit": entry(one("petit"), fallbacks=["jamais", "moyen", "grand"]),
        "jamais": entry(one("jamais")),
        "moyen": entry(one("moyen"), quality={"mails": 0.7, "notes": 0.6}),
        "grand": entry(one("grand"), quality={"mails": 0.9}),
    }
    for systems, order in (({"*": {"prefer": "quality"}}, ["petit", "grand", "moyen", "jamais"]), ({}, [*models])):
        ways = Ways(Catalog.from_yaml(models), Constraints.from_yaml(systems))
        way = await ways.find(replace(CALL, model="petit"))
        assert [deployment.id for deployment in way.model.deployments] == order


async def test_pieces_without_content_do_not_bind_a_call_to_its_first_deployment(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    opening = Script((Chunk(), Chunk(usage=Usage(999, 0))), status=503)
    provider = ScriptedProvider(opening, says("ok", usage=Usage(10, 5)))
    async with house(store, vault, tmp_path, provider) as here:
        answer = await here.gateway.collect(here.call())
        assert (answer.text, answer.usage) == ("ok", Usage(10, 5)), "what the failed try counted is not the answer's"


async def test_after_content_no_fallback_is_tried(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(breaks("Votre"), says("jamais"))
    async with house(store, vault, tmp_path, provider) as here:
        with pytest.raises(ProviderUnavailable):
            await here.gateway.collect(here.call())
        assert provider.deployments == ["petit-a"]


async def test_an_outage_does_not_multiply_the_calls(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(fails(503))
    models = {"petit": entry(*(one(f"d{n}", priority=0) for n in range(6)), retry_percent=10)}
    async with house(store, vault, tmp_path, provider, models) as here:
        for _ in range(60):
            with pytest.raises(ProviderUnavailable):
                await here.gateway.collect(here.call())
        assert len(provider.calls) <= 60 + 10 + 6 + 1, "ten for a quiet house, a tenth of the calls"


async def test_rules_choose_and_the_right_to_the_name_is_enough(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    rules = [{"when": {"max_tokens": 50, "has_tools": False}, "use": "petit"}, {"use": "grand"}]
    provider = ScriptedProvider(says("ok"))
    async with house(store, vault, tmp_path, provider, {**MODELS, "auto": {"rules": rules}}) as here:
        narrow = replace(here.principal, models=frozenset({"auto"}))
        await here.gateway.collect(here.call(model="auto", principal=narrow))
        await here.gateway.collect(here.call("mot " * 500, model="auto", principal=narrow))
        assert provider.deployments == ["petit-a", "grand-a"]
        with pytest.raises(NotAllowed):
            await here.gateway.collect(here.call(model="grand", principal=narrow))
        assert [row["model"] for row in await here.rows()] == ["auto", "auto", "grand"]


async def test_a_canary_keeps_its_conversations(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    models = {**MODELS, "petit": entry(one("petit-a"), split=[{"use": "grand", "percent": 50}])}
    provider = ScriptedProvider(says("ok"))
    async with house(store, vault, tmp_path, provider, models) as here:
        for _ in range(2):
            for number in range(12):
                await here.gateway.collect(here.call(conversation=ConversationId(f"c{number}")))
        assert provider.deployments[:12] == provider.deployments[12:]
        assert set(provider.deployments) == {"petit-a", "grand-a"}


async def test_a_shadow_is_a_call_of_its_own_that_nobody_waits_for(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    models = {
        "petit": entry(one("petit-a"), shadow=[{"use": "grand", "percent": 100}]),
        "grand": entry(one("grand-a"), shadow=[{"use": "petit", "percent": 100}]),
    }
    released = asyncio.Event()

    def answer(call: Call) -> Script:
        script = says("vu" if call.model == "petit" else "caché", usage=Usage(1000, 500))
        return script if call.model == "petit" else replace(script, before=released.wait)

    provider = ScriptedProvider(answer=answer)
    async with house(store, vault, tmp_path, provider, models) as here, asyncio.TaskGroup() as group:
        copying = group.create_task(here.gateway.run())
        shown = await here.gateway.collect(here.call())
        assert shown.text == "vu" and shown.receipt is not None and shown.receipt.cost_eur == Decimal("0.003")
        released.set()
        await here.gateway.shadows.settle()
        copying.cancel()
        rows = await here.rows()
        assert sorted((row["model"], row["deployment"], row["cost_eur"]) for row in rows) == [
            ("grand", "grand-a", Decimal("0.003")), ("petit", "petit-a", Decimal("0.003")),
        ]  # fmt: skip


async def test_a_shadow_that_fails_harms_nobody(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    models = {**MODELS, "petit": entry(one("petit-a"), shadow=[{"use": "grand", "percent": 100}])}
    provider = ScriptedProvider(answer=lambda call: says("vu") if call.model == "petit" else fails(503))
    async with house(store, vault, tmp_path, provider, models) as here, asyncio.TaskGroup() as group:
        copying = group.create_task(here.gateway.run())
        assert (await here.gateway.collect(here.call())).text == "vu"
        await here.gateway.shadows.settle()
        assert (await here.gateway.collect(here.call())).text == "vu"
        await here.gateway.shadows.settle()
        copying.cancel()
        assert sorted(row["outcome"] for row in await here.rows()) == ["answered", "answered", "failed", "failed"]


async def test_a_copy_that_breaks_is_logged_and_the_next_one_is_made(caplog: pytest.LogCaptureFixture) -> None:
    made: list[str] = []

    async def ask(call: Call) -> Answer:
        made.append(call.model)
        if call.model == "broken":
            raise RuntimeError("a fault of ours")
        raise NoDeployment("nobody")

    shadows = Shadows(room=3, at_once=1)
    shadows.copy(CALL, ("broken", "a", "b", "c"))
    assert shadows.dropped == 1
    async with asyncio.TaskGroup() as group:
        running = group.create_task(shadows.run(ask))
        await shadows.settle()
        running.cancel()
    assert made == ["broken", "a", "b"] and "broke" in caplog.text


async def test_who_leaves_before_the_end_frees_the_deployment(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with house(store, vault, tmp_path, ScriptedProvider(says("a", "b"))) as here:
        async with aclosing(here.gateway.stream(here.call())) as stream:
            await anext(stream)
        standing = here.health.standing(0.0)["petit-a"]
        assert (standing.in_flight, standing.unread_tokens, standing.failures) == (0, 0, 0)


async def test_a_system_that_is_suspended_is_refused_although_a_way_exists(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with house(store, vault, tmp_path, ScriptedProvider()) as here:
        await here.register.suspend(here.principal.system, "Camille")
        with pytest.raises(SystemNotApproved):
            await here.gateway.collect(here.call())


async def test_prices_change_on_their_day_and_another_catalogue_comes_into_force() -> None:
    prices = [{"from": date(2026, 1, 1), "input": 1, "output": 1}, {"from": date(2026, 12, 1), "input": 3, "output": 3}]
    entries = {"m": entry({"id": "d", "provider": "scripted", "model_id": "m", "prices": prices})}
    days = [date(2026, 11, 30)]
    ways = Ways(Catalog.from_yaml(entries, today=days[0]), today=lambda: days[-1])

    async def price() -> Decimal | None:
        found = (await ways.find(CALL)).model.deployments[0].price
        return found.input_eur if found else None

    assert await price() == 1
    days.append(date(2026, 12, 1))
    assert await price() == 3
    ways.use(Catalog.from_yaml({"other": entries["m"]}), Constraints())
    with pytest.raises(NotFound):
        await ways.find(CALL)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["public", "private", "local"]), min_size=1, max_size=4),
            st.sampled_from(["FR", "US", None]),
            st.sets(st.integers(0, 4), max_size=3),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["public", "internal", "confidential", "secret"]),
    st.sampled_from([None, ["FR"], ["EU"], ["US"]]),
    st.sets(st.integers(0, 4), max_size=4),
)
def test_no_hop_ever_leads_where_the_rules_forbid(
    models: list[tuple[list[Any], str | None, set[int]]], sensitivity: str, countries: list[str] | None, keys: set[int]
) -> None:
    entries = {
        f"m{n}": entry(
            *(one(f"m{n}-{k}", hosting=h) | ({"country": country} if country else {}) for k, h in enumerate(hostings)),
            fallbacks=[f"m{to}" for to in sorted(fallbacks) if to != n and to < len(models)],
        )
        for n, (hostings, country, fallbacks) in enumerate(models)
    }
    sheet = {"*": {"sensitivity": sensitivity} | ({"countries": countries} if countries else {})}
    ways = Ways(Catalog.from_yaml(entries), Constraints.from_yaml(sheet))
    rights = frozenset({"m0", *(f"m{n}" for n in keys)})
    call = replace(CALL, model="m0", principal=replace(CALL.principal, models=rights))
    try:
        way = asyncio.run(ways.find(call))
    except NotAllowed:
        return
    offered = [d for group in way.groups for d in group.deployments]
    held = {d.id for d in way.model.deployments}
    assert offered and {d.id for d in offered} == held, "money is held for what may be tried, and no more"
    for deployment in offered:
        assert deployment.id.split("-")[0] in rights
        assert SENSITIVITIES.index(deployment.ceiling) >= SENSITIVITIES.index(sensitivity)
        home = deployment.hosting == "local" and deployment.country is None
        assert countries is None or home or deployment.country in ("FR" if countries != ["US"] else "US", None)
        assert countries is None or home or deployment.country is not None


async def test_a_model_without_deployment_says_so() -> None:
    ways = Ways(Catalog([replace(Catalog.from_yaml({"m": MODELS["grand"]}).model("m"), deployments=())]))
    with pytest.raises(NoDeployment, match="has no deployment"):
        await ways.find(CALL)
