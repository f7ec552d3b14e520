"""Values checked against schemas that others wrote: patterns by RE2, which never goes back, and within so much work."""

from __future__ import annotations

import contextlib
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
    import referencing
else:
    jsonschema = deferred("jsonschema")
    re2 = deferred("re2")
    referencing = deferred("referencing")

__all__ = ["Overdone", "faults", "reads", "size"]

_LONGEST_PATTERN: Final = 1_000
_LONGEST_TEXT: Final = 10_000
"""Characters of a text that a pattern is applied to; longer ones are let through."""
_WORK: Final = (20_000, 20, 200_000)
"""Keywords that may be applied: to begin with, for each value that is checked, and in all."""
_FAULTS: Final = 50
_PIECE: Final = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
_CLASSES: Final[Mapping[str, str]] = {r"\w": r"\p{L}_\p{M}\p{N}", r"\d": r"\p{Nd}", r"\s": r"\s\v\p{Z}"}
"""What RE2 takes for ASCII alone, as Python reads it: a letter with an accent is one."""
_OTHERWISE: Final = re.compile(r"\\[Wb]|\{,\d|\\u[dD][89a-fA-F]")
"""What RE2 would read otherwise than Python or JavaScript does: whoever wrote it knows which was meant."""


class Overdone(Exception):
    """The check of a value took more work than any schema is worth."""


class _Unread(Exception):
    """The pattern is too long to be applied, or not read everywhere alike."""


@dataclass(slots=True)
class _Work:
    left: int
    doubt: bool = False
    """Whether something was let through because it cannot be applied here."""


_left: ContextVar[_Work] = ContextVar("left")
_Keyword: TypeAlias = Callable[[Any, Any, Any, Any], Iterator[Any]]


def faults(value: JSON, schema: Mapping[str, JSON]) -> list[jsonschema.ValidationError]:
    """Give what is wrong with a value, the first fifty; Overdone where nobody can say in time."""
    begun, each, most = _WORK
    token = _left.set(_Work(min(most, begun + each * size(value, most // each))))
    try:
        # The registry asks nobody: references lead to a place of the same schema, or nowhere.
        checker = _checker()(dict(schema), registry=referencing.Registry())
        return list(itertools.islice(checker.iter_errors(value), _FAULTS))
    except referencing.exceptions.Unresolvable:
        raise Overdone from None
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
    if len(written) > _LONGEST_PATTERN or _OTHERWISE.search(written.replace(r"\\", "")):
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


def _found(pattern: str, text: str) -> bool | None:
    """Tell whether a pattern is found in a text; None, with a doubt noted, where it cannot be applied."""
    if len(text) <= _LONGEST_TEXT:
        _spend(1 + len(text))
        # A pattern of another language may fail, or half a character, which no text of UTF-8 has.
        with contextlib.suppress(re2.error, UnicodeError, _Unread):
            return _pattern(pattern).search(text) is not None
    _left.get().doubt = True
    return None


def _tried(validator: Any, value: Any, inner: Any, place: Any = None) -> tuple[list[Any], bool]:
    """Give what is wrong by a schema inside, and whether nothing is for sure: what is wrong always is."""
    work = _left.get()
    before, work.doubt = work.doubt, False
    wrong = list(validator.descend(value, inner, schema_path=place))
    sure = not work.doubt
    work.doubt = before or (not wrong and not sure)
    return wrong, sure


@cache
def _checker() -> Any:
    usual = jsonschema.Draft202012Validator
    own = {
        "pattern": _by_pattern, "patternProperties": _by_names, "additionalProperties": _by_other_names,
        "uniqueItems": _once_each, "unevaluatedProperties": _passed, "unevaluatedItems": _passed,
        "not": _not, "oneOf": _one_of, "if": _if, "contains": _contains,
    }  # fmt: skip
    extend: Any = jsonschema.validators.extend
    made = extend(usual, {name: _counted(one) for name, one in {**usual.VALIDATORS, **own}.items()})
    made.evolve = _evolved
    return made


def _evolved(validator: Any, **changes: Any) -> Any:
    """Go on with the same keywords: a `$schema` inside would bring those of the library back."""
    kept = {"schema": validator.schema, "registry": validator._registry, "_resolver": validator._resolver}
    return type(validator)(**{**kept, **changes})


def _counted(keyword: _Keyword) -> _Keyword:
    def applied(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
        _spend(1 + (len(wanted) // 8 if isinstance(wanted, list | dict) else 0))
        yield from keyword(validator, wanted, value, schema) or ()

    return applied


def _by_pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and _found(pattern, value) is False:
        yield jsonschema.ValidationError(f"{value[:200]!r} does not match {pattern!r}")


def _by_names(validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    for name, one in value.items() if isinstance(value, dict) else ():
        for pattern, inner in patterns.items():
            if _found(pattern, name):
                yield from validator.descend(one, inner, path=name, schema_path=pattern)


def _by_other_names(validator: Any, inner: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, one in value.items() if isinstance(value, dict) else ():
        if name in known or any(_found(pattern, name) is not False for pattern in patterns):
            continue
        if inner is False:
            yield jsonschema.ValidationError(f"Additional properties are not allowed ({name[:200]!r} was unexpected)")
        else:
            yield from validator.descend(one, inner, path=name)


def _passed(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    """Let through what is found by going through all that was applied before, uncounted."""
    _left.get().doubt = True
    return iter(())


def _not(validator: Any, inner: Any, value: Any, schema: Any) -> Iterator[Any]:
    wrong, sure = _tried(validator, value, inner)
    if not wrong and sure:
        yield jsonschema.ValidationError(f"{str(value)[:200]!r} should not be valid under {inner!r}")


def _one_of(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    tried = [_tried(validator, value, one, place) for place, one in enumerate(wanted)]
    if all(wrong for wrong, _ in tried):
        context = [one for wrong, _ in tried for one in wrong]
        said = f"{str(value)[:200]!r} is not valid under any of the given schemas"
        yield jsonschema.ValidationError(said, context=context)
    elif sum(not wrong and sure for wrong, sure in tried) > 1:
        yield jsonschema.ValidationError(f"{str(value)[:200]!r} is valid under more than one of the given schemas")


def _if(validator: Any, inner: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    wrong, sure = _tried(validator, value, inner)
    then = "else" if wrong else "then"
    if then in schema and (wrong or sure):
        yield from validator.descend(value, schema[then], schema_path=then)


def _contains(validator: Any, inner: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    if not isinstance(value, list):
        return
    tried = [_tried(validator, one, inner) for one in value]
    least, most = schema.get("minContains", 1), schema.get("maxContains", len(value))
    if sum(not wrong for wrong, _ in tried) < least:
        yield jsonschema.ValidationError("Too few items match the given schema", validator_value=inner)
    elif sum(not wrong and sure for wrong, sure in tried) > most:
        said = f"Too many items match the given schema (expected at most {most})"
        yield jsonschema.ValidationError(said, validator="maxContains", validator_value=most)


def _once_each(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, list) and wanted:
        # Lists and objects are compared each with each.
        _spend(len(value) ** 2 // 64 if any(isinstance(one, list | dict) for one in value) else 0)
        yield from jsonschema.Draft202012Validator.VALIDATORS["uniqueItems"](validator, wanted, value, schema) or ()
