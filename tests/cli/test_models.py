from __future__ import annotations

import pathlib
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from tests.cli.house import House

SOON = (datetime.now(UTC) + timedelta(days=20)).date()


@pytest.fixture
def house(tmp_path: pathlib.Path) -> House:
    models = {
        "petit": {
            "licence": "apache-2.0", "strengths": ["tri"], "languages": ["fr"], "version": "2507",
            "deployments": [{"provider": "local", "model_id": "p", "context_tokens": 4096}],
        },
        "grand": {
            "modalities": ["text", "image"], "quality": {"tri": 0.9},
            "deployments": [
                {"provider": "openai", "model_id": "g", "price": {"input": 3, "output": 15}, "country": "US",
                 "ends_on": SOON, "replaced_by": "petit"},
            ],
        },
        "auto": {"rules": [{"when": {"has_media": True}, "use": "grand"}, {"use": "petit"}]},
    }  # fmt: skip
    (tmp_path / "metier.yaml").write_text(yaml.safe_dump({"models": models}, sort_keys=False), encoding="utf-8")
    return House(tmp_path, "")


def test_the_list_says_what_models_are_and_warns_of_those_that_end(house: House) -> None:
    told = house.run("models", "list")
    assert "apache-2.0" in told and "image, text" in told and "2507" in told
    assert f"ends on {SOON}" in " ".join(told.split())
    data = house.data("models", "list")
    petit, grand, auto = data["models"]
    assert petit["deployments"][0]["languages"] == ["fr"] and grand["deployments"][0]["sensitivity"] == "internal"
    assert (auto["chooses"], auto["deployments"]) == (["grand", "petit"], [])
    assert data["endings"][0]["replaced_by"] == "petit"


def test_choosing_ranks_with_reasons(house: House) -> None:
    ranking = house.data("models", "choose", "--task", "tri", "--weigh", "quality")["ranking"]
    assert [(one["model"], one["quality"]) for one in ranking] == [("grand", 0.9), ("petit", None)]
    secret = house.data("models", "choose", "--sensitivity", "secret", "--language", "fr")["ranking"]
    assert [(one["model"], one["fits"]) for one in secret] == [("petit", True), ("grand", False)]
    told = house.run("models", "choose", "--own-documents")
    assert "not measured" in told and "give it extracts" in told
