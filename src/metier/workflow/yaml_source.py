"""YAML that people write by hand, read with the place of every value and without the traps of YAML 1.1."""

from __future__ import annotations

import bisect
import codecs
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias

import yaml

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.shape import Mark

__all__ = ["DEPTH_MAX", "NODES_MAX", "SOURCE_MAX", "Node", "Scalar", "decode", "is_text", "placed", "read", "suggest"]

Scalar: TypeAlias = bool | int | float | str | None
_Shape: TypeAlias = Literal["mapping", "list", "scalar"]

SOURCE_MAX = 256 * 1024
"""Bytes of one YAML file."""
NODES_MAX = 20_000
DEPTH_MAX = 40

_INT = re.compile(r"[-+]?[0-9]+\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?\Z", re.ASCII)
_STRANGE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLACED = re.compile(
    r"(?:(?:[^:\n'\"]{1,300}:[0-9]+:[0-9]+: )?step '[a-z0-9_]+': )?"
    r"(?P<file>[^:\n'\"]{1,300}):(?P<line>[0-9]+):(?P<column>[0-9]+): (?P<text>.+)"
)
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_WORD = re.compile(r"[\w?. -]+\Z")
_LINE_END = re.compile(r"\r\n?|\n")
_MENDS = (
    ("cannot start any token", "put the text in quotes"),
    ("mapping values are not allowed", "indent it like the lines around it, or put a text that holds ': ' in quotes"),
    ("expected ',' or", "close what is opened at {opened}"),
    ("unexpected end of stream", "close the quotes that are opened at {opened}"),
    ("unknown escape", "write a backslash twice, or take single quotes"),
    ("expected '-' indicator", "indent it like the items of the list at {opened}"),
    ("did not find expected key", "put the whole text in quotes, or indent it like the keys at {opened}"),
    ("block sequence entries", "begin the list on a line of its own"),
    ("expected alphabetic or numeric", "put the text in quotes"),
    ("document start", "remove what stands here; a file holds one workflow"),
    ("expected comment or line break", "begin the text on the next line"),
)
"""What to do about what the YAML parser says, by words of its message."""
_NULLS, _TRUES, _FALSES = ("", "~", "null", "Null", "NULL"), ("true", "True", "TRUE"), ("false", "False", "FALSE")


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a YAML file with its place; reading it as the wrong thing raises Invalid at that place."""

    mark: Mark
    shape: _Shape
    scalar: Scalar = None
    items: tuple[Node, ...] = ()
    entries: Mapping[str, Node] = field(default_factory=dict)
    key_marks: Mapping[str, Mark] = field(default_factory=dict)

    def data(self) -> JSON:
        """Give the value as plain JSON."""
        match self.shape:
            case "mapping":
                return {key: value.data() for key, value in self.entries.items()}
            case "list":
                return [item.data() for item in self.items]
        return self.scalar

    def marks(self, path: str = "") -> Iterator[tuple[str, Mark]]:
        """Yield the place of this value and of every value inside it, by path."""
        yield path, self.mark
        for key, value in self.entries.items():
            yield from value.marks(f"{path}/{key}" if path else key)
        for position, item in enumerate(self.items):
            yield from item.marks(f"{path}/{position}" if path else str(position))

    def fail(self, message: str) -> NoReturn:
        """Raise Invalid with the place of this value before the message."""
        raise Invalid(f"{self.mark}: {message}", param=str(self.mark))

    def mapping(self, what: str) -> Mapping[str, Node]:
        """Read it as a mapping."""
        if self.shape != "mapping":
            self.fail(f"{what} must be a mapping (name: value), not {self._kind()}")
        return self.entries

    def list(self, what: str) -> tuple[Node, ...]:
        """Read it as a list."""
        if self.shape != "list":
            self.fail(f"{what} must be a list, not {self._kind()}")
        return self.items

    def text(self, what: str) -> str:
        """Read it as a text that is not empty."""
        if not isinstance(self.scalar, str) or not self.scalar.strip():
            self.fail(f"{what} must be a text, not {self._kind()}")
        return self.scalar

    def whole(self, what: str, least: int, most: int) -> int:
        """Read it as a whole number between two bounds."""
        value = self.scalar
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.fail(f"{what} must be a whole number between {least} and {most}, not {self._kind()}")
        return value

    def number(self, what: str, least: float, most: float) -> float:
        """Read it as a number between two bounds."""
        value = self.scalar
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            self.fail(f"{what} must be a number between {least:g} and {most:g}, not {self._kind()}")
        return value

    def one_of(self, what: str, choices: Iterable[str]) -> str:
        """Read it as one of a few words."""
        known = list(choices)
        if self.scalar not in known:
            self.fail(
                f"{what} must be {' or '.join(map(repr, known))}, not {self._kind()}{suggest(self.scalar, known)}"
            )
        return str(self.scalar)

    def only(self, what: str, known: Iterable[str]) -> None:
        """Refuse any key that is not known, with the nearest one as a suggestion."""
        names = sorted(known)
        for key in self.mapping(what):
            if key not in names:
                torn = self.entries[key].scalar is None and self.entries[key].shape == "scalar" and not _WORD.match(key)
                mend = "; put the text before it in quotes: a comma ends it" if torn else suggest(key, names)
                raise Invalid(
                    f"{self.key_marks[key]}: unknown key {key[:80]!r} in {what}{mend}", param=str(self.key_marks[key])
                )

    def _kind(self) -> str:
        if self.shape != "scalar":
            return f"a {self.shape}"
        return "nothing" if self.scalar is None else repr(self.scalar)[:80]


def suggest(name: object, known: Iterable[str]) -> str:
    """Write the end of a message: the nearest known name, or all of them when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name)[:80], names, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it can be {', '.join(names[:30])}" if names else ""


