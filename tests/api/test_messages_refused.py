"""What a Messages request cannot say is refused by name, in Anthropic's shape, before anything is asked."""

from __future__ import annotations

import json
import pathlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.api import messages_body
from metier.api.server import application
from metier.calls import Call, KeyId, Principal, ProjectId, SystemId
from metier.errors import MetierError, Mistaken
from metier.guardrails.pii import PersonalData
from metier.providers.scripted import Script, ScriptedProvider, breaks, says
from metier.store import Store
from metier.vault import Vault
from tests.api.client import Response, ask
from tests.world import World, world

PATH = "/v1/messages"
WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
HELLO: dict[str, Any] = {"model": "petit", "max_tokens": 100, "messages": [{"role": "user", "content": "Bonjour"}]}
TOOL: dict[str, Any] = {"name": "meteo", "input_schema": {"type": "object"}}
DEEP: dict[str, Any] = {"type": "object"}
for _ in range(80):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


def said(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": 1.2}, "temperature"),
    ({"top_k": -1}, "top_k"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"context_management": {"edits": [{"type": "x"}]}}, "context_management"),
    ({"speed": "fast"}, "speed"),
    ({"inference_geo": "us"}, "inference_geo"),
    ({"seed": 7}, "seed"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type"),
    ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
    ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "output_config.effort"),
    ({"output_config": {"effort": "max"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "text", "schema": {}}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "output_config.format.schema"),
    ({"output_config": {"format": {"type": "json_schema", "schema": DEEP}}}, "output_config.format.schema"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "defer_loading"),
    ({"tools": [{**TOOL, "input_schema": DEEP}]}, "tools[0].input_schema"),
    ({"tools": [{**TOOL, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, "tools[0].cache_control"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "autre"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"cache_control": {"type": "permanent"}}, "cache_control"),
    ({"metadata": {"user_id": ""}}, "metadata.user_id"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    (said({"type": "video"}), "messages[0].content[0].type"),
    (said({"type": "tool_use", "id": "t", "name": "n", "input": {}}), "messages[0].content[0].type"),
    (said({"type": "text"}), "messages[0].content[0].text"),
    (said({"type": "text", "text": "a", "citations": [{"x": 1}]}), "messages[0].content[0].citations"),
    (said({"type": "image", "source": {"type": "url", "url": "http://a/b.png"}}), "messages[0].content[0].source"),
    (said({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0].source"),
    (said({"type": "image", "source": {"type": "text", "data": "a"}}), "messages[0].content[0].source"),
    (said({"type": "image"}), "messages[0].content[0].source"),
    (
        said({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "é"}}),
        "messages[0].content[0].source.data",
    ),
    (
        said({"type": "image", "source": {"type": "base64", "data": "AAAA"}}),
        "messages[0].content[0].source.media_type",
    ),
    (said({"type": "tool_result"}), "messages[0].content[0].tool_use_id"),
    (said({"type": "tool_result", "tool_use_id": "t", "content": 5}), "messages[0].content[0].content"),
    (
        said({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "search_result"}]}),
        "messages[0].content[0].content[0].type",
    ),
    (said({"type": "server_tool_use"}, role="assistant"), "messages[0].content[0].type"),
    (
        said({"type": "tool_use", "id": "t", "name": "n", "input": "{}"}, role="assistant"),
        "messages[0].content[0].input",
    ),
    (said({"type": "thinking", "thinking": "a"}, role="assistant"), "messages[0].content[0].signature"),
    (said({"type": "redacted_thinking"}, role="assistant"), "messages[0].content[0].data"),
]


def parsed(body: Any) -> Call:
    return messages_body.parse(json.dumps(body).encode(), WHO).call


@pytest.mark.parametrize(("changes", "param"), REFUSED, ids=[param for _, param in REFUSED])
def test_what_cannot_be_said_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(Mistaken) as caught:
        parsed(HELLO | changes)
    assert caught.value.param == param
    assert param.rpartition(".")[2] in caught.value.message


WORDS = ["", "text", "image", "base64", "user", "tool_use"]
NAMES = ["type", "text", "source", "data", "content", "input", "id", "name", "cache_control", "thinking", "title"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(
    name=st.sampled_from(sorted(messages_body.KNOWN | {"container", "speed"})),
    value=JSON,
    role=st.sampled_from(["user", "assistant", "system"]),
    content=st.lists(st.dictionaries(st.sampled_from(NAMES), JSON), max_size=2),
)
@settings(max_examples=400, deadline=None)
def test_whatever_comes_is_read_or_refused(name: str, value: Any, role: str, content: Any) -> None:
    for body in (HELLO | {name: value}, HELLO | {"messages": [{"role": role, "content": content}]}):
        try:
            parsed(body)
        except MetierError as error:
            assert isinstance(error, Mistaken)


class Door:
    """The application of a world, with its key already in hand."""

    def __init__(self, here: World, provider: ScriptedProvider) -> None:
        self.here = here
        self.provider = provider
        self.app = application(here)

    async def asked(self, path: str = PATH, leave_after: int | None = None, **more: Any) -> Response:
        headers = {"authorization": f"Bearer {self.here.secret}", "anthropic-version": "2023-06-01"}
        return await ask(self.app, path, {**HELLO, **more}, headers=headers, leave_after=leave_after)


@pytest.fixture
async def door(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Door]:
    """A door behind which a provider says "Bonjour" until told otherwise, and personal data is masked."""
    provider = ScriptedProvider(says("Bon", "jour"))
    async with world(store, vault, tmp_path, provider, guardrails=[PersonalData(store, vault)]) as here:
        yield Door(here, provider)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_a_status_in_anthropics_shape(door: Door, stream: bool) -> None:
    response = await door.asked(model="inconnu", stream=stream)
    assert (response.status, response.json["type"], response.json["error"]["type"]) == (404, "error", "not_found_error")
    assert response.json["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    response = await door.asked(stream=stream, seed=5)
    assert (response.status, response.json["error"]["type"]) == (400, "invalid_request_error")
    await door.here.admission.set_budget(door.here.principal.project, Decimal("0.000001"))
    response = await door.asked(stream=stream)
    assert (response.status, response.json["error"]["type"]) == (429, "rate_limit_error")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
async def test_no_key_and_too_long_a_body_are_told_in_the_same_shape(door: Door, path: str) -> None:
    response = await ask(door.app, path, HELLO)
    assert (response.status, response.json["error"]["type"]) == (401, "authentication_error")
    long = b" " * (9 * 1024 * 1024)
    response = await ask(door.app, path, long, headers={"x-api-key": door.here.secret})
    assert (response.status, response.json["error"]["type"]) == (413, "request_too_large")


async def test_a_stream_that_breaks_ends_with_an_error_event_and_no_message_stop(door: Door) -> None:
    door.provider.then(breaks("Votre dossier"))
    await door.asked()
    response = await door.asked(stream=True)
    blocks = response.body.decode().split("\n\n")[:-1]
    assert blocks[-1].startswith("event: error\ndata: ")
    assert '"overloaded_error"' in blocks[-1]
    assert "message_stop" not in response.body.decode()
    assert response.ended


async def test_a_fault_nobody_expected_is_an_api_error_without_its_words(door: Door) -> None:
    async def break_down() -> None:
        raise RuntimeError("a secret of the house")

    door.provider.then(Script(before=break_down, status=500))
    await door.asked()
    response = await door.asked()
    assert (response.status, response.json["error"]["type"]) == (500, "api_error")
    assert "secret" not in response.body.decode()


@pytest.mark.parametrize("leave_after", [1, 2])
async def test_a_client_that_leaves_ends_the_call(door: Door, leave_after: int) -> None:
    door.provider.then(says(*["mot "] * 50))
    await door.asked()
    response = await door.asked(stream=True, leave_after=leave_after)
    assert not response.ended
    [_, row] = await door.here.rows()
    assert row["outcome"] == "cancelled"
    assert row["id"] in door.provider.closed


async def test_personal_data_is_masked_on_the_way_in_and_restored_on_the_way_out(door: Door) -> None:
    door.provider.then(says("J'écris à [[EMA", "IL_1]]."))
    await door.asked()
    turns = [
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": "camille.durand@exemple.fr"},
                {"type": "text", "text": "Écris à camille.durand@exemple.fr"},
            ],
        }
    ]
    for stream in (False, True):
        response = await door.asked(messages=turns, stream=stream)
        assert "camille.durand@exemple.fr" in response.body.decode().replace('"}}\n\n', "")
        assert "camille" not in repr(door.provider.calls[-1].messages)
