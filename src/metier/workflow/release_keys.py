"""What keeps runs on one side of a share: an expression over their inputs, the person behind them, or their event."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from metier.calls import JSON, Principal
from metier.errors import Invalid, MetierError
from metier.workflow.expressions import EXPRESSION_MAX, Expressions, parse
from metier.workflow.inference import give
from metier.workflow.schema_types import types_of, words
from metier.workflow.shape import Workflow
from metier.workflow.syntax import Name, Node, inside
from metier.workflow.view import View

__all__ = ["EVENT", "PERSON", "Cause", "bucket", "checked", "key_of", "per_person"]

EVENT = "event"
"""Each event by itself: the same person may meet both versions."""

PERSON = "person"
"""Whoever asked for the run with a key of their own; else the event."""

_INPUTS = ("customer", "client", "person", "user", "sender", "from", "email")
"""Names of inputs that say whom a run is for, the first of them that a flow has."""
_SIMPLE = frozenset({"string", "integer"})


@dataclass(frozen=True, slots=True)
class Cause:
    """What a run is started by, as far as it may keep it on one side of a share."""

    event: str
    """The same whenever the same event is seen again."""
    inputs: Mapping[str, JSON]
    asked: bool = False
    """Whether somebody asked for it with a key of their own."""


def bucket(project: str, flow: str, version: int, key: str) -> float:
    """Give the place of a key between 0 and 1: always the same for a version, unrelated for another one."""
    digest = hashlib.sha256("\x00".join((project, flow, str(version), key)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def per_person(workflow: Workflow) -> str:
    """Say by what the runs of a flow keep to one side per person: the input that says whom they are for, if any."""
    properties = workflow.inputs.get("properties")
    if not isinstance(properties, dict):
        return PERSON
    for name in _INPUTS:
        schema = properties.get(name)
        types = types_of(schema) - {"null"} if isinstance(schema, dict) else frozenset[str]()
        if types and types <= _SIMPLE:
            return f"inputs.{name}"
    return PERSON


def checked(per: str, workflow: Workflow) -> str:
    """Give what keeps runs on one side as it is kept, or raise Invalid where it cannot."""
    written = per.strip()
    if written == EVENT:
        return EVENT
    if written == PERSON:
        return per_person(workflow)
    if len(written) > EXPRESSION_MAX:
        raise Invalid(f"the key of a share has {len(written):,} characters, more than {EXPRESSION_MAX:,}", param="per")
    node = parse(written)
    schema, remarks = give(node, View({"inputs": workflow.inputs}, {}))
    wrong = next((remark for remark in remarks if remark.severity == "error"), None)
    told = f"cannot share {workflow.name!r} per {written[:80]!r}"
    if wrong is not None:
        raise Invalid(f"{told}: {wrong.message}" + (f"; {wrong.suggestion}" if wrong.suggestion else ""), param="per")
    if "inputs" not in _names(node):
        raise Invalid(f"{told}: without an input every run is on one side; try inputs.customer", param="per")
    types = types_of(schema)
    if types and types <= {"boolean", "null"}:
        raise Invalid(f"{told}: it gives {words(types)}, too few keys to share; try inputs.customer", param="per")
    return written


def key_of(per: str, cause: Cause, who: Principal, expressions: Expressions) -> str:
    """Give the key a run keeps to one side by; where its inputs give none, whoever asked for it, else its event."""
    if per == EVENT:
        return cause.event
    found = "" if per == PERSON else _text(per, cause.inputs, expressions)
    if found:
        return f"inputs:{found}"
    return f"user:{who.name or who.key_id}" if cause.asked else cause.event


def _text(per: str, inputs: Mapping[str, JSON], expressions: Expressions) -> str:
    try:
        value = expressions.evaluate(per, {"inputs": dict(inputs)})
    except MetierError:
        return ""  # a run begins whatever its inputs lack
    if value is None or value == "":
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # People write the same address in more than one way.
    return value.strip().casefold() if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Name):
        yield node.name
    for part in inside(node):
        yield from _names(part)