def placed(message: str) -> tuple[Mark, str, str] | None:
    """Take a message apart into its place, what is wrong there and what to do; None for one without a place.

    What is wrong in a file that a step names is at its place in that file.
    """
    found = _PLACED.fullmatch(message)
    if found is None:
        return None
    text = found["text"]
    # A semicolon in what the message quotes does not begin what to do.
    cut = _QUOTED.sub(lambda quoted: "." * len(quoted[0]), text).find("; ")
    said, mend = (text, "") if cut < 0 else (text[:cut], text[cut + 2 :])
    return Mark(found["file"], int(found["line"]), int(found["column"])), said, mend


def is_text(written: str) -> bool:
    """Tell whether a plain scalar of these characters is a text to our reader, rather than a number or null."""
    return not (
        written in (*_NULLS, *_TRUES, *_FALSES) or _INT.match(written) is not None or _FLOAT.match(written) is not None
    )


def decode(data: bytes, file: str) -> str:
    """Decode a file that must be UTF-8 (a byte order mark is allowed), or say at which byte it is not."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Invalid(f"{file}:1:1: cannot read the file: it is UTF-16; save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as wrong:
        before = data[: wrong.start].decode()
        at = _Places(before, file).at(len(before))
        raise Invalid(
            f"{at}: cannot read the file: byte {data[wrong.start]:#04x} is not UTF-8; save it as UTF-8"
        ) from None


def read(text: str, file: str) -> Node:
    """Read one YAML document: no aliases, no tags, no double keys, bounded size and depth."""
    places = _Places(text, file)
    if strange := _STRANGE.search(text):
        raise Invalid(
            f"{places.at(strange.start())}: cannot read the YAML: the character U+{ord(strange[0]):04X} cannot be in "
            "YAML; remove it, or write it as an escape in double quotes"
        )
    if (size := len(text.encode())) > SOURCE_MAX:
        raise Invalid(f"{file}:1:1: cannot read the file: {size} bytes, more than {SOURCE_MAX}; split the workflow")
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        return _Composer(places, events).document()
    except yaml.MarkedYAMLError as wrong:
        place = wrong.problem_mark or wrong.context_mark
        at = places.at(place.index) if place else Mark(file, 1, 1)
        if _tab(text, place.index if place else 0):
            raise Invalid(f"{at}: cannot read the YAML: there is a tab here; indent with spaces") from None
        opened = places.at(wrong.context_mark.index) if wrong.context_mark else at
        problem = str(wrong.problem or wrong.context)
        raise Invalid(f"{at}: cannot read the YAML: {problem}{_mend(problem, opened)}") from None
    except yaml.YAMLError as wrong:
        raise Invalid(f"{file}:1:1: cannot read the YAML: {str(wrong).splitlines()[0]}") from None


def _tab(text: str, at: int) -> bool:
    """Tell whether what cannot be read is a tab before the words of a line."""
    return text[at : at + 1] == "\t" and not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t-?")


def _mend(problem: str, opened: Mark) -> str:
    """Write the end of the message on YAML that cannot be read: what people most often meant."""
    for part, mend in _MENDS:
        if part in problem:
            return "; " + mend.format(opened=opened)
    return ""


class _Places:
    """Lines and columns as editors count them: only line feeds and carriage returns begin a line."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._starts = [0, *(found.end() for found in _LINE_END.finditer(text))]

    def at(self, index: int) -> Mark:
        """Give the place of a character, counted from the beginning of the text."""
        line = bisect.bisect_right(self._starts, index)
        return Mark(self.file, line, index - self._starts[line - 1] + 1)


