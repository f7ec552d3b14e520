"""The form of a task: what may be edited and asked for, and the decision that comes back from it, or what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metier.calls import JSON
from metier.console.fields import Field, Problem, Schema, fields_of, is_long, plain, read
from metier.deferred import deferred
from metier.workflow.review import Task
from metier.workflow.tasks import NEGATIVE

if TYPE_CHECKING:
    import jsonschema
else:
    jsonschema = deferred("jsonschema")

__all__ = ["NOTE", "Answer", "answer", "choices", "fields", "note", "takes_note", "touched"]

NOTE = "task.note"
"""Name of the field for a reason, where the task itself asks for no note; no name of a workflow has a dot."""

_KNOWN = frozenset(
    {
        "required", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern",
        "enum", "type", "minItems", "maxItems", "uniqueItems", "multipleOf", "const",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a form says: a decision, and what is wrong with it by the name of the field."""

    decision: JSON
    problems: Mapping[str, Problem]


def choices(task: Task) -> tuple[str, ...]:
    """The decisions a task allows, the one that makes the work go on first."""
    asked = _schema(task).get("decision")
    enum = asked.get("enum") if isinstance(asked, dict) else None
    return tuple(str(one) for one in enum) if isinstance(enum, list) else ()


def fields(task: Task, sent: Mapping[str, str], problems: Mapping[str, Problem] | None = None) -> tuple[Field, ...]:
    """List what may be written on a task, as it was sent where it was: the parts of its draft, then what is asked."""
    found = tuple(field for field, _ in _all(task))
    came = any(field.name in sent for field in found if field.kind != "flag") or "decision" in sent
    return tuple(
        replace(
            field,
            value=sent.get(field.name, "" if came and field.kind == "flag" else field.value),
            problem=(problems or {}).get(field.name),
        )
        for field in found
    )


def touched(task: Task, sent: Mapping[str, str]) -> bool:
    """Say whether a form holds something that was typed: it must not be lost."""
    before = {field.name: field.value for field, _ in _all(task)}
    return bool(sent.get(NOTE)) or any(
        field.value.strip() != before[field.name].strip() for field in fields(task, sent)
    )


def answer(task: Task, sent: Mapping[str, str]) -> Answer:
    """Read the decision out of a form; what the form cannot hold stays as it was in the draft."""
    problems: dict[str, Problem] = {}
    made: dict[str, JSON] = {"decision": sent.get("decision", "")} if choices(task) else {}
    kept = "edited" in _schema(task) and task.edit is not None
    if kept:
        made["edited"] = dict(task.edit) if isinstance(task.edit, dict) else task.edit
    for field, schema in _all(task):
        if field.draft and field.name not in sent and field.kind != "flag":
            continue  # The draft as it was.
        value = read(field, schema, sent.get(field.name, ""))
        if isinstance(value, Problem):
            problems[field.name] = value
        elif field.name == "edited":
            made["edited"] = value
        elif not _left(task, field, value):
            _put(made, field.name.split("."), value)
        elif field.draft:
            _put(made, field.name.split("."), None, only_over=True)
    for key in [key for key in made if made.get("decision") != "output" and _empty(task, key, made[key])]:
        del made[key]
    wrong = _wrong(task, made)
    refused = str(made.get("decision")) in NEGATIVE and not note(task, sent).strip()
    if refused and not isinstance(made.get("reason"), str) and not isinstance(made.get("changes"), str):
        wrong = {**wrong, (NOTE if takes_note(task) else "note"): Problem(f"needed.{made['decision']}")}
    return Answer(made, {**wrong, **problems})


def takes_note(task: Task) -> bool:
    """Say whether the page offers a place for a reason beside what the task asks for."""
    return "note" not in _schema(task)


def note(task: Task, sent: Mapping[str, str]) -> str:
    """Read why somebody decided: in the note the task asks for, else in the place of the page."""
    return sent.get(NOTE if takes_note(task) else "note", "")


def _schema(task: Task) -> Mapping[str, JSON]:
    properties = (task.schema or {}).get("properties")
    return properties if isinstance(properties, dict) else {}


