"""The JSON Schema of the language, for editors that complete and check a workflow while it is written."""

from __future__ import annotations

from collections.abc import Mapping

from metier.calls import JSON
from metier.workflow.flow_kinds import (
    CALL_KEYS,
    CONCURRENCY_MAX,
    EMIT_KEYS,
    FOREACH_KEYS,
    ITEMS_MAX,
    LOOP_KEYS,
    LOOP_MAX,
    PARALLEL_KEYS,
    SECTIONS_MAX,
    WAIT_KEYS,
)
from metier.workflow.grammar import (
    ALLOWED,
    BODIES,
    DEFAULT_KEYS,
    FLOW_KEYS,
    RESERVED,
    RETRIES_MAX,
    TEST_KEYS,
    TRIGGER_KEYS,
    TRIGGER_KINDS,
)
from metier.workflow.kinds import (
    AGENT_KEYS,
    AGENTS_MAX,
    HANDOFF_KEYS,
    HUMAN_KEYS,
    KIND_KEYS,
    LLM_KEYS,
    RETRIEVE_KEYS,
    TOP_K_MAX,
    TURNS_MAX,
)
from metier.workflow.shorthand import TYPES
from metier.workflow.starts import TRIGGERS_MAX

__all__ = ["schema"]

_TEXT: dict[str, JSON] = {"type": "string", "minLength": 1}
_EXPR: dict[str, JSON] = {
    "type": ["string", "boolean"],
    "not": {"pattern": "^\\s*\\{\\{.*\\}\\}\\s*$"},
    "description": "A CEL expression, without braces.",
}
_DURATION: dict[str, JSON] = {"type": "string", "pattern": "^[0-9]{1,6}(\\.[0-9]{1,3})?\\s?(ms|s|m|h|d|w)$"}
_MONEY: dict[str, JSON] = {"type": ["number", "string"], "description": "Euros."}
_WHO: dict[str, JSON] = {"type": "string", "pattern": "^((group|user):\\S+$|.*\\{\\{)"}
_PINNED: dict[str, JSON] = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]*@[A-Za-z0-9][A-Za-z0-9._-]*$"}
_DOTTED: dict[str, JSON] = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*$"}
_PATH: dict[str, JSON] = {"type": "string", "pattern": "^[A-Za-z0-9_@][A-Za-z0-9_.@/-]*$"}
_ONE_TYPE = f"({'|'.join((*TYPES, 'any'))})(\\[\\])*"
_TYPE = f"^\\s*{_ONE_TYPE}\\s*(\\|\\s*{_ONE_TYPE}\\s*)*$"
_FIELDS: dict[str, JSON] = {
    "description": "Named fields (name: type), or JSON Schema with a type.",
    "oneOf": [
        {"type": "string", "pattern": _TYPE},
        {
            "type": "object",
            "anyOf": [
                {"anyOf": [{"required": [key]} for key in ("type", "enum", "const", "anyOf")]},
                {"additionalProperties": {"anyOf": [{"type": "object"}, {"type": "string", "pattern": _TYPE}]}},
            ],
        },
    ],
}
_ID: dict[str, JSON] = {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,62}$", "not": {"enum": [*RESERVED]}}
_NAME: dict[str, JSON] = {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,62}$"}
_MOCK_PART = "[a-z][a-z0-9_]*(#[1-9][0-9]?|\\[[0-9]{1,5}\\])?"
_MOCK: dict[str, JSON] = {"type": "object", "propertyNames": {"pattern": f"^{_MOCK_PART}(\\.{_MOCK_PART}){{0,17}}$"}}
_EVENT: dict[str, JSON] = {"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,62}$"}
_FLOW: dict[str, JSON] = {
    "type": "string",
    "pattern": "^([A-Za-z0-9_@][A-Za-z0-9_.@/-]*\\.ya?ml|[A-Za-z][A-Za-z0-9_-]*@[A-Za-z0-9][A-Za-z0-9._-]*)$",
}
_TOOLS: dict[str, JSON] = {
    "type": "array",
    "uniqueItems": True,
    "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*(\\.\\*)?$"},
}
_CONCURRENCY: dict[str, JSON] = {"type": "integer", "minimum": 1, "maximum": CONCURRENCY_MAX}
_STEPS: dict[str, JSON] = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}}