class _Composer:
    """Builds nodes from the events of the YAML parser, so that nothing is expanded before it is checked."""

    def __init__(self, places: _Places, events: Iterable[Any]) -> None:
        self._places = places
        self._events = iter(events)
        self._left = NODES_MAX

    def document(self) -> Node:
        """Read the stream, which must hold exactly one document."""
        self._next()
        opened = self._next()
        if isinstance(opened, yaml.StreamEndEvent):
            raise Invalid(f"{self._places.at(0)}: cannot read the file: it is empty")
        node = self._node(self._next(), 0)
        self._next()
        closing = self._next()
        if not isinstance(closing, yaml.StreamEndEvent):
            raise Invalid(f"{self._mark(closing)}: one document in a file; remove what follows '---'")
        return node

    def _next(self) -> Any:
        return next(self._events)

    def _mark(self, event: Any) -> Mark:
        return self._places.at(event.start_mark.index)

    def _node(self, event: Any, depth: int) -> Node:
        mark = self._mark(event)
        self._left -= 1
        if self._left < 0:
            raise Invalid(f"{mark}: more than {NODES_MAX} values in the file; split the workflow")
        if depth > DEPTH_MAX:
            raise Invalid(f"{mark}: more than {DEPTH_MAX} levels inside one another")
        if isinstance(event, yaml.AliasEvent):
            raise Invalid(f"{mark}: aliases (*{event.anchor}) are not supported; write the value again")
        if event.anchor is not None:
            raise Invalid(f"{mark}: anchors (&{event.anchor}) are not supported; write the value where it is used")
        if event.tag is not None and event.tag != "!":
            raise Invalid(f"{mark}: tags ({event.tag[:80]}) are not supported; write plain YAML")
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and not event.style
            return Node(mark, "scalar", self._scalar(event.value, mark) if plain else event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(mark, "list", items=tuple(self._until(yaml.SequenceEndEvent, depth)))
        return self._mapping(mark, depth)

    def _until(self, end: Callable[..., Any], depth: int) -> Iterator[Node]:
        ending: Any = end
        while not isinstance(event := self._next(), ending):
            yield self._node(event, depth + 1)

    def _mapping(self, mark: Mark, depth: int) -> Node:
        entries: dict[str, Node] = {}
        key_marks: dict[str, Mark] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if key.shape == "mapping":
                key.fail('a key must be a text; if this is an expression, put it in quotes: "{{ … }}"')
            if key.shape != "scalar":
                key.fail("a key must be a text")
            # `on:` and `2026:` are names to whoever writes them, whatever type the plain text would have.
            name = event.value
            if name == "<<":
                key.fail("merge keys (<<) are not supported; write the values")
            if name in entries:
                key.fail(f"the key {name[:80]!r} is here twice; the first is at {key_marks[name]}")
            key_marks[name] = key.mark
            entries[name] = self._node(self._next(), depth + 1)
        return Node(mark, "mapping", entries=entries, key_marks=key_marks)

    def _scalar(self, text: str, mark: Mark) -> Scalar:
        """Resolve a plain scalar as YAML 1.2 does: `no`, `1:30` and `2026-10-01` are texts."""
        if text in _NULLS:
            return None
        if text in _TRUES or text in _FALSES:
            return text in _TRUES
        if _INT.match(text):
            number = int(text) if len(text) <= 20 else 2**64
            if not -(2**63) <= number < 2**63:
                raise Invalid(f"{mark}: the number {text[:80]!r} does not fit in 64 bits; put it in quotes")
            return number
        if _FLOAT.match(text):
            amount = float(text)
            if amount in (float("inf"), float("-inf")):
                raise Invalid(f"{mark}: the number {text[:80]!r} is too large")
            return amount
        return text
