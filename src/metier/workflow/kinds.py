"""What may stand under each kind key: one reader per kind, each giving the configuration as plain JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow import flow_kinds
from metier.workflow.files import inside_folder
from metier.workflow.forms import ID, NAME, PINNED, assignee, condition, duration, matching, needs, template, words
from metier.workflow.people_keys import PEOPLE_KEYS, people
from metier.workflow.yaml_source import Node

__all__ = [
    "AGENTS_MAX",
    "AGENT_KEYS",
    "HANDOFF_KEYS",
    "HUMAN_KEYS",
    "KIND_KEYS",
    "LLM_KEYS",
    "READERS",
    "RETRIEVE_KEYS",
    "TOP_K_MAX",
    "TURNS_DEFAULT",
    "TURNS_MAX",
]

_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*){0,5}\Z", re.ASCII)
_TOOLS = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z_][A-Za-z0-9_-]*){0,5}(?:\.\*|@\d{1,6})?\Z", re.ASCII)

LLM_KEYS = ("model", "prompt", "temperature", "max_output_tokens", "system", "examples", "guardrails")
HANDOFF_KEYS = ("instructions", "model", "tools", "approve", "handoffs", "description")
AGENT_KEYS = (*HANDOFF_KEYS, "max_turns", "conversation", "assign")
RETRIEVE_KEYS = ("collection", "query", "top_k", "min_score")
HUMAN_KEYS = ("assign", "title", "show", "edit", "due", "remind", "on_timeout", *PEOPLE_KEYS)
TOP_K_MAX = 50
TURNS_MAX = 50
TURNS_DEFAULT = 10
"""Turns of an agent that says nothing about them."""
AGENTS_MAX = 10
"""Agents one step may hand over to."""


def _llm(node: Node, what: str) -> JSON:
    node.only(what, LLM_KEYS)
    entries = node.entries
    needs(node, what, "model", "prompt")
    matching(NAME, "writer")(entries["model"], f"{what}.model")
    inside_folder(entries["prompt"], f"{what}.prompt")
    if "system" in entries:
        inside_folder(entries["system"], f"{what}.system")
    if "temperature" in entries:
        entries["temperature"].number(f"{what}.temperature", 0, 2)
    if "max_output_tokens" in entries:
        entries["max_output_tokens"].whole(f"{what}.max_output_tokens", 1, 1_000_000)
    for example in entries["examples"].list(f"{what}.examples") if "examples" in entries else ():
        example.only("an example", ("user", "assistant"))
        needs(example, "an example", "user", "assistant")
        for side in ("user", "assistant"):
            example.entries[side].text(f"the {side} side of an example")
    for guardrail in entries["guardrails"].list(f"{what}.guardrails") if "guardrails" in entries else ():
        guardrail.text("a guardrail")
    return node.data()


def _retrieve(node: Node, what: str) -> JSON:
    node.only(what, RETRIEVE_KEYS)
    entries = node.entries
    needs(node, what, "collection", "query")
    matching(NAME, "sav")(entries["collection"], f"{what}.collection")
    entries["query"].text(f"{what}.query")
    template(entries["query"])
    if "top_k" in entries:
        entries["top_k"].whole(f"{what}.top_k", 1, TOP_K_MAX)
    if "min_score" in entries:
        entries["min_score"].number(f"{what}.min_score", -1, 1)
    return node.data()


def _human(node: Node, what: str) -> JSON:
    node.only(what, HUMAN_KEYS)
    entries = node.entries
    needs(node, what, "assign", "title")
    assignee(entries["assign"], f"{what}.assign")
    title = entries["title"]
    if title.shape == "mapping":
        title.only(f"{what}.title", ("fr", "en"))
        for text in title.entries.values():
            text.text(f"{what}.title")
    else:
        title.text(f"{what}.title")
    template(title)
    for shown in entries["show"].list(f"{what}.show") if "show" in entries else ():
        condition(shown, f"{what}.show")
    if "edit" in entries:
        condition(entries["edit"], f"{what}.edit")
    if "due" in entries:
        duration(entries["due"], f"{what}.due")
    for reminder in entries["remind"].list(f"{what}.remind") if "remind" in entries else ():
        duration(reminder, f"{what}.remind")
    if "on_timeout" in entries:
        _on_timeout(entries["on_timeout"], f"{what}.on_timeout")
        needs(node, f"{what} with on_timeout", "due")
    people(node, what)
    return node.data()


def _on_timeout(node: Node, what: str) -> None:
    if node.shape == "scalar":
        node.fail(f"{what} is either {{reassign: group:…}} or {{output: …}}")
    node.only(what, ("reassign", "output"))
    if len(node.entries) != 1:
        node.fail(f"{what} is either {{reassign: group:…}} or {{output: …}}")
    if "reassign" in node.entries:
        assignee(node.entries["reassign"], f"{what}.reassign")
    else:
        template(node.entries["output"])


def _agent(node: Node, what: str) -> JSON:
    """Read an agent with the agents it may hand over to; what is not said is filled in, so that a copy is whole."""
    node.only(what, AGENT_KEYS)
    found = _persona(node, what, ())
    entries = node.entries
    others = _others(entries["handoffs"], f"{what}.handoffs") if "handoffs" in entries else {}
    found["handoffs"] = {id: _persona(other, f"agent {id!r} of {what}", tuple(others)) for id, other in others.items()}
    turns = entries.get("max_turns")
    found["max_turns"] = TURNS_DEFAULT if turns is None else turns.whole(f"{what}.max_turns", 1, TURNS_MAX)
    if "conversation" in entries:
        entries["conversation"].text(f"{what}.conversation")
        found["conversation"] = template(entries["conversation"])
    if "assign" in entries:
        assignee(entries["assign"], f"{what}.assign")
        found["assign"] = entries["assign"].scalar
        if "{{" in str(found["assign"]):
            entries["assign"].fail(f"{what}.assign names who approves tool calls; write it without an expression")
    return found


def _others(node: Node, what: str) -> dict[str, Node]:
    found: dict[str, Node] = {}
    parts = node.items if node.shape == "list" else (node,)
    for part in parts:
        for id, agent in part.mapping(f"an agent of {what}").items():
            if not ID.match(id):
                raise Invalid(f"{part.key_marks[id]}: {what} names the agent {id[:80]!r}; write lower case letters")
            if id in found:
                part.fail(f"{what} names the agent {id!r} twice")
            agent.only(f"agent {id!r} of {what}", HANDOFF_KEYS)
            found[id] = agent
    if not 1 <= len(found) <= AGENTS_MAX:
        node.fail(f"{what} must name between 1 and {AGENTS_MAX} agents, not {len(found)}")
    return found


def _persona(node: Node, what: str, others: tuple[str, ...]) -> dict[str, JSON]:
    """Read what makes one agent: what it is told to be, with which model, and what it may use."""
    needs(node, what, "instructions", *(() if others else ("model",)))
    entries = node.entries
    found: dict[str, JSON] = {"instructions": inside_folder(entries["instructions"], f"{what}.instructions")}
    if "model" in entries:
        found["model"] = matching(NAME, "writer")(entries["model"], f"{what}.model")
    for key in ("tools", "approve"):
        found[key] = words(entries[key], f"{what}.{key}") if key in entries else []
        for item in entries[key].items if key in entries else ():
            matching(_TOOLS, "crm.find_contact or crm.*")(item, f"an entry of {what}.{key}")
    if "description" in entries:
        found["description"] = entries["description"].text(f"{what}.description")
    if others:
        found["handoffs"] = words(entries["handoffs"], f"{what}.handoffs") if "handoffs" in entries else []
        for item in entries["handoffs"].items if "handoffs" in entries else ():
            item.one_of(f"an entry of {what}.handoffs", others)
    return found


READERS: Mapping[str, Callable[[Node, str], JSON]] = MappingProxyType(
    {
        "tool": matching(_DOTTED, "email.send"),
        "code": matching(_DOTTED, "language_of"),
        "model": matching(PINNED, "intent@3"),
        "rules": matching(PINNED, "refund-policy@2026-10"),
        "llm": _llm,
        "agent": _agent,
        "retrieve": _retrieve,
        "human": _human,
        "wait": flow_kinds.wait,
        "emit": flow_kinds.emit,
        "call": flow_kinds.call,
        "switch": flow_kinds.switch,
        "parallel": flow_kinds.parallel,
        "foreach": flow_kinds.foreach,
        "loop": flow_kinds.loop,
        "end": flow_kinds.end,
    }
)
KIND_KEYS = tuple(READERS)
"""The kind keys of the language."""
