"""The commands that prepare: systems, keys, documents, classifiers, models, questions and the usage of it all."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
import yaml

from tests.cli.house import House
from tests.upstream import Reply, Upstream, answer, upstream

HOSTED: dict[str, Any] = {"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "model_id": "m"}


def config(folder: pathlib.Path, **sections: Any) -> Mapping[str, str]:
    """A metier.yaml of one's own, as a variable."""
    path = folder / "metier.yaml"
    path.write_text(yaml.safe_dump(sections))
    return {"METIER_CONFIG": str(path)}


def priced(url: str) -> dict[str, Any]:
    """The `models:` section with a writer and a judge at that address."""
    own = {**HOSTED, "base_url": url, "price": {"input": 1, "output": 4}}
    return {role: {"deployments": [{**own, "id": role}]} for role in ("writer", "judge")}


def test_init_names_a_model_that_is_there(house: House, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metier.yaml"
    path.write_text(
        "models: {ours: {deployments: [{provider: openai, model_id: m, base_url: 'http://127.0.0.1:1/v1'}]}}"
    )
    assert "model 'ours'" in house.run("init", "--no-key", env={"METIER_CONFIG": str(path)})


def test_init_says_what_it_would_do_and_changes_nothing(house: House, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new.yaml"
    found = house.data("init", "--dry-run", "--model", "local", env={"METIER_CONFIG": str(path)})
    assert found["chosen"] == "local" and set(found["config"]["models"]) == {"writer", "judge", "embedder"}
    assert not path.exists()
    assert "Nothing was changed" in house.run("init", "--dry-run", "--model", "local", env={"METIER_CONFIG": str(path)})
    env = {"METIER_CONFIG": str(path), "OPENAI_API_KEY": "sk-s3cret", "MISTRAL_API_KEY": ""}
    found = house.data("init", "--dry-run", env=env)
    assert "openai" in found["found"] and found["chosen"] == "openai"
    assert "sk-s3cret" not in json.dumps(found), "a credential stays a reference"
    assert found["config"]["models"]["writer"]["deployments"][0]["api_key"] == "env/OPENAI_API_KEY"
    told = house.run("init", "--model", "mistral", code=2, env={"METIER_CONFIG": str(path), "MISTRAL_API_KEY": ""})
    assert "MISTRAL_API_KEY" in told and not path.exists()


def test_a_system_is_registered_approved_suspended_and_its_moves_are_kept(house: House) -> None:
    made = house.data("system", "register", "tri", "--purpose", "Trier les messages", "--owner", "Camille")["system"]
    assert made["status"] == "idea"
    assert "tri" in house.run("system", "list") and "idea" in house.run("system", "list")
    assert house.data("system", "move", "tri", "pilot", "--reason", "essai")["system"]["status"] == "pilot"
    assert "suspended" in house.run("system", "move", made["id"], "suspended")
    shown = house.data("system", "show", "tri")
    assert [move["new_status"] for move in shown["approvals"]][-2:] == ["pilot", "suspended"]
    assert "essai" in house.run("system", "show", "tri")
    assert "tri" in {system["name"] for system in house.data("system", "list")["systems"]}


def test_a_key_needs_an_approved_system_and_is_shown_once(house: House) -> None:
    house.data("system", "register", "chat", "--purpose", "Répondre", "--owner", "Camille")
    house.run("ask", "rien", "?", code=2)  # the default project comes with the house's own key
    refused = house.run("key", "issue", "boutique", "--system", "chat", code=3)
    assert "system_not_approved" in refused
    house.run("system", "move", "chat", "pilot")
    issued = house.data("key", "issue", "boutique", "--system", "chat", "--model", "writer", "--group", "sav")
    secret, public = issued["secret"], issued["key"]["id"]
    assert secret.startswith("sk-mt-")
    listed = house.data("key", "list")
    (mine,) = (key for key in listed["keys"] if key["id"] == public)
    assert (mine["name"], mine["models"], mine["groups"]) == ("boutique", ["writer"], ["sav"])
    assert secret not in house.run("key", "list") and secret not in json.dumps(listed)
    assert "good" in house.run("key", "list")
    assert house.data("key", "revoke", public)["revoked"] == public
    assert "revoked" in house.run("key", "list")
    assert "sk-mt-" in house.run("key", "issue", "caisse", "--system", "chat")


def test_documents_go_in_are_listed_and_taken_out(house: House, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "retours.md").write_text("# Retours\n\nVous avez 14 jours pour renvoyer un article.")
    (folder / "livraison.md").write_text("# Livraison\n\nLa livraison coûte 6,90 €.")
    (folder / ".cache").write_text("rien")
    dry = house.data("ingest", "notices", str(folder), "--dry-run")
    assert [pathlib.Path(name).name for name in dry["files"]] == ["livraison.md", "retours.md"]
    house.run("ingest", "notices", "--list", code=2)
    done = house.data("ingest", "notices", str(folder))
    assert [(one["name"], one["status"]) for one in done["documents"]] == [
        ("livraison.md", "added"), ("retours.md", "added")
    ]  # fmt: skip
    assert "unchanged" in house.run("ingest", "notices", str(folder))
    assert "retours.md removed" in house.run("ingest", "notices", "--remove", "retours.md")
    listed = house.data("ingest", "notices", "--list")
    assert [document["name"] for document in listed["documents"]] == ["livraison.md"]
    house.run("ingest", "notices", "--remove", "retours.md", code=2)


def test_documents_are_those_of_the_organisation_of_the_key(house: House, tmp_path: pathlib.Path) -> None:
    (tmp_path / "retours.md").write_text("# Retours\n\nVous avez 14 jours pour renvoyer un article.")
    house.data("system", "register", "filiale", "--purpose", "Répondre", "--owner", "Camille")
    house.run("system", "move", "filiale", "pilot")
    house.run("key", "organisation", "Sud")
    house.run("key", "project", "ventes", "--organisation", "Sud", "--limit", "10")
    house.run("key", "issue", "sud", "--system", "filiale", "--project", "ventes", "--group", "public")
    house.data("ingest", "de-la-filiale", str(tmp_path / "retours.md"), "--key", "sud")
    assert house.data("ask", "de-la-filiale", "renvoyer un article", "--search-only", "--key", "sud")["hits"]
    for command in (("ingest", "de-la-filiale", "--list"), ("ask", "de-la-filiale", "renvoyer", "--search-only")):
        house.run(*command, code=2)
        house.run(*command, "--key", "sud")
    assert "no key named 'nord'" in house.run("ask", "de-la-filiale", "?", "--key", "nord", code=2)


def test_files_that_cannot_be_read_are_named_and_the_others_are_kept(house: House, tmp_path: pathlib.Path) -> None:
    (tmp_path / "bon.md").write_text("# Bon\n\nVous avez 14 jours pour renvoyer un article.")
    (tmp_path / "casse.pdf").write_bytes(b"%PDF-1.7\nnothing that is a page")
    (tmp_path / "image.bin").write_bytes(bytes(range(256)))
    (tmp_path / "memoire.md").symlink_to("/proc/self/mem")  # a file that exists and whose bytes cannot be read
    told = house.data("ingest", "melange", str(tmp_path), code=1)
    assert [one["name"] for one in told["documents"]] == ["bon.md"]
    assert [one["name"] for one in told["refused"]] == ["casse.pdf", "image.bin", "memoire.md"]
    assert all(one["reason"] for one in told["refused"])
    assert "not read casse.pdf" in house.run("ingest", "melange", str(tmp_path), code=1)


def test_two_files_of_the_same_name_are_refused_before_anything_is_read(house: House, tmp_path: pathlib.Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "faq.md").write_text("# Questions")
    assert "faq.md" in house.run("ingest", "doubles", str(tmp_path), code=2)


def test_a_collection_is_not_made_of_nothing(house: House) -> None:
    house.run("ingest", "vide", code=2)
    house.run("ingest", "vide", "--list", code=2)


def test_a_classifier_is_trained_measured_and_listed(house: House, tmp_path: pathlib.Path) -> None:
    said = {
        "oui": ["c'est bon", "d'accord", "très bien", "parfait"],
        "non": ["pas question", "refusé", "jamais", "non"],
    }
    rows = [
        {"text": text, "label": label, "split": split}
        for label, texts in said.items()
        for text, split in zip(texts, ("train", "train", "validation", "test"), strict=True)
    ]
    messages = tmp_path / "messages.jsonl"
    messages.write_text("\n".join(json.dumps(row) for row in rows))
    assert "Nothing was kept" in house.run("train", "accord", str(messages), "--features", "tfidf", "--dry-run")
    done = house.data("train", "accord", str(messages), "--features", "tfidf")
    assert (done["version"], done["chosen"]) == (1, "tfidf") and done["cards"]["tfidf"]["test"]["count"] == 2
    assert house.data("train", "accord", str(messages))["chosen"] == "tfidf", "no embedder is declared here"
    listed = house.data("train", "--list")["classifiers"]
    assert {(row["name"], row["version"]) for row in listed} >= {("accord", 1), ("accord", 2)}
    assert "accord@2" in house.run("train", "--list")
    house.run("train", "accord", str(messages), "--features", "embeddings", code=2)
    messages.write_text('{"text": "x"}')
    assert "messages.jsonl:1" in house.run("train", "accord", str(messages), code=2)


def test_models_are_listed_and_given_a_role(house: House, tmp_path: pathlib.Path) -> None:
    env = config(tmp_path, models={"petit": {"deployments": [{**HOSTED, "api_key": "env/A_SECRET"}]}})
    env = {**env, "A_SECRET": "sk-s3cret"}
    listed = house.data("models", "list", env=env)
    assert [model["name"] for model in listed["models"]] == ["petit"]
    assert {"name", "licence", "bytes", "here"} <= set(listed["weights"][0])
    assert "petit" in house.run("models", "list", env=env) and "sk-s3cret" not in json.dumps(listed)
    assert house.data("models", "use", "judge", "petit", env=env) == {"role": "judge", "model": "petit"}
    written = pathlib.Path(env["METIER_CONFIG"]).read_text()
    assert yaml.safe_load(written)["roles"] == {"judge": "petit"}
    assert "env/A_SECRET" in written and "sk-s3cret" not in written


def test_of_each_price_it_is_said_where_it_comes_from(house: House, tmp_path: pathlib.Path) -> None:
    priced = {**HOSTED, "id": "ours", "price": {"input": 1, "output": 2}}
    known = {"id": "list", "provider": "openai", "model_id": "gpt-4o-mini"}
    env = config(
        tmp_path, models={"petit": {"deployments": [known, {**HOSTED, "id": "nobody"}, priced]}}, eur_per_usd=2
    )
    [model] = house.data("models", "list", env=env)["models"]
    found = {deployment["id"]: deployment["price"] for deployment in model["deployments"]}
    assert found["list"]["to_verify"] and found["list"]["recorded_on"] and found["list"]["input_eur"] == 0.3
    assert "1 USD counted as 2 EUR" in found["list"]["source"]
    assert found["nobody"] is None
    assert (found["ours"]["source"], found["ours"]["to_verify"]) == ("metier.yaml", False)
    assert "verify them there" in house.run("models", "list", env=env)
    env = config(tmp_path, models={"petit": {"deployments": [priced]}})
    assert "verify" not in house.run("models", "list", env=env)


async def asked(house: House, *arguments: str, env: Mapping[str, str], code: int = 0) -> Any:
    """Run a command beside the server it calls."""
    return await asyncio.to_thread(house.data, *arguments, env=env, code=code)


async def written_down(house: House, env: Mapping[str, str]) -> dict[str, int]:
    """Calls, tokens and errors of the writer so far."""
    rows = (await asked(house, "usage", "--by", "model", env=env))["usage"]
    nothing = {"calls": 0, "input_tokens": 0, "errors": 0}
    return next((row for row in rows if row["model"] == "writer"), nothing)


def says(value: object) -> Reply:
    return Reply([answer(orjson.dumps(value).decode() if not isinstance(value, str) else value)])


@pytest.fixture
async def model() -> Any:
    """A model server without any answer yet."""
    async with upstream(says("")) as server:
        yield server


async def test_a_question_is_answered_with_checked_citations_and_counted(
    house: House, tmp_path: pathlib.Path, model: Upstream
) -> None:
    (tmp_path / "retours.md").write_text("# Retours\n\nVous avez 14 jours pour renvoyer un article.")
    env = config(tmp_path, models=priced(model.url))
    await asked(house, "ingest", "questions", str(tmp_path / "retours.md"), env=env)
    found = await asked(house, "ask", "questions", "Combien de jours ?", "--search-only", env=env)
    (hit,) = found["hits"]
    assert model.requests == []
    before = await written_down(house, env)
    quote = "Vous avez 14 jours pour renvoyer un article."
    model.replies[:] = [says({"citations": [{"id": hit["id"], "quote": quote}], "body": "Vous avez 14 jours."})]
    found = await asked(house, "ask", "questions", "Combien de jours ?", env=env)
    assert (found["check"]["ok"], found["check"]["verified"], len(found["checked"])) == (True, 1, 2)
    model.replies[:] = [says({"citations": [{"id": hit["id"], "quote": quote}], "body": "Vous avez 30 jours."})]
    told = await asyncio.to_thread(house.run, "ask", "questions", "Combien de jours ?", env=env)
    told = " ".join(told.split())
    assert "1 citation(s) sur 1" in told and "introuvables" in told and "30 jours" in told
    assert "Non contrôlé : que les extraits répondent à la question" in told
    model.replies[:] = [says({"citations": [], "body": "I do not know."})]
    found = await asked(house, "ask", "questions", "How many days do I have to send an article back?", env=env)
    assert found["check"]["ok"] is False and "cites nothing" in found["checked"][-1]
    assert found["not_checked"].startswith("Not checked")
    after = await written_down(house, env)
    assert [after[name] - before[name] for name in ("calls", "input_tokens", "errors")] == [3, 33, 0]
    assert "writer" in await asyncio.to_thread(house.run, "usage", env=env)
    assert (await asked(house, "usage", "--since", "2099-01-01", env=env))["usage"] == []


@pytest.mark.parametrize("said", ["Je ne sais pas.", '{"citations": []}', '{"citations": 3, "body": "x"}', "[1]"])
async def test_an_answer_that_is_not_what_was_asked_is_told(
    house: House, tmp_path: pathlib.Path, model: Upstream, said: str
) -> None:
    (tmp_path / "retours.md").write_text("# Retours\n\nVous avez 14 jours pour renvoyer un article.")
    env = config(tmp_path, models=priced(model.url))
    await asked(house, "ingest", "bavard", str(tmp_path / "retours.md"), env=env)
    model.replies[:] = [says(said)]
    told = await asked(house, "ask", "bavard", "Combien de jours ?", env=env, code=1)
    assert told["error"]["code"] == "step_failed"


async def test_a_model_that_is_away_leaves_with_4(house: House, tmp_path: pathlib.Path) -> None:
    (tmp_path / "retours.md").write_text("# Retours\n\nVous avez 14 jours pour renvoyer un article.")
    env = config(tmp_path, models=priced("http://127.0.0.1:9/v1"))
    await asked(house, "ingest", "muet", str(tmp_path / "retours.md"), env=env)
    told = await asked(house, "ask", "muet", "Combien de jours ?", env=env, code=4)
    assert told["error"]["code"] in ("provider_unavailable", "no_deployment")


async def test_brackets_in_what_models_and_people_write_are_shown_as_they_are(
    house: House, tmp_path: pathlib.Path, model: Upstream
) -> None:
    said_by_people = ("--purpose", "Trier [/les] messages [bold]", "--owner", "[red]Zoé")
    await asyncio.to_thread(house.run, "system", "register", "crochets", *said_by_people)
    shown = await asyncio.to_thread(house.run, "system", "show", "crochets")
    assert "Trier [/les] messages [bold]" in shown and "[red]Zoé" in shown
    (tmp_path / "retours.md").write_text("# Retours\n\nVous avez 14 jours pour renvoyer un article.")
    env = config(tmp_path, models=priced(model.url))
    await asked(house, "ingest", "crochets", str(tmp_path / "retours.md"), env=env)
    model.replies[:] = [
        says({"citations": [{"id": "retours-1", "quote": "[/b] 9 jours"}], "body": "9 jours [retours-1]"})
    ]
    told = await asyncio.to_thread(house.run, "ask", "crochets", "Combien de jours ?", env=env)
    assert "9 jours [retours-1]" in told and "[retours-1] « [/b] 9 jours »" in told
