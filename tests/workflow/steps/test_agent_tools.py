"""What agents are offered: schemas of Python functions, tools by name, other workflows; and their silence."""

from __future__ import annotations

import pathlib
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Literal

import pytest

from metier.calls import JSON
from metier.errors import NotFound
from metier.providers.scripted import ScriptedProvider, asks, says
from metier.store import Store
from metier.vault import Vault
from metier.workflow.context import Asked
from metier.workflow.engine import Engine, StepContext
from metier.workflow.steps.agent_persona import Persona
from metier.workflow.steps.agent_tools import AgentTool, FlowTool, Offer, Toolbox, schema_of
from metier.workflow.steps.functions import FUNCTIONS
from metier.workflow.steps.tool import Tool
from tests.workflow.flows import WHO, flow, step
from tests.workflow.steps.agents import Counted, desk, shop, told


def priced(article: str, number: int = 1, kind: Literal["gross", "net"] = "net", more: list[str] | None = None) -> JSON:
    """Price an article."""
    return [article, number, kind, [*(more or [])]]


def loose(lines: list[JSON], rates: Mapping[str, float], *, anything: JSON = None) -> JSON:
    """Take what comes."""
    return [*lines, anything, dict(rates)]


def test_a_python_function_gives_its_schema() -> None:
    assert schema_of(priced) == {
        "type": "object",
        "properties": {
            "article": {"type": "string"},
            "number": {"type": "integer", "default": 1},
            "kind": {"enum": ["gross", "net"], "default": "net"},
            "more": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
        },
        "required": ["article"],
        "additionalProperties": False,
    }
    assert schema_of(loose)["properties"] == {
        "lines": {"type": "array", "items": {}},
        "rates": {"type": "object", "additionalProperties": {"type": "number"}},
        "anything": {"default": None},
    }


def test_every_function_of_code_steps_can_be_offered() -> None:
    for name, function in FUNCTIONS.items():
        schema = schema_of(function)
        assert schema["type"] == "object" and schema["properties"], name


async def test_functions_of_code_steps_are_tools(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("text_language", {"text": "Bonjour à vous"}), says("French."))
    async with shop(store, tmp_path, provider) as s:
        assert (await s.give(desk({"tools": ["text.language"]})))["text"] == "French."
    (tool,) = provider.calls[0].tools
    assert (tool.name, "text" in str(tool.parameters)) == ("text_language", True)
    assert tool.description
    assert told(provider)[-1] == ("tool", '{"language":"fr","empty":false}')


async def test_a_bare_tool_takes_any_arguments(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("echo", {"a": [1]}), says("Yes."))
    async with shop(store, tmp_path, provider) as s:
        await s.give(desk({"tools": ["echo", "echo"]}))
    assert [tool.description for tool in provider.calls[0].tools] == ["Give back what it was given."]
    assert told(provider)[-1] == ("tool", '{"a":[1]}')


class Table(dict[str, Tool]):
    """A table that asks its connectors when somebody wants to know."""

    def __init__(self, *specs: Counted) -> None:
        super().__init__({"late.*": specs[0]})
        self.specs = specs

    async def matching(self, patterns: Sequence[str]) -> Sequence[AgentTool]:
        """Know one prefix."""
        if patterns != ["late.*"]:
            raise NotFound(f"no tool is called {patterns[0]!r}")
        return self.specs


async def test_tools_of_connectors_are_asked_for_when_needed(store: Store, vault: Vault) -> None:
    late = Counted("late.read", "Reads.", {"type": "object"}, "read")
    toolbox = Toolbox(Table(late), FUNCTIONS)
    found: list[tuple[Offer, ...]] = []

    async def look(context: StepContext, with_: dict[str, JSON]) -> JSON:
        for tools in (("late.*", "text.language"), ("early.*",)):
            found.append(await toolbox.offers(context, Persona("it", "", "", tools, ("late.read",), (), "")))
        return None

    engine = Engine(store, vault, {"code": look})
    run = await engine.start(flow(step("it")), {}, WHO)
    await engine.drain()
    assert [(offer.name, offer.called, offer.asks) for offer in found[0]] == [
        ("late.read", "late_read", True),
        ("text.language", "text_language", False),
    ]
    failure = (await engine.get(run)).failure
    assert failure is not None and (failure.code, "early" in failure.message) == ("not_found", True)


async def test_long_results_are_cut_and_say_so(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_find", {"number": 7}), says("Long."))
    async with shop(store, tmp_path, provider) as s:
        s.find.gives = "x" * 40_000
        await s.give(desk())
    assert told(provider)[-1][1].endswith("[cut: 8000 more characters]")


class Children:
    """Runs other workflows, and parks the run of the agent until the first look at each."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, dict[str, JSON]]] = []

    async def find(self, context: StepContext, flow: str) -> FlowTool | None:
        """Know one workflow."""
        schema: dict[str, JSON] = {"type": "object", "properties": {"order": {"type": "integer"}}}
        return FlowTool("Refunds an order.", schema) if flow == "refund" else None

    async def run(self, context: StepContext, key: str, flow: str, inputs: dict[str, JSON]) -> JSON:
        """Start it, and give its output once it is there."""
        self.started.append((key, flow, inputs))
        if context.decided("child") is None:
            raise Asked("!child", {"title": "the child runs", "assign": "group:admins"}, None)
        return {"refunded": True}


async def test_another_workflow_is_a_tool_that_may_park_the_run(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("flows_refund", {"order": 7}), says("Refunded."))
    children = Children()
    async with shop(store, tmp_path, provider, children) as s:
        run = await s.play(desk({"tools": ["flows.refund"]}))
        assert run.status == "parked"
        run = await s.decide(run, {"decision": "approve"})
        assert run.status == "done"
        assert len({key for key, _, _ in children.started}) == 1, "the same child, whoever looks how often"
        assert (await s.fail(desk({"tools": ["flows.unknown"]})))[0] == "not_found"
    assert told(provider)[-1] == ("tool", '{"refunded":true}')
    assert len(provider.calls) == 2


async def test_nothing_leaves_but_by_the_road(
    store: Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would send traces wherever a key of OpenAI is found; here nothing of it reaches for a network."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0000")
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "0")
    reached: list[object] = []
    watching = [True]

    def watch(event: str, given: tuple[object, ...]) -> None:
        if watching[0] and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            reached.append(given[0] if event == "socket.getaddrinfo" else given[1])

    sys.addaudithook(watch)
    provider = ScriptedProvider(asks("shop_find", {"number": 7}), says("Sent."))
    async with shop(store, tmp_path, provider) as s:
        await s.give(desk())
    watching[0] = False
    elsewhere = [place for place in reached if not _here(place)]
    assert elsewhere == []
    from agents.tracing import get_trace_provider
    from agents.tracing.provider import DefaultTraceProvider

    tracer = get_trace_provider()
    assert isinstance(tracer, DefaultTraceProvider)
    assert tracer._disabled and tracer._multi_processor._processors == ()
    assert not [thread.name for thread in threading.enumerate() if "trac" in thread.name.lower()]


def _here(place: object) -> bool:
    host = place[0] if isinstance(place, tuple) else place
    return host in ("127.0.0.1", "::1", "localhost", None) or str(host).startswith("/")


async def test_without_the_extra_the_step_says_what_to_install(
    store: Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = ScriptedProvider(says("?"))
    async with shop(store, tmp_path, provider) as s:
        monkeypatch.setitem(sys.modules, "agents", None)
        code, message = await s.fail(desk())
    assert (code, "metier[agents]" in message, provider.calls) == ("config_error", True, [])
