"""Taking over another gateway's configuration: what is mapped loads, what is not is told with its line."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metier.catalog import Catalog
from metier.cli.litellm import translate
from metier.errors import Invalid
from tests.cli.house import House

CONFIG = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://maison.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY
      api_version: "2025-04-01"
      rpm: 600
    model_info: {id: azure-eu, mode: chat, max_input_tokens: 128000}
  - model_name: gpt-4o
    litellm_params:
      model: gpt-4o
      api_key: sk-this-is-a-secret-in-clear
      weight: 2
      order: 1
      drop_params: true
  - model_name: mistral large
    litellm_params:
      model: mistral/mistral-large-latest
      api_key: os.environ/MISTRAL_API_KEY
      input_cost_per_token: 0.000002
      output_cost_per_token: 6e-6
  - model_name: claude
    litellm_params: {model: bedrock/converse/anthropic.claude:0, aws_region_name: eu-west-3}
  - model_name: gemini
    litellm_params: {model: vertex_ai/gemini-2.5-pro, vertex_project: p}
  - model_name: local
    litellm_params: {model: ollama/llama3.1, api_base: "http://localhost:11434"}
  - model_name: vectors
    litellm_params: {model: openai/bge-m3, api_base: "http://vllm:8000/v1"}
    model_info: {mode: embedding}
  - model_name: "openai/*"
    litellm_params: {model: "openai/*"}
  - model_name: lost
    litellm_params: {model: replicate/foo}
router_settings:
  redis_host: os.environ/REDIS_HOST
  model_group_alias: {"gpt-4": gpt-4o, "nope": zzz}
litellm_settings:
  fallbacks: [{"gpt-4o": ["mistral large", "unknown"]}]
general_settings:
  master_key: sk-1234
"""


def test_deployments_of_one_name_become_one_model() -> None:
    models = translate(CONFIG, "config.yaml").config["models"]
    azure, openai = models["gpt-4o"]["deployments"]
    assert azure == {
        "provider": "azure",
        "model_id": "gpt-4o-eu",
        "base_url": "https://maison.openai.azure.com",
        "api_key": "env/AZURE_API_KEY",
        "rpm": 600,
        "options": {"api_version": "2025-04-01"},
        "id": "azure-eu",
        "context_tokens": 128000,
    }
    assert (openai["provider"], openai["model_id"], openai["weight"], openai["priority"]) == ("openai", "gpt-4o", 2, 1)
    assert models["gpt-4o"]["fallbacks"] == ["mistral-large"]
    assert models["gpt-4"] == {"rules": [{"use": "gpt-4o"}], "operation": "chat"}


def test_prices_become_dollars_a_million_and_providers_ours() -> None:
    models = translate(CONFIG, "config.yaml").config["models"]
    assert models["mistral-large"]["deployments"][0]["price"] == {"input": 2.0, "output": 6.0, "currency": "USD"}
    assert models["claude"]["deployments"][0] == {
        "provider": "bedrock", "model_id": "anthropic.claude:0", "options": {"region": "eu-west-3"},
    }  # fmt: skip
    assert models["gemini"]["deployments"][0]["options"] == {"project": "p", "location": "FILL-IN"}
    assert models["local"]["deployments"][0]["base_url"] == "http://localhost:11434/v1"
    assert models["vectors"]["operation"] == "embed"


def test_models_without_a_price_are_told() -> None:
    config = "model_list: [{model_name: own, litellm_params: {model: openai/made-here, api_base: 'http://h:1/v1'}}]"
    [note] = [note for note in translate(config, "config.yaml").notes if note.path == "models.own"]
    assert note.kind == "by hand" and "no price is known" in note.text and "allow_unpriced" in note.text


def test_a_secret_in_clear_is_nowhere_in_the_result() -> None:
    migration = translate(CONFIG, "config.yaml")
    assert "sk-this-is" not in yaml.safe_dump(migration.config) + str(migration.notes)
    assert "sk-1234" not in str(migration)


def test_what_is_left_out_is_told_with_its_line() -> None:
    notes = {note.path: note for note in translate(CONFIG, "config.yaml").notes}
    lines = CONFIG.splitlines()
    expected = {
        "model_list[1].litellm_params.drop_params": "drop_params",
        "model_list[1].litellm_params.api_key": "sk-this-is",
        "model_list[2].model_name": "mistral large",
        "model_list[7]": "openai/*",
        "model_list[8].litellm_params.model": "replicate",
        "router_settings.redis_host": "redis_host",
        "router_settings.model_group_alias.nope": "nope",
        "litellm_settings.fallbacks": "fallbacks",
        "general_settings.master_key": "master_key",
    }
    for path, word in expected.items():
        assert word in lines[notes[path].line - 1], path
    assert notes["model_list[1].litellm_params.api_key"].kind == "by hand"


