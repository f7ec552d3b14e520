"""Labelled rows from a spreadsheet: a CSV file whose header names the columns, read as people save it, and told."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.shape import Step, Workflow

__all__ = ["Sheet", "cell", "is_sheet", "kinds", "read"]

_DELIMITERS: Final = ((",", "commas"), (";", "semicolons"), ("\t", "tabs"))
_TAKES = re.compile(r"\s*\{\{\s*(?:inputs|steps\.([A-Za-z_][A-Za-z0-9_]*))\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}\s*\Z")
_YES: Final = frozenset({"true", "yes", "1", "vrai", "oui"})
_NO: Final = frozenset({"false", "no", "0", "faux", "non"})
_NUMBER = re.compile(r"[+-]?\d{1,15}([.,]\d{1,30})?([eE][+-]?\d{1,2})?", re.ASCII)
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
"""A comma that may part thousands as well as decimals."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A CSV file, read."""

    columns: tuple[str, ...]
    """Names in the header; a column without a name is left out."""
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    """Each with the line of the file it begins on."""
    told: str
    """How the file was read, for the person who gave it."""
    doubt: str | None
    """What to look at, where the character set had to be taken for granted."""


def is_sheet(name: str) -> bool:
    """Say whether a file is CSV, by its name."""
    return name.lower().endswith((".csv", ".tsv"))


def read(data: bytes, name: str, wanted: Sequence[str]) -> Sheet:
    """Read a CSV file; of the delimiters, the one that makes most of the wanted columns of the header is taken."""
    text, charset, doubt = _decoded(data, name)
    first, said = 1, None
    if found := re.match(r"sep=([,;\t])\r?\n", text, re.IGNORECASE):
        # Spreadsheets write their delimiter so, on a line above the header.
        text, first, said = text[found.end() :], 2, found[1]
    start, delimiter, header = _header(text, name, wanted, said, first)
    named = [one for one in header if one]
    for one in named:
        if named.count(one) > 1:
            raise Invalid(f"{name}:{start}: two columns are named {one!r}: give each a name of its own")
    rows: list[tuple[int, Mapping[str, str]]] = []
    for line, cells in _records(text, delimiter, name, first):
        if line <= start or not any(one.strip() for one in cells):
            continue
        if len(cells) != len(header):
            raise Invalid(
                f"{name}:{line}: this row has {len(cells)} cells and the header {len(header)}: put a text that holds "
                f"{delimiter!r} or a line break between double quotes, and double the quotes inside it"
            )
        rows.append((line, {key: value for key, value in zip(header, cells, strict=True) if key}))
    words = dict(_DELIMITERS)[delimiter]
    return Sheet(tuple(named), tuple(rows), f"{len(rows):,} rows, {words} between columns, {charset}", doubt)


def kinds(workflow: Workflow, step: Step) -> dict[str, str]:
    """Say as what each cell is taken: the declared type of the input or output that the step is given, else text."""
    found = {}
    for name, template in step.with_.items():
        taken = _TAKES.match(template) if isinstance(template, str) else None
        if taken is None:
            continue
        of = workflow.step(taken[1]) if taken[1] else None
        schema = workflow.inputs if not taken[1] else (of.output if of is not None else None)
        properties = (schema or {}).get("properties")
        declared = properties.get(taken[2]) if isinstance(properties, dict) else None
        kind = declared.get("type") if isinstance(declared, dict) else None
        if isinstance(kind, str) and kind in ("number", "integer", "boolean", "object", "array"):
            found[name] = kind
    return found


def cell(text: str, kind: str | None, place: str, column: str) -> JSON:
    """Make the value of a cell, or say on which line it is none of its kind."""
    written = text.strip()
    match kind:
        case None:
            return text
        case "boolean":
            if written.lower() in _YES | _NO:
                return written.lower() in _YES
            wanted = "yes or no (true, false, oui, non, 1, 0)"
        case "number" | "integer":
            plain = re.sub(r"[\s\u00a0\u202f]", "", written)
            if _NUMBER.fullmatch(plain) and not _EITHER.fullmatch(plain):
                number = float(plain.replace(",", "."))
                if kind == "number" or number.is_integer():
                    return int(number) if number.is_integer() and abs(number) < 2**53 else number
            wanted = "a whole number, such as 1250" if kind == "integer" else "a number, such as 1250.5 or 1250,5"
        case _:
            try:
                value: JSON = orjson.loads(written)
            except orjson.JSONDecodeError:
                value = None
            if isinstance(value, dict if kind == "object" else list):
                return value
            wanted = 'JSON, such as ["a", "b"]' if kind == "array" else 'JSON, such as {"a": 1}'
    raise Invalid(f"{place}: the column {column!r} has {written[:40]!r} where the step takes {wanted}")


def _decoded(data: bytes, name: str) -> tuple[str, str, str | None]:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        charset, doubt = "utf-16", None
    else:
        charset, doubt = "utf-8-sig", None
        try:
            data.decode(charset)
        except UnicodeDecodeError as wrong:
            line = data.count(b"\n", 0, wrong.start) + 1
            try:
                data.decode("cp1252")
                charset = "cp1252"
            except UnicodeDecodeError:
                charset = "latin-1"
            shown = "Windows-1252" if charset == "cp1252" else "Latin-1"
            doubt = (
                f"{name!r} is not UTF-8 (line {line}): it was read as {shown}, as older spreadsheets save; look "
                "whether accents are right, or save it as CSV UTF-8"
            )
    try:
        text = data.decode(charset)
    except UnicodeDecodeError as wrong:
        raise Invalid(f"{name!r} begins like UTF-16 and is none (byte {wrong.start}): save it as CSV UTF-8") from wrong
    if "\x00" in text:
        raise Invalid(f"{name!r} holds zero bytes, so it is no CSV file: save it as CSV UTF-8")
    shown = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "Windows-1252", "latin-1": "Latin-1"}[charset]
    return text, shown, doubt


def _header(
    text: str, name: str, wanted: Sequence[str], said: str | None, first: int
) -> tuple[int, str, tuple[str, ...]]:
    """Find the header and the delimiter: the one named, else the one that gives most wanted columns, then most."""
    best: tuple[tuple[int, int], int, str, tuple[str, ...]] | None = None
    fault: Invalid | None = None
    for delimiter, _ in _DELIMITERS:
        if said not in (None, delimiter):
            continue
        try:
            line, cells = next(
                (at, row) for at, row in _records(text, delimiter, name, first) if any(one.strip() for one in row)
            )
        except StopIteration:
            break
        except Invalid as wrong:
            fault = wrong
            continue
        header = tuple(one.strip() for one in cells)
        score = (len(set(header) & set(wanted)), len(header))
        if best is None or score > best[0]:
            best = (score, line, delimiter, header)
    if best is not None:
        return best[1:]
    raise fault or Invalid(f"{name!r} is empty: write a header, such as text,label, and a row for each case")


def _records(text: str, delimiter: str, name: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line it begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    at = first
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as wrong:
            raise Invalid(
                f"{name}:{at}: this row cannot be read as CSV ({wrong}): a cell that begins with a double quote ends "
                "with one, and a quote inside it is doubled"
            ) from wrong
        yield at, cells
        at = first + reader.line_num
