"""`metier cache`, on a platform that answered questions by the one road, embeddings included."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Sequence
from typing import Any

from metier.app import Parts, build
from metier.calls import Answer, Call, Chunk, Message, Usage
from metier.providers.scripted import Script, ScriptedProvider, says
from metier.settings import load
from metier.testing import caller
from tests.cli.house import House

MODELS: dict[str, Any] = {
    "writer": {"deployments": [{"provider": "scripted", "model_id": "w", "price": {"input": 1000, "output": 4000}}]},
    "embedder": {
        "operation": "embed",
        "deployments": [{"provider": "scripted", "model_id": "e", "price": {"input": 10, "output": 0}}],
    },
}
FIRST = "Comment changer mon mot de passe ?"
NEAR = "Bonjour, comment modifier mon mot de passe ?"
OTHER = "Comment changer mon adresse ?"


def answers(call: Call) -> Script:
    """Every question lies near every other; only the words tell them apart."""
    if call.operation == "embed":
        return Script((Chunk(vectors=((1.0, 0.0),), usage=Usage(input_tokens=5)),))
    return says("Par le menu.", usage=Usage(10, 10))


async def questions(house: House, config: pathlib.Path, texts: Sequence[str]) -> tuple[list[Answer], list[Any]]:
    """Ask them one after the other, and give what came back and what was recorded."""
    provider = ScriptedProvider(answer=answers)
    settings = load({**house.environment, "METIER_CONFIG": str(config)})
    async with build(settings, Parts(providers={"scripted": provider})) as app:
        who, found = await caller(app, "kept"), []
        assert app.gateway.cache is not None
        for text in texts:
            call = Call(who, "writer", messages=(Message("user", text),), end_user="client-42")
            found.append(await app.gateway.collect(call))
            await app.gateway.cache.entries.write()
        await app.ledger.flush()
        async with app.store.connection() as connection:
            rows = await connection.execute(
                "SELECT operation, cache, cost_eur, saved_eur FROM calls WHERE system = %s ORDER BY at, id",
                (who.system,),
            )
            return found, await rows.fetchall()


async def test_answers_are_kept_by_meaning_shown_and_deleted(house: House, tmp_path: pathlib.Path) -> None:
    config = tmp_path / "metier.yaml"
    config.write_text(
        f"models: {MODELS}\nsystems:\n  kept: {{cache: {{mode: semantic, within: end_user}}}}\n", encoding="utf-8"
    )
    found, rows = await questions(house, config, [FIRST, NEAR, FIRST, OTHER])
    hits = [answer.receipt.kept.hit for answer in found if answer.receipt and answer.receipt.kept]
    assert hits == [None, "semantic", "exact", None]
    chats = [row for row in rows if row["operation"] == "chat"]
    embeds = [row for row in rows if row["operation"] == "embed"]
    assert [row["cache"] for row in chats] == [None, "semantic", "exact", None]
    assert chats[0]["cost_eur"] == chats[1]["saved_eur"] == chats[2]["saved_eur"] > 0 == chats[1]["cost_eur"]
    assert len(embeds) == 3 and all(row["cost_eur"] > 0 for row in embeds), "each comparison is paid for"
    env = {"METIER_CONFIG": str(config)}

    async def run(*words: str, code: int = 0) -> str:
        return await asyncio.to_thread(house.run, *words, code=code, env=env)

    shown = await asyncio.to_thread(house.data, "cache", "show", "--system", "kept", env=env)
    [kept] = shown["kept"]
    assert (kept["model"], kept["entries"], kept["comparable"], kept["hits"]) == ("writer", 2, 2, 2)
    assert "kept" in await run("cache", "show")
    assert "not clear" in await run("cache", "purge", code=2)
    assert "not clear" in await run("cache", "purge", "--all", "--model", "writer", code=2)
    assert "0 kept" in await run("cache", "purge", "--person", "client-43")
    assert "0 kept" in await run("cache", "purge", "--before", "2020-01-01")
    assert "2 kept" in await run("cache", "purge", "--person", "client-42", "--system", "kept")
    assert "No answer is kept" in await run("cache", "show", "--system", "kept")
