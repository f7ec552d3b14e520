"""The JSON Schema of the language, for editors that complete and check a workflow while it is written."""

from __future__ import annotations

from collections.abc import Mapping

from metier.calls import JSON
from metier.workflow.kinds import HUMAN_KEYS, KIND_KEYS, LLM_KEYS, LOOP_KEYS, LOOP_MAX, RETRIEVE_KEYS, TOP_K_MAX
from metier.workflow.reader import ALLOWED, DEFAULT_KEYS, FLOW_KEYS, RETRIES_MAX, TEST_KEYS

__all__ = ["schema"]

_TEXT: dict[str, JSON] = {"type": "string", "minLength": 1}
_EXPR: dict[str, JSON] = {"type": ["string", "boolean"], "description": "A CEL expression."}
_DURATION: dict[str, JSON] = {"type": "string", "pattern": "^[0-9]{1,6}(\\.[0-9]{1,3})?\\s?(ms|s|m|h|d|w)$"}
_MONEY: dict[str, JSON] = {"type": ["number", "string"], "description": "Euros."}
_WHO: dict[str, JSON] = {"type": "string", "pattern": "^((group|user):\\S+$|.*\\{\\{)"}
_PINNED: dict[str, JSON] = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]*@[A-Za-z0-9][A-Za-z0-9._-]*$"}
_DOTTED: dict[str, JSON] = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*$"}
_PATH: dict[str, JSON] = {"type": "string", "pattern": "^[A-Za-z0-9_@][A-Za-z0-9_.@/-]*$"}
_FIELDS: dict[str, JSON] = {
    "type": ["object", "string"],
    "description": "Named fields (name: type), or JSON Schema with a type.",
}
_STEPS: dict[str, JSON] = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}}


def schema() -> dict[str, JSON]:
    """Give the JSON Schema of a workflow file; what it refuses, the reader refuses too."""
    top: dict[str, JSON] = {
        "flow": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"},
        "schema": {"const": 1},
        "title": {},
        "description": {},
        "inputs": _FIELDS,
        "budget": _closed({"per_run_eur": _MONEY, "on_exceed": {"enum": ["fail", "human"]}}, "per_run_eur"),
        "defaults": _closed({key: _MODIFIERS[key] for key in DEFAULT_KEYS}),
        "steps": _STEPS,
        "output": {},
        "tests": {"type": "array", "items": _test()},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Métier workflow",
        **_closed({key: top[key] for key in FLOW_KEYS}, "flow", "schema", "steps"),
        "$defs": {"step": {"oneOf": [_step(kind) for kind in KIND_KEYS]}},
    }


def _closed(properties: dict[str, JSON], *required: str) -> dict[str, JSON]:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def _step(kind: str) -> dict[str, JSON]:
    modifiers: dict[str, JSON] = {key: _MODIFIERS[key] for key in ALLOWED[kind]}
    required = [kind, *(() if kind == "end" else ("id",)), *(("steps",) if kind == "loop" else ())]
    return _closed(
        {"id": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,62}$"}, kind: _KINDS[kind], **modifiers}, *required
    )


def _test() -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "name": _TEXT,
        "inputs": {"type": "object"},
        "mock": {"type": "object"},
        "expect": {"type": "array", "items": _EXPR},
    }
    return _closed({key: found[key] for key in TEST_KEYS}, "name", "expect")


def _llm() -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "model": _TEXT,
        "prompt": _PATH,
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "max_output_tokens": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
        "system": _PATH,
        "examples": {
            "type": "array",
            "items": _closed({"user": _TEXT, "assistant": _TEXT}, "user", "assistant"),
        },
        "guardrails": {"type": "array", "items": _TEXT},
    }
    return _closed({key: found[key] for key in LLM_KEYS}, "model", "prompt")


def _retrieve() -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "collection": _TEXT,
        "query": _TEXT,
        "top_k": {"type": "integer", "minimum": 1, "maximum": TOP_K_MAX},
        "min_score": {"type": "number", "minimum": -1, "maximum": 1},
    }
    return _closed({key: found[key] for key in RETRIEVE_KEYS}, "collection", "query")


def _human() -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "assign": _WHO,
        "title": {"oneOf": [_TEXT, _closed({"fr": _TEXT, "en": _TEXT})]},
        "show": {"type": "array", "items": _EXPR},
        "edit": _EXPR,
        "due": _DURATION,
        "remind": {"type": "array", "items": _DURATION},
        "on_timeout": {"oneOf": [_closed({"reassign": _WHO}, "reassign"), _closed({"output": {}}, "output")]},
        "allow_self": {"type": "boolean", "description": "Who started the run may decide too."},
        "not": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}], "description": "People who may not decide."},
        "second_reading": {"type": "number", "minimum": 0, "maximum": 1},
        "escalate": {"type": "array", "items": _closed({"after": _DURATION, "to": _WHO}, "after", "to")},
    }
    return _closed({key: found[key] for key in HUMAN_KEYS}, "assign", "title")


def _loop() -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "max": {"type": "integer", "minimum": 1, "maximum": LOOP_MAX},
        "until": _EXPR,
        "keep": _EXPR,
    }
    return _closed({key: found[key] for key in LOOP_KEYS}, "max")


_MODIFIERS: Mapping[str, JSON] = {
    "when": _EXPR,
    "with": {"type": "object", "description": "The only data the step sees; texts may hold {{ expressions }}."},
    "output": _FIELDS,
    "retry": {
        "oneOf": [
            {"type": "integer", "minimum": 0, "maximum": RETRIES_MAX},
            _closed(
                {
                    "max": {"type": "integer", "minimum": 0, "maximum": RETRIES_MAX},
                    "backoff": {"enum": ["exponential", "constant"]},
                    "first": _DURATION,
                },
                "max",
            ),
        ]
    },
    "timeout": _DURATION,
    "on_error": {
        "oneOf": [
            {"enum": ["fail", "continue"]},
            _closed({"output": {}, "then": {"enum": ["fail", "continue", "human"]}, "assign": _WHO}),
        ]
    },
    "budget": _MONEY,
    "mock": {},
    "steps": _STEPS,
}
_KINDS: Mapping[str, JSON] = {
    "tool": _DOTTED,
    "code": _DOTTED,
    "model": _PINNED,
    "rules": _PINNED,
    "llm": _llm(),
    "retrieve": _retrieve(),
    "human": _human(),
    "switch": {
        "type": "array",
        "minItems": 1,
        "items": {
            "oneOf": [_closed({"when": _EXPR, "steps": _STEPS}, "when", "steps"), _closed({"else": _STEPS}, "else")]
        },
    },
    "loop": _loop(),
    "end": {"oneOf": [_TEXT, _closed({"status": _TEXT, "output": {}}, "status")]},
}
