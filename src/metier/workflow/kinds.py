"""What may stand under each kind key: one reader per kind, each giving the configuration as plain JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.cel import expressions_in, parse
from metier.workflow.files import inside_folder
from metier.workflow.quantities import seconds
from metier.workflow.yaml_source import Node

__all__ = [
    "HUMAN_KEYS",
    "KIND_KEYS",
    "LLM_KEYS",
    "LOOP_KEYS",
    "LOOP_MAX",
    "NOT_YET",
    "READERS",
    "RETRIEVE_KEYS",
    "TOP_K_MAX",
    "condition",
    "duration",
    "template",
]

NOT_YET = ("agent", "wait", "emit", "call", "parallel", "foreach")
"""Kinds of the language that this version cannot run yet."""
_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*){0,5}\Z", re.ASCII)
_PINNED = re.compile(r"[A-Za-z][A-Za-z0-9_-]*@[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._/:-]{0,99}\Z", re.ASCII)
_WHO = re.compile(r"(?:group|user):\S{1,200}\Z")
_STATUS = re.compile(r"[a-z][a-z0-9_]{0,39}\Z", re.ASCII)

LLM_KEYS = ("model", "prompt", "temperature", "max_output_tokens", "system", "examples", "guardrails")
RETRIEVE_KEYS = ("collection", "query", "top_k", "min_score")
HUMAN_KEYS = ("assign", "title", "show", "edit", "due", "remind", "on_timeout")
LOOP_KEYS = ("max", "until", "keep")
LOOP_MAX = 50
TOP_K_MAX = 50


def condition(node: Node, what: str) -> str:
    """Read a CEL expression and refuse it at once when it cannot be parsed."""
    if isinstance(node.scalar, bool):
        return "true" if node.scalar else "false"
    expr = node.text(what).strip()
    if expr.startswith("{{") and expr.endswith("}}"):
        node.fail(f"{what} is already an expression; write it without the double braces")
    try:
        parse(expr)
    except Invalid as wrong:
        node.fail(wrong.message)
    return expr


def template(node: Node) -> JSON:
    """Read a value whose texts may hold `{{ expressions }}`, and refuse those that cannot be parsed."""
    if node.shape == "scalar" and isinstance(node.scalar, str):
        try:
            for _, expr in expressions_in(node.scalar):
                parse(expr)
        except Invalid as wrong:
            node.fail(wrong.message)
    for inner in (*node.items, *node.entries.values()):
        template(inner)
    return node.data()


def duration(node: Node, what: str) -> float:
    """Read a length of time into seconds."""
    try:
        return seconds(node.scalar)
    except Invalid as wrong:
        node.fail(f"{what}: {wrong.message}")


def _matching(pattern: re.Pattern[str], example: str) -> Callable[[Node, str], JSON]:
    def read(node: Node, what: str) -> JSON:
        written = node.text(what)
        if not pattern.match(written):
            node.fail(f"{what} is {written[:80]!r}; write it like {example}")
        return written

    return read


def _llm(node: Node, what: str) -> JSON:
    node.only(what, LLM_KEYS)
    entries = node.entries
    _needs(node, what, "model", "prompt")
    _matching(_NAME, "writer")(entries["model"], f"{what}.model")
    inside_folder(entries["prompt"], f"{what}.prompt")
    if "system" in entries:
        inside_folder(entries["system"], f"{what}.system")
    if "temperature" in entries:
        entries["temperature"].number(f"{what}.temperature", 0, 2)
    if "max_output_tokens" in entries:
        entries["max_output_tokens"].whole(f"{what}.max_output_tokens", 1, 1_000_000)
    for example in entries["examples"].list(f"{what}.examples") if "examples" in entries else ():
        example.only("an example", ("user", "assistant"))
        _needs(example, "an example", "user", "assistant")
        for side in ("user", "assistant"):
            example.entries[side].text(f"the {side} side of an example")
    for guardrail in entries["guardrails"].list(f"{what}.guardrails") if "guardrails" in entries else ():
        guardrail.text("a guardrail")
    return node.data()


def _retrieve(node: Node, what: str) -> JSON:
    node.only(what, RETRIEVE_KEYS)
    entries = node.entries
    _needs(node, what, "collection", "query")
    _matching(_NAME, "sav")(entries["collection"], f"{what}.collection")
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
    _needs(node, what, "assign", "title")
    _assignee(entries["assign"], f"{what}.assign")
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
        _needs(node, f"{what} with on_timeout", "due")
    return node.data()


def _on_timeout(node: Node, what: str) -> None:
    if node.shape == "scalar":
        node.fail(f"{what} is either {{reassign: group:…}} or {{output: …}}")
    node.only(what, ("reassign", "output"))
    if len(node.entries) != 1:
        node.fail(f"{what} is either {{reassign: group:…}} or {{output: …}}")
    if "reassign" in node.entries:
        _assignee(node.entries["reassign"], f"{what}.reassign")
    else:
        template(node.entries["output"])


def _assignee(node: Node, what: str) -> None:
    written = node.text(what)
    if "{{" in written:
        template(node)
    elif not _WHO.match(written):
        node.fail(f"{what} is {written[:80]!r}; write group:<name> or user:<name>")


def _loop(node: Node, what: str) -> JSON:
    node.only(what, LOOP_KEYS)
    _needs(node, what, "max")
    node.entries["max"].whole(f"{what}.max", 1, LOOP_MAX)
    found: dict[str, JSON] = {"max": node.entries["max"].scalar}
    for key in ("until", "keep"):
        if key in node.entries:
            found[key] = condition(node.entries[key], f"{what}.{key}")
    return found


def _switch(node: Node, what: str) -> JSON:
    """The branches are read by the reader of steps; what stays here are their conditions."""
    return [
        {"when": branch.entries["when"].data()} if "when" in branch.entries else {"else": True}
        for branch in node.list(what)
    ]


def _end(node: Node, what: str) -> JSON:
    if node.shape == "mapping":
        node.only(what, ("status", "output"))
        _needs(node, what, "status")
        status, output = node.entries["status"], node.entries.get("output")
        given = None if output is None else template(output)
    else:
        status, given = node, None
    written = status.text(f"the status of {what}")
    if not _STATUS.match(written):
        status.fail(f"the status of {what} is {written[:80]!r}; write one word in lower case, like escalated")
    return {"status": written, "output": given}


def _needs(node: Node, what: str, *keys: str) -> None:
    for key in keys:
        if key not in node.mapping(what):
            node.fail(f"{what} needs {key!r}")


READERS: Mapping[str, Callable[[Node, str], JSON]] = MappingProxyType(
    {
        "tool": _matching(_DOTTED, "email.send"),
        "code": _matching(_DOTTED, "language_of"),
        "model": _matching(_PINNED, "intent@3"),
        "rules": _matching(_PINNED, "refund-policy@2026-10"),
        "llm": _llm,
        "retrieve": _retrieve,
        "human": _human,
        "switch": _switch,
        "loop": _loop,
        "end": _end,
    }
)
KIND_KEYS = tuple(READERS)
"""The kind keys this version runs."""