def schema() -> dict[str, JSON]:
    """Give the JSON Schema of a workflow file; what it refuses, the reader refuses too."""
    top: dict[str, JSON] = {
        "flow": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"},
        "schema": {"const": 1},
        "title": {},
        "description": {},
        "triggers": {
            "type": "array",
            "maxItems": TRIGGERS_MAX,
            "items": {"oneOf": [_trigger(k) for k in TRIGGER_KINDS]},
        },
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
    required = [kind, *(() if kind == "end" else ("id",)), *(("steps",) if kind in BODIES else ())]
    return _closed({"id": _ID, kind: _KINDS[kind], **modifiers}, *required)


def _triggers() -> dict[str, JSON]:
    return {"type": "array", "maxItems": TRIGGERS_MAX, "items": {"oneOf": [_trigger(kind) for kind in TRIGGER_KINDS]}}


def _trigger(kind: str) -> dict[str, JSON]:
    shared: dict[str, JSON] = {"with": {"type": "object"}, "dedupe": _EXPR, "when": _EXPR}
    return _closed({kind: {"type": ["object", "null"], "properties": {key: shared[key] for key in TRIGGER_KEYS}}}, kind)


def _agent() -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "instructions": _PATH,
        "model": _TEXT,
        "tools": _TOOLS,
        "approve": _TOOLS,
        "description": _TEXT,
        "max_turns": {"type": "integer", "minimum": 1, "maximum": TURNS_MAX},
        "conversation": _TEXT,
        "assign": _TEXT,
    }
    others: dict[str, JSON] = {"type": "array", "uniqueItems": True, "items": _NAME}
    other = _closed({**{key: found[key] for key in HANDOFF_KEYS if key in found}, "handoffs": others}, "instructions")
    named: dict[str, JSON] = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": AGENTS_MAX,
        "propertyNames": {"pattern": _NAME["pattern"]},
        "additionalProperties": other,
    }
    found["handoffs"] = {"oneOf": [named, {"type": "array", "minItems": 1, "maxItems": AGENTS_MAX, "items": named}]}
    return _closed({key: found[key] for key in AGENT_KEYS}, "instructions", "model")


def _foreach() -> dict[str, JSON]:
    items: dict[str, JSON] = {"type": "integer", "minimum": 1, "maximum": ITEMS_MAX}
    found: dict[str, JSON] = {
        "over": {"type": ["string", "array"]},
        "times": items,
        "max": items,
        "concurrency": _CONCURRENCY,
        "on_item_error": {"enum": ["fail", "collect"]},
        "as": {"enum": ["runs", "paths"]},
        "each": {},
        "give": {},
    }
    over = _closed({key: found[key] for key in FOREACH_KEYS if key != "times"}, "over", "max")
    times = _closed({key: found[key] for key in FOREACH_KEYS if key not in ("over", "max")}, "times")
    return {"oneOf": [over, times]}


def _parallel() -> dict[str, JSON]:
    section = _closed({"name": _NAME, "steps": _STEPS}, "name", "steps")
    sections: dict[str, JSON] = {"type": "array", "minItems": 2, "maxItems": SECTIONS_MAX, "items": section}
    found: dict[str, JSON] = {"concurrency": _CONCURRENCY, "sections": sections}
    return {"oneOf": [sections, _closed({key: found[key] for key in PARALLEL_KEYS}, "sections")]}


def _wait() -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "for": {"anyOf": [_DURATION, {"type": "string", "pattern": "\\{\\{"}]},
        "until": _TEXT,
        "event": _EVENT,
        "key": _TEXT,
    }
    alone = [key for key in WAIT_KEYS if key not in EMIT_KEYS]
    event = _closed({key: found[key] for key in EMIT_KEYS}, "event")
    return {"oneOf": [event, *(_closed({key: found[key]}, key) for key in alone)]}


def _test() -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "name": _TEXT,
        "inputs": {"type": "object"},
        "mock": _MOCK,
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
            _closed({"output": {}, "then": {"const": "continue"}}),
            _closed({"then": {"const": "fail"}}, "then"),
            _closed({"then": {"const": "human"}, "assign": _WHO}, "then", "assign"),
        ]
    },
    "cache": _DURATION,
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
    "agent": _agent(),
    "wait": _wait(),
    "emit": _closed({key: {"event": _EVENT, "key": _TEXT}[key] for key in EMIT_KEYS}, "event"),
    "call": _closed(dict.fromkeys(CALL_KEYS, _FLOW), "flow"),
    "parallel": _parallel(),
    "foreach": _foreach(),
    "loop": _loop(),
    "end": {"oneOf": [_TEXT, _closed({"status": _TEXT, "output": {}}, "status")]},
}
