from __future__ import annotations

import asyncio
import pathlib
from contextlib import aclosing, suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from metier.cache.entries import Purge
from metier.calls import Call, Media, Message, OutputSchema, Text, Tool, Usage
from metier.errors import GuardrailBlocked, MetierError, NotFound, ProviderUnavailable
from metier.providers.scripted import Script, ScriptedProvider, asks, breaks, fails, says
from metier.store import Store
from metier.vault import Vault
from tests.cache.desk import Desk, asked, chunks, desk, kept


class Gate:
    """Stops a script until it is opened, and tells that it was reached."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.open.wait()


async def test_the_very_same_question_is_answered_once(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("Quatorze ", "jours.", usage=Usage(1000, 500)), says("jamais"))
    async with desk(store, vault, tmp_path, provider) as here:
        first = await here.ask()
        here.time.now += 60
        second = await here.ask()
        assert (first.text, kept(first), second.text, kept(second)) == ("Quatorze jours.", "miss", first.text, "exact")
        assert first.receipt is not None and second.receipt is not None and second.receipt.kept is not None
        assert second.receipt.cost_eur == 0 < second.receipt.kept.saved_eur == first.receipt.cost_eur
        assert (second.receipt.kept.age_s, second.usage) == (60, Usage(1000, 500))
        assert len(provider.calls) == 1
        rows = await here.world.rows()
        assert [(row["cache"], row["deployment"]) for row in rows] == [(None, "petit-a"), ("exact", None)]
        assert (rows[1]["cost_eur"], rows[1]["saved_eur"]) == (0, Decimal("0.003"))
        assert (rows[1]["input_tokens"], rows[1]["output_tokens"], rows[1]["outcome"]) == (0, 0, "answered")


async def test_a_hit_streams_in_a_few_pieces_and_says_so_first(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    text = "Un texte assez long. " * 60
    async with desk(store, vault, tmp_path, ScriptedProvider(says(text))) as here:
        missed = await chunks(here.world, asked(here.world, "Dites"))
        await here.cache.entries.write()
        hit = await chunks(here.world, asked(here.world, "Dites"))
        assert "".join(chunk.text for chunk in hit) == text
        assert 2 < len([chunk for chunk in hit if chunk.text]) <= 6
        assert [one[0].kept.hit if one[0].kept else None for one in (missed, hit)] == [None, "exact"]
        assert missed[0].kept is not None and all(chunk.kept is None for chunk in hit[1:-1])


async def test_without_a_rule_nothing_is_kept(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("un"), says("deux"))
    async with desk(store, vault, tmp_path, provider, cache="off") as here:
        answers = [await here.ask(), await here.ask()]
        assert [(answer.text, kept(answer)) for answer in answers] == [("un", None), ("deux", None)]
        with pytest.raises(NotFound):
            await here.ask(reuse="only")


async def test_a_caller_may_go_round_make_anew_or_ask_for_nothing_else(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(says("un"), says("deux"), says("trois"), says("quatre"))
    async with desk(store, vault, tmp_path, provider) as here:
        with pytest.raises(NotFound, match="only"):
            await here.ask(reuse="only")
        assert kept(await here.ask(reuse="off")) is None
        assert kept(await here.ask()) == "miss"
        assert (await here.ask(reuse="only")).text == "deux"
        here.time.now += 1
        assert kept(await here.ask(reuse="refresh")) == "miss"
        again = await here.ask()
        assert (again.text, kept(again)) == ("trois", "exact")
        assert next(row["error_code"] for row in await here.world.rows()) == "not_found"


ONE = Media("image/png", "AAAA")


@pytest.mark.parametrize(
    "more",
    [
        {"tools": (Tool("heure", "L'heure", {}),)},
        {"temperature": 0.9},
        {"messages": (Message("user", parts=(Text("Quoi ?"), ONE)),)},
        {"messages": (Message("user", "a"), Message("tool", "b", tool_call_id="x"))},
        {"messages": (Message("user", "half a character: \ud800"),)},
    ],
    ids=["tools", "temperature", "media", "answer of a tool", "half a character"],
)
async def test_what_may_not_be_kept_is_asked_each_time(
    store: Store, vault: Vault, tmp_path: pathlib.Path, more: dict[str, Any]
) -> None:
    provider = ScriptedProvider(says("un"), says("deux"))
    async with desk(store, vault, tmp_path, provider) as here:
        call = replace(asked(here.world, "Quoi ?"), **more)
        answers = [await here.world.gateway.collect(replace(call, id=call.id + "x" * n)) for n in (1, 2)]  # type: ignore[arg-type]  # a plain id will do
        assert [(answer.text, kept(answer)) for answer in answers] == [("un", None), ("deux", None)]


@pytest.mark.parametrize(
    "script",
    [
        says("à moitié", finish="length"),
        says("sans fin", finish=None),
        says(""),
        says("x", finish="content_filter"),
        says("\ud800"),
    ]
    + [asks("heure", {}), says("à [[PERSONNE_7]], que personne n'a nommée"), breaks("rompu"), fails(400)],
    ids=[
        "cut short",
        "no end",
        "empty",
        "held back",
        "half a character",
        "tool",
        "a code nobody gave",
        "broken",
        "refused",
    ],
)
async def test_an_answer_that_is_not_whole_is_not_kept(
    store: Store, vault: Vault, tmp_path: pathlib.Path, script: Script
) -> None:
    provider = ScriptedProvider(script, says("entière"))
    async with desk(store, vault, tmp_path, provider) as here:
        with suppress(MetierError):
            await here.ask()
        second = await here.ask()
        assert (second.text, kept(second)) == ("entière", "miss")
        assert kept(await here.ask()) == "exact"
        assert not here.cache.flights


async def test_json_that_is_none_is_not_kept(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says('{"a": 1'), says('{"a": 1}'))
    async with desk(store, vault, tmp_path, provider) as here:
        wanted = OutputSchema("o", {"type": "object"})
        assert [kept(await here.ask(output=wanted)) for _ in range(3)] == ["miss", "miss", "exact"]


async def test_what_a_guardrail_held_back_is_not_kept(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    from_model = says("secret industriel")
    async with desk(store, vault, tmp_path, ScriptedProvider(from_model)) as here:
        call = asked(here.world, "Quoi ?")

        async def blocked(chunks: Any) -> Any:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if chunk.finish is not None:
                        raise GuardrailBlocked("not this")
                    yield chunk

        async with here.world.ledger.entry(call) as entry:
            way = await here.world.gateway.ways.find(call)
            await here.world.admission.admit(call, way.model, entry)
            caching = await here.world.gateway.ways.caching(call.principal)
            reusing = here.cache.begin(call, way.model, caching, entry)
            assert reusing is not None
            asked_of = ScriptedProvider(from_model).stream(call, way.model.deployments[0])
            with pytest.raises(GuardrailBlocked):
                async for _ in reusing.shown(blocked(reusing.answer(asked_of))):  # type: ignore[arg-type]  # a generator
                    pass
        assert await here.cache.entries.write() == 0
        assert not here.cache.flights


async def test_identical_calls_at_the_same_time_wait_for_the_first(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    gate = Gate()
    provider = ScriptedProvider(replace(says("une fois"), before=gate), says("jamais"))
    async with desk(store, vault, tmp_path, provider) as here:
        tasks = [asyncio.create_task(here.ask()) for _ in range(20)]
        await gate.reached.wait()
        gate.open.set()
        answers = await asyncio.gather(*tasks)
        assert {answer.text for answer in answers} == {"une fois"}
        assert sorted(str(kept(answer)) for answer in answers) == ["exact"] * 19 + ["miss"]
        assert len(provider.calls) == 1
        rows = await here.world.rows()
        assert len(rows) == 20 and sum(row["cache"] == "exact" for row in rows) == 19
        assert sum(row["cost_eur"] > 0 for row in rows) == 1


async def test_when_the_first_leaves_another_takes_its_place(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    lost, taken = Gate(), Gate()
    provider = ScriptedProvider(replace(says("perdu"), before=lost), replace(says("repris"), before=taken))
    async with desk(store, vault, tmp_path, provider) as here:
        first = asyncio.create_task(here.ask())
        await lost.reached.wait()
        others = [asyncio.create_task(here.ask()) for _ in range(5)]
        first.cancel()
        await taken.reached.wait()
        taken.open.set()
        answers = await asyncio.gather(*others)
        assert {answer.text for answer in answers} == {"repris"}
        assert len(provider.calls) == 2 and not here.cache.flights


async def test_when_the_first_fails_nobody_waits_any_more(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    gate = Gate()
    models = {"petit": {"deployments": [{"provider": "scripted", "model_id": "a", "price": {"input": 1, "output": 4}}]}}
    provider = ScriptedProvider(replace(breaks("à moi"), before=gate), says("chacun pour soi"))
    async with desk(store, vault, tmp_path, provider, models=models) as here:
        tasks = [asyncio.create_task(here.ask()) for _ in range(4)]
        await gate.reached.wait()
        gate.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, ProviderUnavailable) for one in done) == 1, done
        assert not here.cache.flights


async def test_nobody_waits_longer_than_patience_for_a_call_that_is_stuck(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    gate = Gate()
    provider = ScriptedProvider(replace(says("lent"), before=gate), says("pour soi"))
    async with desk(store, vault, tmp_path, provider, patience_s=0) as here:
        first = asyncio.create_task(here.ask())
        await gate.reached.wait()
        assert (await here.ask()).text == "pour soi"
        gate.open.set()
        assert (await first).text == "lent"
        assert not here.cache.flights


async def test_left_in_the_middle_nothing_is_kept(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("un ", "deux ", "trois"))
    async with desk(store, vault, tmp_path, provider) as here:
        for last in range(4):
            async with aclosing(here.world.gateway.stream(asked(here.world, "Jusqu'où ?"))) as stream:
                for _ in range(last + 1):
                    await anext(stream)
            assert await here.cache.entries.write() == 0
            assert not here.cache.flights
        assert kept(await here.ask("Jusqu'où ?")) == "miss"


async def test_an_answer_is_good_for_its_time(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("un"), says("deux"))
    async with desk(store, vault, tmp_path, provider, {"mode": "exact", "ttl_s": 100}) as here:
        await here.ask()
        here.time.now += 99.9
        assert kept(await here.ask()) == "exact"
        here.time.now += 0.1
        late = await here.ask()
        assert (late.text, kept(late)) == ("deux", "miss")
        here.time.now += 100
        assert await here.cache.entries.expire() == 1


async def test_personal_data_of_one_asker_is_never_shown_to_another(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    def answer(call: Call) -> Script:
        return says("Écrivez à ", "[[EMAI", "L_1]], c'est tout.")

    provider = ScriptedProvider(answer=answer)
    async with desk(store, vault, tmp_path, provider) as here:
        one = await here.ask("À qui écrire ? Mon adresse est helene.lefevre@courriel.example")
        two = await here.ask("À qui écrire ? Mon adresse est paul.martin@poste.example")
        assert (kept(one), kept(two)) == ("miss", "exact")
        assert one.text == "Écrivez à helene.lefevre@courriel.example, c'est tout."
        assert two.text == "Écrivez à paul.martin@poste.example, c'est tout."
        async with store.connection() as connection:
            rows = await (await connection.execute("SELECT * FROM cache_entries")).fetchall()
        assert len(rows) == 1 and b"lefevre" not in bytes(rows[0]["sealed"])


async def test_meaning_is_compared_inside_the_partition_and_then_the_words(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(says("Par le menu Profil."), says("autre"))
    async with desk(store, vault, tmp_path, provider, "semantic") as here:
        ask, vectors = "Comment changer mon mot de passe ?", here.vectors
        near = "Je voudrais savoir comment modifier mon mot de passe"
        wrong = "Comment ne pas changer mon mot de passe ?"
        vectors[ask], vectors[near], vectors[wrong] = [1, 0], [0.96, 0.28], [0.999, 0.04]
        assert kept(await here.ask(ask)) == "miss"
        found = await here.ask(near)
        assert (found.text, kept(found)) == ("Par le menu Profil.", "semantic")
        assert kept(await here.ask(wrong)) == "miss"
        assert kept(await here.ask(near, max_output_tokens=50)) == "miss"
        assert kept(await here.ask("Une tout autre question")) == "miss"
        rows = await here.world.rows()
        assert [row["cache"] for row in rows] == [None, "semantic", None, None, None]


async def test_several_turns_are_only_compared_exactly(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with desk(store, vault, tmp_path, ScriptedProvider(says("un"))) as here:
        turns = (Message("user", "Bonjour"), Message("assistant", "Oui ?"), Message("user", "Comment payer ?"))
        assert kept(await here.world.gateway.collect(here.world.call(messages=turns))) == "miss"
        await here.cache.entries.write()
        assert kept(await here.world.gateway.collect(here.world.call(messages=turns))) == "exact"
        assert not here.embedded


async def test_placeholders_are_embedded_as_words_and_two_people_never_change_places(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with desk(store, vault, tmp_path, ScriptedProvider(says("fait")), "semantic") as here:
        await here.ask("Écris de a.b@poste.example à c.d@poste.example")
        assert here.embedded == ["Écris de email à email"]
        await here.ask("Écris à c.d@poste.example de a.b@poste.example")
        assert [row["cache"] for row in await here.world.rows()] == [None, None]


async def test_a_purge_ends_what_was_begun_before_it(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    gate = Gate()
    provider = ScriptedProvider(replace(says("ancien"), before=gate), says("nouveau"))
    async with desk(store, vault, tmp_path, provider) as here:
        task = asyncio.create_task(here.ask())
        await gate.reached.wait()
        assert await here.cache.entries.purge(Purge(system="other"), by="test") == 0
        gate.open.set()
        assert (await task).text == "ancien"
        assert kept(await here.ask()) == "miss"


async def test_another_worker_finds_what_one_has_kept_and_hears_of_purges(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(says("un"), says("deux"))
    async with desk(store, vault, tmp_path / "a", provider) as one:
        await one.ask()
        other = Desk(one.world, one.cache, one.time, {}, [])
        assert kept(await other.ask()) == "exact"
        await one.cache.entries.listen()
        assert kept(await one.ask()) == "exact"
        async with store.connection() as connection:
            await connection.execute("DELETE FROM cache_entries")
        assert kept(await one.ask()) == "exact", "out of memory"
        await one.cache.entries.purge(Purge(project=one.world.principal.project), by="test")
        assert kept(await one.ask()) == "miss"