def _all(task: Task) -> Iterator[tuple[Field, Schema]]:
    for field in _draft(task):
        yield field, _rule(task, field)
    needed = (task.schema or {}).get("required")
    for key, schema in _schema(task).items():
        if key not in ("decision", "edited") and isinstance(schema, dict):
            asked = isinstance(needed, list) and key in needed
            for field in fields_of(key, key, schema, None, required=asked):
                yield field, _rule(task, field)


def _draft(task: Task) -> Iterator[Field]:
    """The parts of a draft: those its schema knows, and the other texts it has."""
    edited = _schema(task).get("edited")
    if edited is None:
        return
    if isinstance(task.edit, str):
        yield Field("edited", "draft", "text", task.edit)
    if not isinstance(task.edit, dict):
        return
    rules = plain(edited).get("properties") if isinstance(edited, dict) else None
    known = rules if isinstance(rules, dict) else {}
    for key, value in task.edit.items():
        rule = known.get(key)
        if isinstance(rule, dict) and not isinstance(value, str):
            yield from fields_of(f"edited.{key}", key, rule, value, required=False)
        elif isinstance(value, str):
            rule = rule if isinstance(rule, dict) else {}
            if isinstance(rule.get("enum"), list) or rule.get("format") == "date":
                yield from fields_of(f"edited.{key}", key, rule, value, required=False)
            else:
                yield Field(f"edited.{key}", key, "text" if is_long(key, value) else "line", value)


def _rule(task: Task, field: Field) -> Schema:
    """The schema of the part a field stands for."""
    at: JSON = {"properties": dict(_schema(task))}
    for part in field.name.split("."):
        inner = plain(at).get("properties") if isinstance(at, dict) else None
        at = inner.get(part) if isinstance(inner, dict) else None
    return at if isinstance(at, dict) else {}


def _left(task: Task, field: Field, value: JSON) -> bool:
    """Whether a field was left empty, so that an optional part is not there at all."""
    at: JSON = dict(task.schema or {})
    for part in field.name.split(".")[:-1]:
        inner = plain(at).get("properties") if isinstance(at, dict) else None
        at = inner.get(part) if isinstance(inner, dict) else None
    asked = plain(at).get("required") if isinstance(at, dict) else None
    needed = isinstance(asked, list) and field.name.rpartition(".")[2] in asked
    return value is None or (not field.draft and not needed and value in ("", []))


def _empty(task: Task, key: str, value: JSON) -> bool:
    """Whether nobody filled anything into a part of the answer that may be left out as a whole."""
    asked = (task.schema or {}).get("required")
    optional = key not in ("decision", "edited") and not (isinstance(asked, list) and key in asked)
    return optional and isinstance(value, dict) and all(one in (None, False, "", []) for one in value.values())


def _put(made: dict[str, JSON], parts: list[str], value: JSON, *, only_over: bool = False) -> None:
    """Put a value at its place; with `only_over`, only where something stands already."""
    *outer, last = parts
    for part in outer:
        inner = made.get(part)
        copied: dict[str, JSON] = dict(inner) if isinstance(inner, dict) else {}
        made[part] = copied
        made = copied
    if not only_over or last in made:
        made[last] = value


def _wrong(task: Task, made: JSON) -> dict[str, Problem]:
    """Say what does not fit the schema, field by field; the choice itself is said by who takes the decision."""
    if task.schema is None:
        return {}
    names = {field.name for field, _ in _all(task)}
    found: dict[str, Problem] = {}
    for error in jsonschema.Draft202012Validator(dict(task.schema)).iter_errors(made):
        parts = [str(part) for part in error.absolute_path]
        if error.validator == "required":
            missing = [one for one in error.validator_value if isinstance(error.instance, dict)]
            parts += [one for one in missing if one not in error.instance][:1]
        name = next((".".join(parts[:end]) for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in names), "")
        if name:
            word = error.validator if error.validator in _KNOWN else "other"
            limit = error.validator_value if isinstance(error.validator_value, int | float) else ""
            found.setdefault(name, Problem(str(word), str(limit)))
    return found
