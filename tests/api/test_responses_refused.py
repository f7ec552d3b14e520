"""What a Responses request cannot say is refused by name; whatever is sent, nothing breaks."""

from __future__ import annotations

import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.api.responses_body import IGNORED, KNOWN, NEUTRAL, parse
from metier.api.responses_items import turns
from metier.api.server import application
from metier.calls import KeyId, Principal, ProjectId, Reasoning, SystemId
from metier.errors import MetierError
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.vault import Vault
from tests.api.client import Response, ask
from tests.world import World, world

PATH = "/v1/responses"
HELLO: dict[str, Any] = {"model": "petit", "input": "Bonjour"}
WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
FUNCTION = {"type": "function", "name": "meteo", "parameters": {"type": "object"}}
DEEP: Any = {"a": 1}
for _ in range(100):
    DEEP = {"a": DEEP}

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("background", {"background": True}, "background"),
    ("conversation", {"conversation": "conv_1"}, "conversation"),
    ("prompt", {"prompt": {"id": "pmpt_1"}}, "prompt"),
    ("truncation", {"truncation": "auto"}, "truncation"),
    ("context management", {"context_management": [{"type": "compaction"}]}, "context_management"),
    ("max_tool_calls", {"max_tool_calls": 3}, "max_tool_calls"),
    ("top_logprobs", {"top_logprobs": 3}, "top_logprobs"),
    ("verbosity", {"text": {"verbosity": "low"}}, "text.verbosity"),
    ("concise summary", {"reasoning": {"summary": "concise"}}, "reasoning.summary"),
    ("strange effort", {"reasoning": {"effort": "xhigh"}}, "reasoning.effort"),
    ("strange setting", {"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ("logprobs", {"include": ["message.output_text.logprobs"]}, "include[0]"),
    ("unknown", {"temprature": 1}, "temprature"),
    ("no input", {"input": []}, "input"),
    ("no model", {"model": None}, "model"),
    ("too much metadata", {"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    ("metadata that is no text", {"metadata": {"a": 1}}, "metadata.a"),
    ("schema without name", {"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format"),
    ("deep schema", {"text": {"format": {"type": "json_schema", "name": "a", "schema": DEEP}}}, "text.format.schema"),
    ("deep parameters", {"tools": [{**FUNCTION, "parameters": DEEP}]}, "tools[0].parameters"),
    ("bad function name", {"tools": [{**FUNCTION, "name": "a b"}]}, "tools[0].name"),
    ("strange tool choice", {"tools": [FUNCTION], "tool_choice": "perhaps"}, "tool_choice"),
    ("choice of none", {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
    ("hosted choice", {"tools": [FUNCTION], "tool_choice": {"type": "file_search"}}, "tool_choice"),
    ("allowed unknown", {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION]}}, "tool_choice"),
    ("required nothing", {"tool_choice": "required"}, "tool_choice"),
    *[
        (kind, {"tools": [FUNCTION, {"type": kind}]}, "tools[1].type")
        for kind in (
            "web_search", "web_search_preview", "file_search", "computer_use_preview", "code_interpreter", "mcp",
            "image_generation", "local_shell", "shell", "apply_patch", "custom",
        )
    ],
]  # fmt: skip

ITEMS: list[tuple[str, list[Any], str]] = [
    ("reference", [{"type": "item_reference", "id": "msg_1"}], "input[0].type"),
    ("hosted item", [{"type": "web_search_call", "id": "ws_1", "status": "completed"}], "input[0].type"),
    ("no role", [{"type": "message", "content": "a"}], "input[0].role"),
    ("role of a tool", [{"role": "tool", "content": "a"}], "input[0].role"),
    ("no content", [{"role": "user"}], "input[0].content"),
    ("empty content", [{"role": "user", "content": []}], "input[0].content"),
    ("strange part", [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "input[0].content[0].type"),
    (
        "address of an image",
        [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}],
        "input[0].content[0].image_url.url",
    ),
    (
        "file kept elsewhere",
        [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}],
        "input[0].content[0].file_id",
    ),
    (
        "address of a file",
        [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example/b.pdf"}]}],
        "input[0].content[0].file_url",
    ),
    ("output of nothing", [{"type": "function_call_output", "call_id": "c", "output": "1"}], "input[0].call_id"),
    ("call without output", [{"type": "function_call", "call_id": "c", "name": "a", "arguments": "{}"}], "input"),
    ("thought of others", [{"type": "reasoning", "encrypted_content": "gAAAA"}], "input[0].encrypted_content"),
]  # fmt: skip


@pytest.fixture
async def here(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[World]:
    """A world whose provider says "Bonjour"."""
    async with world(store, vault, tmp_path, ScriptedProvider(says("Bon", "jour"))) as made:
        yield made


async def sent(here: World, body: Any) -> Response:
    return await ask(application(here), PATH, body, headers={"x-api-key": here.secret})


async def test_what_is_not_done_here_is_refused_by_name(here: World) -> None:
    for why, more, param in REFUSED:
        response = await sent(here, {**HELLO, **more})
        error = response.json["error"]
        assert (response.status, error["param"], error["type"]) == (422, param, "invalid_request_error"), why
        assert param.partition("[")[0].partition(".")[0] in error["message"], why


async def test_items_that_do_not_fit_are_refused_by_their_place(here: World) -> None:
    for why, items, param in ITEMS:
        response = await sent(here, {**HELLO, "input": [*items, {"role": "user", "content": "Alors ?"}]})
        assert (response.status, response.json["error"]["param"]) == (422, param), (why, response.body)


async def test_what_asks_for_nothing_is_taken(here: World) -> None:
    plain = {name: values[0] for name, values in NEUTRAL.items()}
    body = {**HELLO, **plain, "tool_choice": "auto", "tools": [], "text": {"format": {"type": "text"}}, "include": []}
    response = await sent(here, body)
    assert response.status == 200, response.body
    assert (await sent(here, {**HELLO, **dict.fromkeys((*plain, "conversation", "prompt"))})).status == 200


async def test_no_key_no_answer(here: World) -> None:
    for method, path in (
        ("POST", ""),
        ("GET", "/resp_1"),
        ("DELETE", "/resp_1"),
        ("GET", "/resp_1/input_items"),
        ("POST", "/resp_1/cancel"),
    ):
        response = await ask(application(here), PATH + path, b"{}" if method == "POST" else None, method=method)
        assert response.status == 401


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
words = st.sampled_from(
    "type role id message user assistant developer content input_text output_text refusal text input_image image_url "
    "data:image/png;base64,AAAA input_file file_data filename a.pdf input_audio format data detail low function_call "
    "function_call_output call_id c1 name arguments output reasoning summary summary_text encrypted_content effort "
    "extra_content google thought_signature function parameters strict json_schema schema json_object auto "
    "allowed_tools mode tools prompt_cache_breakpoint explicit item_reference phase status".split()
)
values = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
items = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": values}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"])},
        optional={
            "id": values, "role": values, "content": values, "call_id": values, "name": values, "arguments": values,
            "output": values, "summary": values, "encrypted_content": values, "extra_content": values,
        },
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call"), "call_id": st.just("c1"), "name": st.just("a"), "arguments": st.text()}
    ),
    st.fixed_dictionaries({"type": st.just("function_call_output"), "call_id": st.just("c1"), "output": values}),
)  # fmt: skip


