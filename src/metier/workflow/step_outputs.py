"""What the output of a step looks like: as it declares it, or as its kind gives it."""

from __future__ import annotations

from collections.abc import Mapping

from metier.calls import JSON
from metier.errors import MetierError
from metier.workflow import rules
from metier.workflow.nulls import without_null
from metier.workflow.shape import Step, Workflow
from metier.workflow.view import Schema

__all__ = ["gives"]

_HIT: dict[str, JSON] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "document": {"type": "string"},
        "title": {"type": "string"},
        "text": {"type": "string"},
        "score": {"type": "number"},
    },
    "required": ["id", "document", "title", "text", "score"],
}
_BUILT_IN: Mapping[str, Schema] = {
    "retrieve": {
        "type": "object",
        "properties": {"hits": {"type": "array", "items": _HIT}},
        "required": ["hits"],
        "additionalProperties": False,
    },
    "loop": {
        "type": "object",
        "properties": {
            "turns": {"type": "integer"},
            "kept": {"type": "integer"},
            "met": {"type": "boolean"},
            "score": {"type": ["number", "null"]},
        },
        "required": ["turns", "kept", "met", "score"],
        "additionalProperties": False,
    },
    "wait": {
        "type": "object",
        "properties": {"at": {"type": "string"}},
        "required": ["at"],
        "additionalProperties": False,
    },
    "agent": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "agent": {"type": "string"}},
        "required": ["text", "agent"],
    },
    "switch": {
        "type": "object",
        "properties": {"branch": {"type": ["integer", "null"]}},
        "required": ["branch"],
        "additionalProperties": False,
    },
    "llm": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
"""What steps give when they declare no output."""
_EVENT: Schema = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "key": {"type": "string"}, "data": {}},
    "required": ["event", "key", "data"],
    "additionalProperties": False,
}


def gives(step: Step, workflow: Workflow) -> Schema:
    """Find the schema of what a step gives, from its output or from its kind."""
    if step.output is not None:
        return step.output
    if step.kind == "rules":
        try:
            return rules.table(workflow, str(step.config)).outputs
        except MetierError:
            return {}
    if step.kind == "parallel":
        names = [branch.name for branch in step.branches]
        done: dict[str, JSON] = {name: {"type": "boolean"} for name in names}
        return {"type": "object", "properties": done, "required": [*names], "additionalProperties": False}
    if step.kind == "wait" and isinstance(step.config, dict) and "event" in step.config:
        return _EVENT
    found = _BUILT_IN.get(step.kind, {})
    if step.kind == "loop" and isinstance(step.config, dict) and "keep" in step.config:
        return _surely(found, "score")
    if step.kind == "switch" and any(branch.when is None for branch in step.branches):
        return _surely(found, "branch")
    return found


def _surely(schema: Schema, name: str) -> Schema:
    """Give the schema of a map one of whose fields is never null here, as the step is written."""
    properties = schema.get("properties")
    fields = dict(properties) if isinstance(properties, dict) else {}
    inner = fields.get(name)
    return {**schema, "properties": {**fields, name: dict(without_null(inner if isinstance(inner, dict) else {}))}}
