"""`metier plan`: the forecast of a workflow on a real house, and its exit codes."""

from __future__ import annotations

import json
import pathlib

from tests.cli.house import House
from tests.cli.test_flows import allowed

FLOW = """
flow: forecast
schema: 1
inputs: {text: string}
budget: {per_run_eur: 0.05, on_exceed: fail}
steps:
  - id: language
    code: text.language
    with: {text: "{{ inputs.text }}"}
    timeout: 5s
  - id: draft
    llm: {model: writer, prompt: draft.md, max_output_tokens: 200}
    with: {text: "{{ inputs.text }}"}
    output: {body: string}
    retry: {max: 1}
    timeout: 60s
"""
MODELS = """
models:
  writer:
    deployments:
      - {id: w, provider: scripted, model_id: w, price: {input: PRICE, output: 4},
         context_tokens: 8000, max_output_tokens: 1000}
"""


def prepared(house: House, folder: pathlib.Path, price: str) -> House:
    """The same house with a model of that price, in euros per million tokens."""
    (folder / "flow.yaml").write_text(FLOW, encoding="utf-8")
    (folder / "draft.md").write_text("Réponds : {{ text }}", encoding="utf-8")
    (folder / "inputs.json").write_text(json.dumps({"text": "Bonjour " * 20}), encoding="utf-8")
    (folder / "metier.yaml").write_text(MODELS.replace("PRICE", price), encoding="utf-8")
    return House(house.home, house.database_url, {"METIER_CONFIG": str(folder / "metier.yaml")})


def test_a_plan_gives_three_cases_with_where_they_are_from(house: House, tmp_path: pathlib.Path) -> None:
    mine = prepared(house, tmp_path, "1")
    found = mine.data("plan", str(tmp_path), "--inputs", str(tmp_path / "inputs.json"), "--runs", "10")
    assert (found["per_run"]["least"]["calls"], found["per_run"]["most"]["calls"]) == (1, 4)
    assert found["total"]["most"]["calls"] == 40 and found["per_run"]["most"]["seconds"] > 125
    assert found["per_run"]["most"]["input_tokens"] == 4 * 8000
    assert found["verdict"]["level"] == "within" and found["history_runs"] == 0
    assert [(step["id"], step["most_tries"]) for step in found["steps"]] == [("language", 1), ("draft", 2)]
    told = mine.run("plan", str(tmp_path))
    assert "worst case" in told and "It fits the budget" in told


def test_a_plan_above_the_budget_leaves_with_three(house: House, tmp_path: pathlib.Path) -> None:
    dear = prepared(house, tmp_path, "5")
    assert dear.data("plan", str(tmp_path))["verdict"]["level"] == "ask"
    dear.data("plan", str(tmp_path), "--strict", code=3)
    ruinous = prepared(house, tmp_path, "5000")
    found = ruinous.data("plan", str(tmp_path), code=3)
    assert found["verdict"]["level"] == "refuse" and "per_run_eur" in found["verdict"]["reasons"][0]
    cheap = prepared(house, tmp_path, "1")
    cheap.run("key", "project", "prevision")
    cheap.run("budget", "set", "money", "0.01", "--project", "prevision")
    assert cheap.data("plan", str(tmp_path), "--project", "prevision")["verdict"]["level"] == "ask"
    held = cheap.data("plan", str(tmp_path), "--project", "prevision", "--runs", "1000", code=3)
    assert "what project 'prevision' has left" in held["verdict"]["reasons"][0]


def test_a_limit_of_the_system_bounds_a_plan_as_one_of_the_project_does(house: House, tmp_path: pathlib.Path) -> None:
    mine = prepared(house, tmp_path, "1")
    allowed(mine, "forecast")
    assert mine.data("plan", str(tmp_path))["verdict"]["level"] == "within"
    mine.run("budget", "set", "tokens", "100", "--system", "flows forecast", "--per", "day")
    few = mine.data("plan", str(tmp_path), code=3)["verdict"]
    assert "what system 'flows forecast' has left, 100 tokens" in few["reasons"][0]
    mine.run("budget", "set", "tokens", "1000000", "--system", "flows forecast", "--per", "day")
    mine.run("budget", "set", "energy", "1", "--system", "flows forecast", "--per", "day")
    assert "the worst case of it is not known" in mine.data("plan", str(tmp_path))["verdict"]["reasons"][0]


def test_wrong_inputs_and_names_are_told(house: House, tmp_path: pathlib.Path) -> None:
    mine = prepared(house, tmp_path, "1")
    (tmp_path / "inputs.json").write_text("{", encoding="utf-8")
    assert "is not JSON" in mine.run("plan", str(tmp_path), "--inputs", str(tmp_path / "inputs.json"), code=2)
    (tmp_path / "inputs.json").write_bytes(b'{"text": "caf\xe9"}')
    assert "save it as UTF-8" in mine.run("plan", str(tmp_path), "--input", str(tmp_path / "inputs.json"), code=2)
    assert "is not key=value" in mine.run("plan", str(tmp_path), "text", code=2)
    assert "unknown 'colour'" in mine.run("plan", str(tmp_path), "text=x", "colour=red", code=2)
    assert "no template" in mine.run("plan", "nowhere", code=2)
