"""Runs asked for by people who fill in a form: its fields come from the inputs of the flow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import orjson

from metier.calls import JSON
from metier.connectors.mail import ToText
from metier.errors import Invalid
from metier.triggers.deployment import Deployed
from metier.triggers.event import Event, Kind, only
from metier.triggers.uploads import MOST, WHOLE, Upload, check_files, file_rows
from metier.workflow.shape import Workflow

__all__ = ["KIND", "Field", "Form", "Widget", "filled", "form_of"]

Widget: TypeAlias = Literal["text", "long", "number", "yes", "choice", "email", "date", "file"]

_NAMED = re.compile(r"\bevent\.([A-Za-z_][A-Za-z0-9_]*)")
_LONG = 200
_LONGEST = 100_000
_FILE_BYTES = 10_000_000
_USUAL = 5
_INPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_FAULTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "en": {
            "once": "the form was sent without its number: load its page again, then fill it in",
            "strange": "the form asks no {name!r}",
            "missing": "{label!r} is missing",
            "long": "{label!r} has {size:,} characters: {most:,} at most",
            "number": "{label!r} is {text!r}: write a number",
            "choice": "{label!r} is {text!r}: choose among {choices}",
            "file": "{label!r} is a file: choose one; programs send multipart/form-data",
            "text": "{label!r} takes no file: write into it",
        },
        "fr": {
            "once": "le formulaire est arrivé sans son numéro\u00a0: rechargez la page, puis remplissez-le",
            "strange": "le formulaire ne demande pas «\u00a0{name}\u00a0»",
            "missing": "«\u00a0{label}\u00a0» manque",
            "long": "«\u00a0{label}\u00a0» a {size} caractères\u00a0: {most} au plus",
            "number": "«\u00a0{label}\u00a0» vaut «\u00a0{text}\u00a0»\u00a0: écrivez un nombre",
            "choice": "«\u00a0{label}\u00a0» vaut «\u00a0{text}\u00a0»\u00a0: choisissez parmi {choices}",
            "file": "«\u00a0{label}\u00a0» est un fichier\u00a0: choisissez-en un\u00a0; les programmes envoient du "
            "multipart/form-data",
            "text": "«\u00a0{label}\u00a0» ne prend pas de fichier\u00a0: écrivez dedans",
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
    most: int = 1
    """Files it takes at most, where it takes files."""
    is_list: bool = False
    """Whether the flow gets a list of files, or one file."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a person is asked before a run starts."""

    title: str
    hint: str
    fields: tuple[Field, ...]
    file_bytes: int = _FILE_BYTES
    """Bytes of the largest file taken."""

    @property
    def files(self) -> Mapping[str, Field]:
        """The fields that take files, by name."""
        return {field.name: field for field in self.fields if field.widget == "file"}


def form_of(trigger: Deployed, workflow: Workflow) -> Form:
    """Make the form of a trigger: every input, or what `with` takes from the event."""
    properties, required = workflow.inputs.get("properties"), workflow.inputs.get("required")
    known: Mapping[str, JSON] = properties if isinstance(properties, dict) else {}
    needed = set(map(str, required)) if isinstance(required, list) else set()
    asked = list(dict.fromkeys(_NAMED.findall(orjson.dumps(dict(trigger.with_)).decode()))) or list(known)
    told = _read(trigger.config)
    fields = tuple(
        _field(name, known.get(name), name in needed or name not in known, told.files.get(name)) for name in asked
    )
    title, hint = str(trigger.config.get("title") or workflow.name), str(trigger.config.get("hint") or "")
    return Form(title, hint, fields, told.limit)


def filled(
    form: Form,
    values: Mapping[str, str],
    once: str,
    uploads: Mapping[str, Sequence[Upload]],
    to_text: ToText,
    lang: str = "en",
) -> Event:
    """Give the event of a form as it was sent; `once` was in the page, so that sending it twice is one event."""
    words, files = _FAULTS.get(lang, _FAULTS["en"]), form.files
    if not _ONCE.fullmatch(once):
        raise Invalid(words["once"], param="form")
    labels = {field.name: field.label for field in form.fields}
    for name in (*values, *uploads):
        if name not in labels:
            raise Invalid(words["strange"].format(name=name[:60]), param=f"form.{name[:60]}")
    for name in (*(name for name in values if name in files and values[name]), *(set(uploads) - set(files))):
        told = words["file" if name in files else "text"].format(label=labels[name])
        raise Invalid(told, param=f"form.{name}")
    check_files([(field.name, field.label, field.most) for field in files.values()], uploads, form.file_bytes, lang)
    data: dict[str, JSON] = {}
    for field in form.fields:
        is_file = field.widget == "file"
        value = None if is_file else _value(field, values.get(field.name, "").strip(), words)
        if value is not None:
            data[field.name] = value
        elif field.required and not uploads.get(field.name):
            raise Invalid(words["missing"].format(label=field.label), param=f"form.{field.name}")
    # Files are read last, since it takes longest.
    for name, rows in file_rows(uploads, to_text, lang).items():
        data[name] = [*rows] if files[name].is_list else rows[0]
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


def _field(name: str, schema: JSON, required: bool, files: int | None) -> Field:
    told = schema if isinstance(schema, dict) else {}
    label, default = str(told.get("title") or name.replace("_", " ").capitalize()), told.get("default")
    choices, inner = told.get("enum"), told.get("items")
    widget, is_list, most = _widget(told), False, 1
    if files is not None:
        widget, is_list, most = "file", files > 1, files
    elif isinstance(inner, dict) and inner.get("format") == "file":
        widget, is_list, most = "file", True, _count(told.get("maxItems"))
    return Field(
        name=name,
        label=label,
        hint=str(told.get("description") or ""),
        widget=widget,
        required=required and default is None,
        choices=tuple(str(choice) for choice in choices) if isinstance(choices, list) else (),
        default="" if default is None or widget == "file" else str(default),
        most=most,
        is_list=is_list,
    )


def _count(most: JSON) -> int:
    return min(most, MOST) if isinstance(most, int) and most > 0 else _USUAL


def _widget(schema: Mapping[str, JSON]) -> Widget:
    if isinstance(schema.get("enum"), list):
        return "choice"
    match schema.get("type"):
        case "boolean":
            return "yes"
        case "number" | "integer":
            return "number"
    match schema.get("format"):
        case "file":
            return "file"
        case "email":
            return "email"
        case "date":
            return "date"
    longest = schema.get("maxLength")
    return "text" if isinstance(longest, int) and longest <= _LONG else "long"


@dataclass(frozen=True, slots=True)
class _Files:
    files: Mapping[str, int]
    limit: int


def _read(config: Mapping[str, JSON]) -> _Files:
    only(config, "form", (), ("title", "hint", "files", "limit"))
    files, limit = config.get("files", {}), config.get("limit", _FILE_BYTES)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= WHOLE:
        raise Invalid(f"limit is {limit!r}: write the bytes of the largest file taken, up to {WHOLE}")
    if not isinstance(files, dict):
        raise Invalid(f"files is {files!r}: write names and how many files each takes, such as {{contract: 1}}")
    found: dict[str, int] = {}
    for name, most in files.items():
        if not _INPUT.fullmatch(name) or isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST:
            raise Invalid(f"files has {name[:60]!r}: {most!r}; write a name and how many it takes, from 1 to {MOST}")
        found[name] = most
    return _Files(found, limit)


def _check(config: Mapping[str, JSON]) -> None:
    _read(config)


KIND = Kind(_check)
