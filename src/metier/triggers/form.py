"""Runs asked for by people who fill in a form: its fields come from the inputs of the flow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import orjson

from metier.calls import JSON
from metier.errors import Invalid
from metier.triggers.deployment import Deployed
from metier.triggers.event import Event, Kind, only
from metier.workflow.shape import Workflow

__all__ = ["KIND", "Field", "Form", "Widget", "filled", "form_of"]

Widget: TypeAlias = Literal["text", "long", "number", "yes", "choice", "email", "date"]

_NAMED = re.compile(r"\bevent\.([A-Za-z_][A-Za-z0-9_]*)")
_LONG = 200
_LONGEST = 100_000
_FAULTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "en": {
            "once": "the form was sent without its number: load its page again, then fill it in",
            "strange": "the form asks no {name!r}",
            "missing": "{label!r} is missing",
            "long": "{label!r} has {size:,} characters: {most:,} at most",
            "number": "{label!r} is {text!r}: write a number",
            "choice": "{label!r} is {text!r}: choose among {choices}",
        },
        "fr": {
            "once": "le formulaire est arrivé sans son numéro\u00a0: rechargez la page, puis remplissez-le",
            "strange": "le formulaire ne demande pas «\u00a0{name}\u00a0»",
            "missing": "«\u00a0{label}\u00a0» manque",
            "long": "«\u00a0{label}\u00a0» a {size} caractères\u00a0: {most} au plus",
            "number": "«\u00a0{label}\u00a0» vaut «\u00a0{text}\u00a0»\u00a0: écrivez un nombre",
            "choice": "«\u00a0{label}\u00a0» vaut «\u00a0{text}\u00a0»\u00a0: choisissez parmi {choices}",
        },
    }
)
_ONCE = re.compile(r"[A-Za-z0-9_-]{16,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Field:
    """One thing a form asks."""

    name: str
    label: str
    hint: str
    widget: Widget
    required: bool
    choices: tuple[str, ...] = ()
    default: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """What a person is asked before a run starts."""

    title: str
    hint: str
    fields: tuple[Field, ...]


def form_of(trigger: Deployed, workflow: Workflow) -> Form:
    """Make the form of a trigger: every input, or what `with` takes from the event."""
    properties, required = workflow.inputs.get("properties"), workflow.inputs.get("required")
    known: Mapping[str, JSON] = properties if isinstance(properties, dict) else {}
    needed = set(map(str, required)) if isinstance(required, list) else set()
    asked = list(dict.fromkeys(_NAMED.findall(orjson.dumps(dict(trigger.with_)).decode()))) or list(known)
    fields = tuple(_field(name, known.get(name), name in needed or name not in known) for name in asked)
    return Form(str(trigger.config.get("title") or workflow.name), str(trigger.config.get("hint") or ""), fields)


def filled(form: Form, values: Mapping[str, str], once: str, lang: str = "en") -> Event:
    """Give the event of a form as it was sent; `once` was in the page, so that sending it twice is one event."""
    words = _FAULTS.get(lang, _FAULTS["en"])
    if not _ONCE.fullmatch(once):
        raise Invalid(words["once"], param="form")
    for name in values:
        if name not in {field.name for field in form.fields}:
            raise Invalid(words["strange"].format(name=name[:60]), param=f"form.{name[:60]}")
    data: dict[str, JSON] = {}
    for field in form.fields:
        value = _value(field, values.get(field.name, "").strip(), words)
        if value is not None:
            data[field.name] = value
        elif field.required:
            raise Invalid(words["missing"].format(label=field.label), param=f"form.{field.name}")
    return Event(once, data)


def _value(field: Field, text: str, words: Mapping[str, str]) -> JSON:
    place = f"form.{field.name}"
    if field.widget == "yes":
        return text in ("on", "true", "1", "yes", "oui")
    if not text:
        return None
    if len(text) > _LONGEST:
        raise Invalid(words["long"].format(label=field.label, size=len(text), most=_LONGEST), param=place)
    if field.widget == "number":
        try:
            number: JSON = orjson.loads(text.replace(",", ".").replace(" ", "").replace("\u202f", ""))
        except orjson.JSONDecodeError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise Invalid(words["number"].format(label=field.label, text=text[:40]), param=place)
        return number
    if field.choices and text not in field.choices:
        told = words["choice"].format(label=field.label, text=text[:40], choices=", ".join(field.choices))
        raise Invalid(told, param=place)
    return text.replace("\r\n", "\n")


def _field(name: str, schema: JSON, required: bool) -> Field:
    told = schema if isinstance(schema, dict) else {}
    label, default = str(told.get("title") or name.replace("_", " ").capitalize()), told.get("default")
    choices = told.get("enum")
    return Field(
        name=name,
        label=label,
        hint=str(told.get("description") or ""),
        widget=_widget(told),
        required=required and default is None,
        choices=tuple(str(choice) for choice in choices) if isinstance(choices, list) else (),
        default="" if default is None else str(default),
    )


def _widget(schema: Mapping[str, JSON]) -> Widget:
    if isinstance(schema.get("enum"), list):
        return "choice"
    match schema.get("type"):
        case "boolean":
            return "yes"
        case "number" | "integer":
            return "number"
    match schema.get("format"):
        case "email":
            return "email"
        case "date":
            return "date"
    longest = schema.get("maxLength")
    return "text" if isinstance(longest, int) and longest <= _LONG else "long"


def _check(config: Mapping[str, JSON]) -> None:
    only(config, "form", (), ("title", "hint"))


KIND = Kind(_check)
