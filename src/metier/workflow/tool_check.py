"""Values checked against schemas that others wrote: patterns by RE2, which never goes back, and within so much work."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from metier.calls import JSON
from metier.deferred import deferred

if TYPE_CHECKING:
    import jsonschema
    import re2
else:
    jsonschema = deferred("jsonschema")
    re2 = deferred("re2")

__all__ = ["Overdone", "faults", "reads", "size"]

_LONGEST_PATTERN: Final = 1_000
_LONGEST_TEXT: Final = 10_000
"""Characters of a text that a pattern is applied to; longer ones are let through."""
_WORK: Final = (20_000, 20, 200_000)
"""Keywords that may be applied: to begin with, for each value that is checked, and in all."""
_FAULTS: Final = 50
_PIECE: Final = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
_CLASSES: Final[Mapping[str, str]] = {r"\w": r"\p{L}\p{M}\p{N}_", r"\d": r"\p{Nd}", r"\s": r"\s\v\p{Z}"}
"""What RE2 takes for ASCII alone, as Python reads it: a letter with an accent is one."""


class Overdone(Exception):
    """The check of a value took more work than any schema is worth."""


class _Unread(Exception):
    """The pattern is too long to be applied."""


@dataclass(slots=True)
class _Work:
    left: int


_left: ContextVar[_Work] = ContextVar("left")
_Keyword: TypeAlias = Callable[[Any, Any, Any, Any], Iterator[Any]]


def faults(value: JSON, schema: Mapping[str, JSON]) -> list[jsonschema.ValidationError]:
    """Give what is wrong with a value, the first fifty; Overdone where nobody can say in time."""
    begun, each, most = _WORK
    token = _left.set(_Work(min(most, begun + each * size(value, most // each))))
    try:
        return list(itertools.islice(_checker()(dict(schema)).iter_errors(value), _FAULTS))
    finally:
        _left.reset(token)


def reads(pattern: str) -> bool:
    """Tell whether a pattern of a schema can be applied here."""
    try:
        _pattern(pattern)
    except (re2.error, UnicodeError, _Unread):
        return False
    return True


def size(value: JSON, most: int) -> int:
    """Count the values inside a value, no further than it matters."""
    found, waiting = 0, [value]
    while waiting and found < most:
        one = waiting.pop()
        found += 1
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found


@lru_cache(1_000)
def _pattern(written: str) -> Any:
    if len(written) > _LONGEST_PATTERN:
        raise _Unread
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 17
    return re2.compile(_meant(written), options=options)


def _meant(written: str) -> str:
    """Write a pattern for RE2 so that it means what it does to Python."""
    found, inside = list[str](), False
    for match in _PIECE.finditer(written):
        piece = match[0]
        if piece in _CLASSES:
            found.append(_CLASSES[piece] if inside else f"[{_CLASSES[piece]}]")
        elif piece.startswith(r"\u"):
            found.append(rf"\x{{{piece[2:]}}}")
        else:
            found.append(piece)
            inside = (inside or piece == "[") and not (inside and piece == "]")
    return "".join(found)


def _spend(work: int) -> None:
    left = _left.get()
    left.left -= work
    if left.left < 0:
        raise Overdone


def _found(pattern: str, text: str) -> bool:
    if len(text) > _LONGEST_TEXT:
        return True
    _spend(1 + len(text))
    try:
        return _pattern(pattern).search(text) is not None
    except (re2.error, UnicodeError, _Unread):
        # A pattern of another language, or half a character, which no text of UTF-8 has.
        return True


@cache
def _checker() -> Any:
    usual = jsonschema.Draft202012Validator
    own = {
        "pattern": _by_pattern, "patternProperties": _by_names, "additionalProperties": _by_other_names,
        "uniqueItems": _once_each, "unevaluatedProperties": _passed, "unevaluatedItems": _passed,
    }  # fmt: skip
    extend: Any = jsonschema.validators.extend
    return extend(usual, {name: _counted(one) for name, one in {**usual.VALIDATORS, **own}.items()})


def _counted(keyword: _Keyword) -> _Keyword:
    def applied(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        _spend(1 + (len(wanted) // 8 if isinstance(wanted, list | dict) else 0))
        yield from keyword(validator, wanted, value, schema) or ()

    return applied


def _by_pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not _found(pattern, value):
        yield jsonschema.ValidationError(f"{value[:200]!r} does not match {pattern!r}")


def _by_names(validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    for name, one in value.items() if isinstance(value, dict) else ():
        for pattern, inner in patterns.items():
            if _found(pattern, name):
                yield from validator.descend(one, inner, path=name, schema_path=pattern)


def _by_other_names(validator: Any, inner: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, one in value.items() if isinstance(value, dict) else ():
        if name in known or any(_found(pattern, name) for pattern in patterns):
            continue
        if inner is False:
            yield jsonschema.ValidationError(f"Additional properties are not allowed ({name[:200]!r} was unexpected)")
        else:
            yield from validator.descend(one, inner, path=name)


def _passed(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    """Let through what is found by going through all that was applied before, uncounted."""
    return iter(())


def _once_each(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, list) and wanted:
        # Lists and objects are compared each with each.
        _spend(len(value) ** 2 // 64 if any(isinstance(one, list | dict) for one in value) else 0)
        yield from jsonschema.Draft202012Validator.VALIDATORS["uniqueItems"](validator, wanted, value, schema) or ()
