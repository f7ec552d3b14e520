from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.cache.place import Place, Places
from metier.calls import (
    Call,
    ConversationId,
    KeyId,
    Message,
    OrganisationId,
    Origin,
    OutputSchema,
    Principal,
    ProjectId,
    RunId,
    SystemId,
    Tool,
)
from metier.catalog import Catalog
from metier.deployment import Model
from metier.policy.constraints import Caching
from metier.vault import Vault

VAULT = Vault(b"k" * 32)


def model(revision: str = "1", url: str = "http://a.example/v1") -> Model:
    deployment = {"id": "d", "provider": "openai", "model_id": f"m-{revision}", "base_url": url, "allow_unpriced": True}
    return Catalog.from_yaml({"m": {"deployments": [deployment]}}).model("m")


OLD, NEW = model("1"), model("2")

PARTS: dict[str, st.SearchStrategy[Any]] = {
    "organisation": st.sampled_from(["main", "other"]),
    "project": st.sampled_from(["p1", "p2"]),
    "system": st.sampled_from(["s1", "s2"]),
    "groups": st.sampled_from([frozenset(), frozenset({"public"}), frozenset({"public", "hr"})]),
    "models": st.sampled_from([None, frozenset[str](), frozenset({"m"}), frozenset({"m", "n"})]),
    "model": st.sampled_from(["m", "n"]),
    "behind": st.sampled_from([OLD, NEW]),
    "temperature": st.sampled_from([None, 0.0, 0.1]),
    "top_p": st.sampled_from([None, 0.5]),
    "seed": st.sampled_from([None, 0, 1]),
    "max_output_tokens": st.sampled_from([None, 10]),
    "stop": st.sampled_from([(), ("a",), ("a", "b")]),
    "output": st.sampled_from([None, OutputSchema("o", {}), OutputSchema("o", {"type": "object"})]),
    "effort": st.sampled_from([None, "low"]),
    "prompt": st.sampled_from(["", "Sois bref", "Sois long", "Sois bref\x00"]),
    "before": st.sampled_from([0, 1]),
    "guardrails": st.sampled_from(["g1", "g2"]),
    "language": st.sampled_from([None, "fr", "en"]),
}
WHO = ("organisation", "project", "system", "groups", "models")
ASIDE = ("model", "behind", "prompt", "before", "guardrails", "language")


def placed(parts: dict[str, Any], question: str = "Quoi ?", **caching: Any) -> Place | None:
    who = Principal(
        KeyId(parts.get("key", "k")),
        ProjectId(parts["project"]),
        SystemId(parts["system"]),
        groups=parts["groups"],
        models=parts["models"],
        organisation=OrganisationId(parts["organisation"]),
    )
    before = (Message("user", "a"), Message("assistant", "b")) if parts["before"] else ()
    prompt = (Message("system", parts["prompt"]),) if parts["prompt"] else ()
    more = {name: value for name, value in parts.items() if name not in (*WHO, *ASIDE, "key", "end_user")}
    call = Call(
        who,
        parts["model"],
        messages=(*prompt, *before, Message("user", question)),
        end_user=parts.get("end_user"),
        **more,
    )
    return Places(VAULT, parts["guardrails"]).find(call, parts["behind"], Caching(**caching), parts["language"])


@settings(max_examples=400, deadline=None)
@given(one=st.fixed_dictionaries(PARTS), changes=st.fixed_dictionaries({}, optional=PARTS))
def test_whatever_differs_between_two_calls_keeps_their_answers_apart(
    one: dict[str, Any], changes: dict[str, Any]
) -> None:
    two = {**one, **changes}
    first, second = placed(one), placed(two)
    assert first is not None and second is not None
    same = all(one[name] is two[name] if name == "behind" else one[name] == two[name] for name in one)
    assert (first.partition == second.partition) == same
    assert (first.key == second.key) == same


@settings(max_examples=200, deadline=None)
@given(one=st.text(max_size=40), two=st.text(max_size=40))
def test_two_questions_have_two_keys_in_one_partition(one: str, two: str) -> None:
    parts = {name: OLD if name == "behind" else None for name in PARTS} | {
        "organisation": "main", "project": "p", "system": "s", "groups": frozenset(), "model": "m",
        "prompt": "", "stop": (), "guardrails": "g", "before": 0,
    }  # fmt: skip
    first, second = placed(parts, one), placed(parts, two)
    if first is None or second is None:
        return
    assert first.partition == second.partition
    assert (first.key == second.key) == (one == two)


def test_what_says_nothing_of_the_answer_changes_no_place() -> None:
    who = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
    call = Call(who, "m", messages=(Message("user", "Quoi ?"),))
    aside: dict[str, Any] = {
        "whole": True, "reuse": "refresh", "cache_key": "x", "end_user": "paul", "conversation": ConversationId("c"),
        "origin": Origin(RunId("r"), "a"), "principal": replace(who, key_id=KeyId("other"), name="other"),
    }  # fmt: skip
    places = Places(VAULT, "g")
    first = places.find(call, OLD, Caching(), "fr")
    assert first is not None
    for name, value in aside.items():
        second = places.find(replace(call, **{name: value}), OLD, Caching(), "fr")
        assert second is not None and second.key == first.key, name


def test_every_field_of_a_call_and_a_caller_was_thought_of() -> None:
    """A new field keeps answers apart by itself; one that need not is named here and in the place."""
    who = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
    call = Call(who, "m", messages=(Message("user", "Quoi ?"),))
    places = Places(VAULT, "g")
    first = places.find(call, OLD, Caching(), "fr")
    other: dict[str, Any] = {
        "model": "n", "inputs": ("x",), "query": "x", "language": "fr", "size": "1x1", "dimensions": 3,
        "tool_choice": "none", "output": OutputSchema("o", {}), "temperature": 0.2, "top_p": 0.2,
        "max_output_tokens": 3, "stop": ("x",), "top_k": 3, "frequency_penalty": 0.1, "presence_penalty": 0.1,
        "seed": 3, "parallel_tool_calls": False, "effort": "low", "thinking_tokens": 3,
        "purpose": "query",
    }  # fmt: skip
    aside = {"id", "principal", "messages", "conversation", "origin", "end_user", "cache_key", "whole", "reuse"}
    refused = {"operation", "tools", "audio"}
    assert {field.name for field in fields(Call)} <= other.keys() | aside | refused
    for name, value in other.items():
        second = places.find(replace(call, **{name: value}), OLD, Caching(), "fr")
        assert first is not None and second is not None and second.partition != first.partition, name
    assert places.find(replace(call, tools=(Tool("t", "", {}),)), OLD, Caching(), "fr") is None
    assert places.find(replace(call, operation="embed"), OLD, Caching(), "fr") is None


@pytest.mark.parametrize(("within", "shared"), [("system", True), ("key", False), ("end_user", False)])
def test_answers_are_shared_as_far_as_the_house_says(within: str, shared: bool) -> None:
    parts = {name: OLD if name == "behind" else None for name in PARTS} | {
        "organisation": "main", "project": "p", "system": "s", "groups": frozenset(), "model": "m",
        "prompt": "", "stop": (), "guardrails": "g", "before": 0,
    }  # fmt: skip
    one = placed({**parts, "key": "k1", "end_user": "anne"}, within=within)
    two = placed({**parts, "key": "k2", "end_user": "paul"}, within=within)
    assert one is not None and two is not None
    assert (one.key == two.key) == shared
    if within == "end_user":
        assert placed({**parts, "key": "k1"}, within=within) is None