def judged(data: bytes) -> None:
    """Parsing gives a call that can be written out again, or an error that is the sender's and says so."""
    try:
        asked = parse(data, WHO)
        found = turns([("input", item) for item in asked.items], lambda sealed: Reasoning(signature=sealed))
    except MetierError as error:
        assert 400 <= error.status < 500
        assert error.message
        return
    orjson.dumps([dict(asked.repeated), *asked.items])
    orjson.dumps([[message.text, *(call.arguments for call in message.tool_calls)] for message in found])
    assert all(not (message.content and message.parts) for message in found)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    judged(data)


@given(st.dictionaries(st.sampled_from([*KNOWN, *IGNORED, *NEUTRAL, "conversation", "prompt"]), values, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_fields_are_taken_or_refused(fields: dict[str, Any]) -> None:
    judged(json.dumps({**HELLO, **fields}).encode())


@given(st.lists(items, min_size=1, max_size=5))
@settings(max_examples=400, deadline=None)
def test_any_items_are_taken_or_refused(given_items: list[Any]) -> None:
    judged(json.dumps({**HELLO, "input": given_items}).encode())


@given(st.dictionaries(words, values, max_size=4), st.sampled_from(["tools", "tool_choice", "text", "reasoning"]))
@settings(max_examples=200, deadline=None)
def test_any_settings_are_taken_or_refused(fields: dict[str, Any], name: str) -> None:
    judged(json.dumps({**HELLO, "tools": [FUNCTION], name: [fields] if name == "tools" else fields}).encode())


@given(st.lists(items, min_size=1, max_size=3), st.booleans(), st.text(max_size=30))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_noise_breaks_the_server(here: World, noise: list[Any], stream: bool, previous: str) -> None:
    for more in ({"input": noise, "stream": stream}, {"previous_response_id": previous or "x"}):
        response = await sent(here, json.dumps({**HELLO, **more}).encode())
        assert response.status in (200, 400, 404, 422), response.body
        if response.status != 200:
            assert set(response.json["error"]) == {"message", "type", "param", "code"}


def test_every_parameter_is_taken_in_one_way_and_documented() -> None:
    assert not (KNOWN & IGNORED) | (KNOWN & NEUTRAL.keys()) | (IGNORED & NEUTRAL.keys())
    page = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "http-api.md"
    section = page.read_text(encoding="utf-8").split("\n## Responses\n")[1].split("\n## ")[0]
    for name in KNOWN | IGNORED | NEUTRAL.keys():
        assert f"`{name}" in section, name