AS_PEOPLE_WRITE = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/prod
      api_base: os.environ/AZURE_API_BASE
      api_key: os.environ/AZURE_API_KEY
      api_version: "2025-04-01"
    model_info: {base_model: azure/gpt-4o}
  - model_name: renamed
    litellm_params: {model: openai/own, api_base: "http://h:1/v1", api_key: none}
    model_info: {base_model: azure/never-heard-of}
  - model_name: nowhere
    litellm_params: {model: azure/x, api_key: os.environ/AZURE_API_KEY}
  - model_name: broken
    litellm_params: {model: openai/x, api_base: "h:1/v1"}
  - model_name: llama
    litellm_params: {model: ollama_chat/llama3.1, api_base: os.environ/OLLAMA_BASE}
  - model_name: vectors
    litellm_params: {model: openai/e, api_base: "http://h:1/v1"}
    model_info: {mode: embedding, input_cost_per_token: 2.0e-08}
  - model_name: gemini
    litellm_params: {model: vertex_ai/g, vertex_project: p, vertex_location: eu, vertex_credentials: /etc/sa.json}
litellm_settings:
  default_fallbacks: [llama]
"""


def test_what_litellm_is_often_given_comes_over_and_one_bad_entry_does_not_cost_the_others() -> None:
    migration = translate(AS_PEOPLE_WRITE, "config.yaml")
    models, notes = migration.config["models"], {note.path: note for note in migration.notes}
    assert models["gpt-4o"]["deployments"][0]["base_url"] == "env/AZURE_API_BASE"
    assert models["gpt-4o"]["deployments"][0]["base_model"] == "gpt-4o"
    assert models["gpt-4o"]["fallbacks"] == ["llama"] and "fallbacks" not in models["vectors"]
    assert models["renamed"]["deployments"] == [{"provider": "openai", "model_id": "own", "base_url": "http://h:1/v1"}]
    assert models["llama"]["deployments"][0]["base_url"] == "env/OLLAMA_BASE"
    assert models["vectors"]["deployments"][0]["price"] == {"input": 0.02, "output": 0.0, "currency": "USD"}
    assert models["gemini"]["deployments"][0]["options"]["service_account"] == "/etc/sa.json"
    assert "broken" not in models and migration.deployments == 6
    told = {
        "model_list[1]": "never-heard-of", "model_list[1].litellm_params.api_key": "none is sent",
        "model_list[2].litellm_params": "AZURE_API_BASE", "model_list[3]": "base_url",
        "model_list[4].litellm_params.api_base": "/v1", "eur_per_usd": "euro",
    }  # fmt: skip
    assert all(word in notes[path].text for path, word in told.items())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b", "expected a mapping"),
        ("", "expected a mapping"),
        ("model_list: [\n  {", "is not YAML"),
        ("a: b: c", "config.yaml:1 is not YAML"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        translate(text, "config.yaml")


_leaf: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=6), st.floats()
)
_branch = st.one_of(_leaf, st.lists(_leaf, max_size=2), st.dictionaries(st.text(max_size=5), _leaf))
_tree = st.one_of(_branch, st.lists(_branch, max_size=2), st.dictionaries(st.text(max_size=5), _branch))
_params = st.dictionaries(
    st.sampled_from(["model", "api_key", "api_base", "rpm", "weight", "order", "timeout", "vertex_project", "zzz"]),
    st.one_of(st.sampled_from(["openai/a", "azure/b", "mistral/c", "x/y/z"]), _leaf),
)


@given(
    st.lists(st.fixed_dictionaries({"model_name": st.text(max_size=4), "litellm_params": _params}) | _tree, max_size=4),
    _tree,
    _tree,
)
def test_whatever_the_file_says_the_result_loads_or_is_refused(entries: list[Any], router: Any, general: Any) -> None:
    data = {"model_list": entries, "router_settings": router, "litellm_settings": general, "general_settings": general}
    try:
        migration = translate(yaml.safe_dump(data, allow_unicode=True), "config.yaml")
    except Invalid:
        return
    Catalog.from_yaml(migration.config["models"])
    assert migration.read == len(entries)


def test_the_command_shows_first_and_writes_when_told(house: House, tmp_path: pathlib.Path) -> None:
    source, target = tmp_path / "config.yaml", tmp_path / "metier.yaml"
    source.write_text(CONFIG, encoding="utf-8")
    shown = house.run("import", "litellm", str(source))
    assert "gpt-4o-eu" in shown and "7 of 9 deployments" in shown and not target.exists()
    house.run("import", "litellm", str(source), "--output", str(target))
    assert yaml.safe_load(target.read_text("utf-8"))["models"]["vectors"]["operation"] == "embed"
    assert "exists" in house.run("import", "litellm", str(source), "--output", str(target), code=2)
    told = house.data("import", "litellm", str(source), "--output", str(target), "--force")
    assert told["written"] == str(target) and target.with_name("metier.yaml.bak").exists()


def test_keys_are_listed_first_and_issued_when_told(house: House, tmp_path: pathlib.Path) -> None:
    listing = tmp_path / "keys.json"
    keys = [
        {"key_alias": "shop", "models": ["gpt-4o"], "expires": "2099-01-01T00:00:00Z", "rpm_limit": 60,
         "max_budget": 12.5, "budget_duration": "30d"},
        {"key_alias": "old", "models": [], "expires": "2001-01-01T00:00:00"},
        {"key_alias": "bad", "models": [], "blocked": True},
        {"key_name": "sk-...abcd", "models": [], "max_budget": 3, "budget_duration": "7d"},
        {"key_alias": "per model", "model_max_budget": {"gpt-4o": {"budget_limit": 1, "time_period": "1d"}}},
        {"key_alias": "apart", "budget_id": "b1"},
        {"key_alias": "odd", "max_budget": "3"},
        {"key_alias": "odder", "max_budget": 3, "budget_duration": ["30d"]},
        {"key_alias": "poor", "max_budget": 0},
        {"key_alias": "mate", "models": ["all-team-models"], "team_id": "t"},
        {"key_alias": "wide", "models": ["all-proxy-models"], "team_id": "t", "soft_budget": 2.0},
    ]  # fmt: skip
    listing.write_text(json.dumps({"keys": keys}), encoding="utf-8")
    house.run("system", "register", "Boutique", "--purpose", "Répondre", "--owner", "Nadia")
    house.run("system", "move", "Boutique", "pilot")
    # A project of its own: the house's, when a test made it before, has a budget below that of the key.
    house.run("key", "project", "boutique")
    arguments = ("import", "litellm-keys", str(listing), "--system", "Boutique", "--project", "boutique")
    before = {key["id"] for key in house.data("key", "list")["keys"]}
    listed = house.data(*arguments)
    assert [key["name"] for key in listed["keys"]] == ["shop", "wide"] and not listed["applied"]
    unbounded = {"sk-...abcd", "per model", "apart", "odd", "odder"}
    behind = {one["name"]: one["why"] for one in listed["left_behind"]}
    assert set(behind) == {"old", "bad", "poor", "mate"} | unbounded
    assert "every '7d'" in behind["sk-...abcd"]
    assert all("no bound" in behind[name] and "--without-budget" in behind[name] for name in unbounded)
    assert listed["keys"][0]["left_out"] == ["no model 'gpt-4o' here"] and listed["keys"][1]["models"] is None
    assert "team 't'" in str(listed["keys"][1]["left_out"]) and "soft budget" in str(listed["keys"][1]["left_out"])
    assert {key["id"] for key in house.data("key", "list")["keys"]} == before
    issued = house.data(*arguments, "--apply", "--without-budget")
    assert {key["name"] for key in issued["keys"]} == {"shop", "wide"} | unbounded
    assert all(key["secret"].startswith("sk-mt-") for key in issued["keys"])
    assert "has no counterpart" in issued["keys"][1]["left_out"][0]
    assert "not brought over" in str([key["left_out"] for key in issued["keys"] if key["name"] == "apart"])
    limited = house.data("budget", "list")
    made = {key["id"] for key in house.data("key", "list")["keys"]} - before
    set_here = {(one["limit"]["measure"], one["limit"]["period"], one["limit"]["subject"]) for one in limited["limits"]}
    assert {(measure, period) for measure, period, whose in set_here if whose in made} == {
        ("requests", "minute"),
        ("money", "month"),
    }
    kept = {key["name"]: key for key in house.data("key", "list")["keys"]}
    assert kept["shop"]["models"] == ["gpt-4o"] and kept["sk-...abcd"]["expires_at"] is None


def test_a_budget_above_that_of_the_project_is_told_and_not_given(house: House, tmp_path: pathlib.Path) -> None:
    listing = tmp_path / "keys.json"
    listing.write_text(json.dumps([{"key_alias": "rich", "max_budget": 12.5, "budget_duration": "30d"}]), "utf-8")
    house.run("system", "register", "Étroit", "--purpose", "Répondre", "--owner", "Nadia")
    house.run("system", "move", "Étroit", "pilot")
    house.run("key", "project", "narrow", "--limit", "5")
    [issued] = house.data(
        "import", "litellm-keys", str(listing), "--system", "Étroit", "--project", "narrow", "--apply"
    )["keys"]
    assert issued["secret"].startswith("sk-mt-")
    [told] = issued["left_out"]
    assert "money not limited" in told and "12.5 € per month" in told and "has 5" in told
