"""The tables of the language: which keys may stand where, for the reader, the schema and the reference page."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "ALLOWED",
    "BODIES",
    "DEFAULT_KEYS",
    "FLOW_KEYS",
    "INHERITING",
    "MODIFIERS",
    "NESTING_MAX",
    "RESERVED",
    "RETRIES_MAX",
    "STEPS_MAX",
    "TEST_KEYS",
    "TRIGGER_KEYS",
    "TRIGGER_KINDS",
]

FLOW_KEYS = (
    "flow", "schema", "title", "description", "triggers", "inputs", "budget", "defaults", "steps", "output", "tests"
)  # fmt: skip
MODIFIERS = ("when", "with", "output", "retry", "timeout", "on_error", "cache", "budget", "mock")
DEFAULT_KEYS = ("retry", "timeout", "on_error")
TEST_KEYS = ("name", "inputs", "mock", "expect")
TRIGGER_KINDS = ("api", "form", "webhook", "folder", "cron", "email", "event", "row")
TRIGGER_KEYS = ("with", "dedupe", "when")
"""What every trigger may hold beside what its kind needs."""
RESERVED = (
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
    "namespace", "null", "package", "return", "true", "var", "void", "while",
    "inputs", "steps", "run", "output", "status"
)  # fmt: skip
"""Words that cannot be the id of a step: CEL keeps them, or they already mean something in expressions."""
RETRIES_MAX = 20
STEPS_MAX = 300
NESTING_MAX = 8
INHERITING = ("tool", "code", "model", "rules", "llm", "agent", "retrieve")
"""Kinds of steps that take what `defaults` says."""
BODIES = ("loop", "foreach")
"""Kinds whose `steps` are run again and again."""
_ONCE = tuple(key for key in MODIFIERS if key != "cache")
ALLOWED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(INHERITING, MODIFIERS),
        "agent": _ONCE,
        "human": ("when", "output", "on_error", "mock"),
        "wait": ("when", "timeout", "on_error", "mock"),
        "emit": ("when", "with", "on_error", "mock"),
        "call": ("when", "with", "output", "on_error", "mock"),
        "switch": ("when", "on_error"),
        "parallel": ("when", "on_error"),
        "foreach": ("when", "on_error", "steps"),
        "loop": ("when", "on_error", "steps"),
        "end": ("when",),
    }
)
"""The modifiers each kind takes."""
