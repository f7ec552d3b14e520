"""What is prepared once and found again."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from metier.cli import preparation
from metier.providers.scripted import ScriptedProvider
from metier.testing import build_for_tests, caller
from tests.cli.house import House

WORDS = {"billing": ("facture", "paiement", "carte"), "delivery": ("colis", "livreur", "retard")}


def messages(path: pathlib.Path, more: str = "") -> pathlib.Path:
    """Labelled messages that words alone tell apart."""
    rows = [
        {"text": f"{word} {split} {number} {more}", "label": label, "split": split, "group": f"{word}{split}{number}"}
        for label, words in WORDS.items()
        for word in words
        for split in ("train", "validation", "test")
        for number in range(4)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


async def test_a_classifier_is_trained_once_and_anew_when_its_messages_change(
    house: House, tmp_path: pathlib.Path
) -> None:
    async with build_for_tests(house.home, house.database_url, ScriptedProvider()) as app:
        who, file = await caller(app), tmp_path / "messages.jsonl"

        async def newest() -> dict[str, Any]:
            """The classifier of this test: the house has those of other tests too."""
            return next(row for row in await app.classifiers.list() if row["name"] == "tri")

        async def version() -> int:
            await preparation.classifier(app, who, "tri", messages(file, more), lambda _: None)
            return int((await newest())["version"])

        more = ""
        assert [await version(), await version()] == [1, 1]
        more = "demain"
        assert [await version(), await version()] == [2, 2]
        own = await app.classifiers.get("tri")
        card = {key: value for key, value in (await newest())["card"].items() if key != "prepared"}
        await app.classifiers.add("tri", own, card)
        more = "hier"
        assert await version() == 3, "a version somebody trained stays in use"
