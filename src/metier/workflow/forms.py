"""The small forms of the language that several kinds share: conditions, templates, lengths of time, names, people."""

from __future__ import annotations

import re
from collections.abc import Callable

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.cel import expressions_in, parse
from metier.workflow.quantities import seconds
from metier.workflow.yaml_source import Node

__all__ = [
    "EVENT",
    "ID",
    "NAME",
    "PINNED",
    "assignee",
    "condition",
    "duration",
    "matching",
    "needs",
    "template",
    "words",
]

ID = re.compile(r"[a-z][a-z0-9_]{0,62}\Z", re.ASCII)
"""Ids of steps, names of sections and of agents."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._/:-]{0,99}\Z", re.ASCII)
"""Models, roles and collections."""
PINNED = re.compile(r"[A-Za-z][A-Za-z0-9_-]*@[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)
EVENT = re.compile(r"[a-z][a-z0-9_.-]{0,62}\Z", re.ASCII)
_WHO = re.compile(r"(?:group|user):\S{1,200}\Z")


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


def matching(pattern: re.Pattern[str], example: str) -> Callable[[Node, str], JSON]:
    """Make a reader of texts that match a pattern, with an example for who got it wrong."""

    def read(node: Node, what: str) -> JSON:
        written = node.text(what)
        if not pattern.match(written):
            node.fail(f"{what} is {written[:80]!r}; write it like {example}")
        return written

    return read


def assignee(node: Node, what: str) -> None:
    """Check who gets a task: a group, a person, or a template that gives one."""
    written = node.text(what)
    if "{{" in written:
        template(node)
    elif not _WHO.match(written):
        node.fail(f"{what} is {written[:80]!r}; write group:<name> or user:<name>")


def needs(node: Node, what: str, *keys: str) -> None:
    """Refuse a mapping that lacks a key."""
    for key in keys:
        if key not in node.mapping(what):
            node.fail(f"{what} needs {key!r}")


def words(node: Node, what: str) -> list[JSON]:
    """Read a list of texts, none of them twice."""
    found: list[JSON] = []
    for item in node.list(what):
        if item.text(f"an entry of {what}") in found:
            item.fail(f"{what} names {item.scalar!r} twice")
        found.append(item.scalar)
    return found
