"""The form of a task: what may be edited and asked for, and the decision that comes back from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import orjson

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.review import Task

__all__ = ["NOTE", "Field", "choices", "decision", "fields", "note", "takes_note"]

NOTE = "task.note"
"""Name of the field for a reason, where the task itself asks for no note; no name of a workflow has a dot."""

_Kind: TypeAlias = Literal["line", "text", "choice", "flag", "number", "json"]

_LONG = 120
"""Characters from which a draft's field has more than one line."""
_LONG_NAMES = ("body", "text", "message", "note", "comment", "summary")


@dataclass(frozen=True, slots=True)
class Field:
    """One thing a person may write or choose."""

    name: str
    """Its name in the form; "edited.…" for the parts of the draft."""
    key: str
    kind: _Kind
    value: str
    options: tuple[str, ...] = ()
    required: bool = False

    @property
    def draft(self) -> bool:
        """Whether it belongs to the draft."""
        return self.name.startswith("edited")

    @property
    def rows(self) -> int:
        """How many lines to show at first."""
        if self.kind == "line":
            return 1
        lines = sum(1 + len(line) // 75 for line in self.value.split("\n"))
        return max(3, min(24, lines + 1))


def choices(task: Task) -> tuple[str, ...]:
    """The decisions a task allows, the one that makes the work go on first."""
    asked = _schema(task).get("decision")
    enum = asked.get("enum") if isinstance(asked, dict) else None
    return tuple(str(one) for one in enum) if isinstance(enum, list) else ()


def fields(task: Task, sent: Mapping[str, str]) -> tuple[Field, ...]:
    """List what may be written on a task: the texts of its draft, then what its decision asks for."""
    return tuple(
        Field(one.name, one.key, one.kind, sent.get(one.name, one.value), one.options, one.required)
        for one in (*_draft(task), *_asked(task))
    )


def decision(task: Task, sent: Mapping[str, str]) -> JSON:
    """Read the decision out of a form; what the form cannot hold stays as it was in the draft."""
    made: dict[str, JSON] = {"decision": sent.get("decision", "")} if choices(task) else {}
    for field in _asked(task):
        value = _value(field, sent.get(field.name, ""))
        if value is not None and (value != "" or field.key in _required(task)):
            made[field.key] = value
    if "edited" in _schema(task) and task.edit is not None:
        made["edited"] = _edited(task, sent)
    return made


def takes_note(task: Task) -> bool:
    """Say whether the page offers a place for a reason beside what the task asks for."""
    return "note" not in _schema(task)


def note(task: Task, sent: Mapping[str, str]) -> str:
    """Read why somebody decided: in the note the task asks for, else in the place of the page."""
    return sent.get(NOTE if takes_note(task) else "note", "")


def _schema(task: Task) -> Mapping[str, JSON]:
    properties = (task.schema or {}).get("properties")
    return properties if isinstance(properties, dict) else {}


def _required(task: Task) -> list[JSON]:
    needed = (task.schema or {}).get("required")
    return needed if isinstance(needed, list) else []


def _draft(task: Task) -> list[Field]:
    if "edited" not in _schema(task):
        return []
    if isinstance(task.edit, str):
        return [Field("edited", "draft", "text", task.edit)]
    texts = task.edit.items() if isinstance(task.edit, dict) else ()
    return [
        Field(f"edited.{key}", key, "text" if _is_long(key, value) else "line", value)
        for key, value in texts
        if isinstance(value, str)
    ]


def _is_long(key: str, text: str) -> bool:
    return "\n" in text or len(text) > _LONG or key in _LONG_NAMES


def _asked(task: Task) -> list[Field]:
    required = _required(task)
    found: list[Field] = []
    for key, schema in _schema(task).items():
        if key in ("decision", "edited") or not isinstance(schema, dict):
            continue
        options = schema.get("enum")
        named = tuple(str(one) for one in options) if isinstance(options, list) else ()
        kind: _Kind = "choice" if named else _KINDS.get(str(schema.get("type")), "json")
        found.append(Field(key, key, kind, "", named, key in required and kind != "text"))
    return found


_KINDS: Mapping[str, _Kind] = {"string": "text", "boolean": "flag", "integer": "number", "number": "number"}


def _value(field: Field, text: str) -> JSON:
    """Read one field; None where an optional one was left empty."""
    if field.kind == "flag":
        return text != ""
    if field.kind in ("text", "line"):
        return text
    if field.kind == "choice":
        return text or None
    if not text.strip():
        return None
    try:
        value: JSON = orjson.loads(text.strip().replace(",", ".") if field.kind == "number" else text)
    except orjson.JSONDecodeError as error:
        wanted = "a number" if field.kind == "number" else "JSON"
        raise Invalid(f"cannot read {field.key!r} ({error.msg}): write {wanted}", param=field.name) from None
    return value


def _edited(task: Task, sent: Mapping[str, str]) -> JSON:
    if isinstance(task.edit, str):
        return sent.get("edited", task.edit)
    if not isinstance(task.edit, dict):
        return task.edit
    written = {field.key: _written(field, sent) for field in _draft(task)}
    return {**task.edit, **written}


def _written(field: Field, sent: Mapping[str, str]) -> str:
    text = sent.get(field.name, field.value)
    # A subject that came with a line break would end an e-mail's headers.
    return " ".join(text.split("\n")).strip() if field.kind == "line" else text
