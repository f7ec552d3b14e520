from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal

import pytest

from metier.calls import Call, Chunk, ToolCall, Usage
from metier.errors import (
    BudgetExceeded,
    GuardrailBlocked,
    Invalid,
    MetierError,
    NoDeployment,
    NotAllowed,
    NotFound,
    ProviderTimeout,
    ProviderUnavailable,
)
from metier.guardrails.base import Checked, Verdict
from metier.providers.scripted import Script, ScriptedProvider, asks, breaks, fails, gives, says
from metier.store import Store
from metier.vault import Vault
from tests.world import MODELS, World, world


class Shout:
    """A guardrail that masks "secret" on the way in, restores it on the way out and holds a little text."""

    name = "shout"
    revision = "1"

    async def check_input(self, call: Call) -> Checked:
        messages = tuple(replace(m, content=m.content.replace("secret", "<1>")) for m in call.messages)
        return Checked(replace(call, messages=messages), Verdict.MASK, {"secret": 1}, Restore())


class Restore:
    def __init__(self) -> None:
        self._held = ""

    def feed(self, chunk: Chunk) -> Chunk | None:
        text = self._held + chunk.text
        self._held = "" if chunk.finish else text[-2:]
        shown = text if chunk.finish else text[:-2]
        return replace(chunk, text=shown.replace("<1>", "secret")) if shown or chunk.finish else None

    def flush(self) -> Chunk | None:
        held, self._held = self._held, ""
        return Chunk(text=held) if held else None


class Wall:
    name = "wall"
    revision = "1"

    async def check_input(self, call: Call) -> Checked:
        return Checked(call, Verdict.BLOCK, reason="not about our products")


async def drained(here: World, call: Call) -> list[Chunk]:
    chunks: list[Chunk] = []
    async with aclosing(here.gateway.stream(call)) as stream:
        async for chunk in stream:
            chunks.append(chunk)
    return chunks


async def test_a_call_is_answered_piece_by_piece_and_recorded(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(says("Bon", "jour", usage=Usage(1000, 500, 0)))
    async with world(store, vault, tmp_path, provider) as here:
        chunks = await drained(here, here.call())
        assert [c.text for c in chunks] == ["Bon", "jour", "", ""]
        receipt = chunks[-1].receipt
        assert receipt is not None
        assert (receipt.deployment, receipt.usage, receipt.cost_eur) == ("petit-a", Usage(1000, 500), Decimal("0.003"))
        [row] = await here.rows()
        assert (row["outcome"], row["deployment"], row["cost_eur"]) == ("answered", "petit-a", Decimal("0.003"))
        assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (1000, 500, False)
        assert row["id"] == receipt.call_id


async def test_collecting_puts_text_and_tools_together(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(gives({"a": [1, 2, 3]}), asks("heure", {"ville": "Saint-Étienne"}))
    async with world(store, vault, tmp_path, provider) as here:
        assert (await here.gateway.collect(here.call())).text == '{"a":[1,2,3]}'
        answer = await here.gateway.collect(here.call())
        assert answer.tool_calls == (ToolCall("call_1", "heure", '{"ville":"Saint-Étienne"}'),)
        assert answer.finish == "tool_calls"


async def test_embedding_is_a_call_like_any_other(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with world(store, vault, tmp_path, ScriptedProvider()) as here:
        call = replace(here.call(model="vecteurs"), operation="embed", inputs=("un", "deux", "un"), messages=())
        vectors = (await here.gateway.collect(call)).vectors
        assert len(vectors) == 3
        assert vectors[0] == vectors[2] != vectors[1]


async def test_a_deployment_that_fails_before_its_first_piece_is_replaced(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(fails(503), says("de b"))
    async with world(store, vault, tmp_path, provider) as here:
        answer = await here.gateway.collect(here.call())
        assert (answer.text, provider.deployments) == ("de b", ["petit-a", "petit-b"])
        await here.gateway.collect(here.call())
        assert provider.deployments[2:] == ["petit-b"], "the one that failed rests"
        assert [row["deployment"] for row in await here.rows()] == ["petit-b", "petit-b"]


async def test_after_the_first_piece_nothing_is_said_twice(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(breaks("Votre dossier"), says("jamais"))
    async with world(store, vault, tmp_path, provider) as here:
        seen: list[str] = []
        with pytest.raises(ProviderUnavailable):
            async for chunk in here.gateway.stream(here.call()):
                seen.append(chunk.text)
        assert (seen, provider.deployments) == (["Votre dossier"], ["petit-a"])
        [row] = await here.rows()
        assert (row["outcome"], row["error_code"], row["estimated"]) == ("failed", "provider_unavailable", True)
        assert row["output_tokens"] > 0


@pytest.mark.parametrize(
    ("status", "kind"), [(500, ProviderUnavailable), (401, ProviderUnavailable), (504, ProviderTimeout)]
)
async def test_when_every_deployment_fails_the_last_failure_is_told(
    store: Store, vault: Vault, tmp_path: pathlib.Path, status: int, kind: type[MetierError]
) -> None:
    async with world(store, vault, tmp_path, ScriptedProvider(fails(status))) as here:
        with pytest.raises(
            kind, match=r"deployments of 'petit' are down: 'petit-a' \(failed 1 times in a row, last \d+ s ago\)"
        ):
            await here.gateway.collect(here.call())
        [row] = await here.rows()
        assert (row["outcome"], row["cost_eur"]) == ("failed", 0)


async def test_a_request_the_provider_finds_wrong_is_not_tried_elsewhere(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(fails(400))
    async with world(store, vault, tmp_path, provider) as here:
        with pytest.raises(Invalid):
            await here.gateway.collect(here.call())
        assert provider.deployments == ["petit-a"]
        [row] = await here.rows()
        assert (row["outcome"], row["cost_eur"]) == ("refused", 0)


async def test_what_a_guardrail_masks_never_reaches_the_provider_and_comes_back(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(says("le <", "1", "> est ", "gardé"))
    async with world(store, vault, tmp_path, provider, guardrails=[Shout()]) as here:
        chunks = await drained(here, here.call("mon secret"))
        assert "".join(c.text for c in chunks) == "le secret est gardé"
        assert provider.calls[0].messages[0].content == "mon <1>"
        assert chunks[-1].receipt is not None
        assert chunks[-1].receipt.masked == {"secret": 1}
        [row] = await here.rows()
        assert row["masked"] == {"secret": 1}


async def test_text_held_by_a_guardrail_is_given_even_without_a_finish(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(Script((Chunk(text="abc"),)))
    async with world(store, vault, tmp_path, provider, guardrails=[Shout()]) as here:
        answer = await here.gateway.collect(here.call())
        assert (answer.text, answer.usage.estimated) == ("abc", True)


async def test_a_refusal_reaches_no_provider_and_is_recorded(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider()
    async with world(store, vault, tmp_path, provider, guardrails=[Wall()]) as here:
        narrow = replace(here.principal, models=frozenset({"vecteurs"}))
        refusals: Sequence[tuple[Call, type[MetierError]]] = (
            (here.call(), GuardrailBlocked),
            (here.call(model="inconnu"), NotFound),
            (here.call(model="vecteurs"), Invalid),
            (here.call(principal=narrow), NotAllowed),
        )
        for call, kind in refusals:
            with pytest.raises(kind):
                await here.gateway.collect(call)
        assert provider.calls == []
        assert [row["outcome"] for row in await here.rows()] == ["refused"] * 4


async def test_a_spent_budget_refuses_and_returns_what_was_held(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(says("ok", usage=Usage(1000, 500)))
    async with world(store, vault, tmp_path, provider) as here:
        await here.admission.set_budget(here.principal.project, Decimal("0.01"))
        call = here.call(max_output_tokens=500)
        answered = 0
        with pytest.raises(BudgetExceeded):
            for _ in range(10):
                await here.gateway.collect(replace(call, id=here.call().id))
                answered += 1
        assert answered == 3, "0.003 € each, 0.01 € in all"
        await here.rows()
        budget = await here.admission.budget(here.principal.project)
        assert budget is not None
        assert budget.spent_eur == Decimal("0.009")


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_a_listener_who_leaves_settles_the_call_with_what_was_seen(
    store: Store, vault: Vault, tmp_path: pathlib.Path, after: int
) -> None:
    provider = ScriptedProvider(says("un deux ", "trois quatre ", "cinq"))
    async with world(store, vault, tmp_path, provider) as here:
        async with aclosing(here.gateway.stream(here.call())) as stream:
            for _ in range(after):
                await anext(stream)
        [row] = await here.rows()
        assert (row["outcome"], row["estimated"]) == ("cancelled", True)
        assert row["output_tokens"] > 0
        assert provider.closed == [row["id"]]


async def test_leaving_with_the_receipt_in_hand_is_an_answered_call(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with world(store, vault, tmp_path, ScriptedProvider(says("ok"))) as here:
        async with aclosing(here.gateway.stream(here.call())) as stream:
            async for chunk in stream:
                if chunk.receipt:
                    break
        [row] = await here.rows()
        assert row["outcome"] == "answered"


async def test_a_task_cancelled_while_the_provider_is_silent_settles_too(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    waiting = asyncio.Event()

    async def silence() -> None:
        waiting.set()
        await asyncio.Event().wait()

    provider = ScriptedProvider(Script((Chunk(text="jamais"),), before=silence))
    async with world(store, vault, tmp_path, provider) as here:
        task = asyncio.create_task(here.gateway.collect(here.call()))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        [row] = await here.rows()
        assert (row["outcome"], provider.closed) == ("cancelled", [row["id"]])


async def test_a_deployment_whose_provider_is_not_installed_is_passed_over(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    local = {"id": "ici", "provider": "local", "model_id": "m"}
    models = {
        "mixte": {"deployments": [local, *MODELS["petit"]["deployments"]]},
        "ici": {"deployments": [{**local, "id": "ici-2"}]},
    }
    provider = ScriptedProvider(says("ok"))
    async with world(store, vault, tmp_path, provider, models=models) as here:
        await here.gateway.collect(here.call(model="mixte"))
        assert provider.deployments == ["petit-a"]
        with pytest.raises(NoDeployment, match="'local'"):
            await here.gateway.collect(here.call(model="ici"))


@pytest.mark.parametrize("usage", [Usage(10**20, 10**20), Usage(-5, -7), Usage(0, 0), Usage(11, 7, cached_tokens=-1)])
async def test_a_count_that_cannot_be_true_is_replaced_by_an_estimate(
    store: Store, vault: Vault, tmp_path: pathlib.Path, usage: Usage
) -> None:
    provider = ScriptedProvider(says("Bonjour", usage=usage))
    async with world(store, vault, tmp_path, provider) as here:
        await here.gateway.collect(here.call())
        (row,) = await here.rows()
        assert row["estimated"] and 0 < row["output_tokens"] < 10 and 0 < row["cost_eur"] < 1


async def test_the_record_says_how_many_deployments_were_asked(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(fails(503), says("Bonjour"))
    async with world(store, vault, tmp_path, provider) as here:
        await here.gateway.collect(here.call())
        (row,) = await here.rows()
        assert (row["tries"], row["outcome"]) == (2, "answered")
