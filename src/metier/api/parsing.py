"""From the bytes of a request to a checked model of it, with errors that name the parameter at fault."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from metier.calls import JSON
from metier.errors import Invalid, Mistaken
from metier.nesting import DEEPEST, is_deeper, read_deeper

__all__ = ["fit", "load", "refuse_unknown", "shallow"]

_DEEPEST = 64
_Shape = TypeVar("_Shape", bound=BaseModel)


def load(data: bytes) -> dict[str, Any]:
    """Read a JSON object in UTF-8, or refuse with 400."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Mistaken(
            f"the request body is not JSON in UTF-8 ({error.msg} at line {error.lineno}, column {error.colno}): "
            "send one JSON object"
        ) from None
    if not isinstance(value, dict):
        raise Mistaken(f"the request body is a JSON {type(value).__name__}: send one JSON object")
    if read_deeper(data, value):
        raise Mistaken(f"the request body is nested more than {DEEPEST} levels deep: flatten it")
    return value


def fit(shape: type[_Shape], raw: Mapping[str, Any]) -> _Shape:
    """Check `raw` against a model and raise the first fault as OpenAI's clients expect it."""
    try:
        return shape.model_validate(raw)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        param = _path(fault["loc"])
        if fault["type"] == "missing":
            raise Invalid(f"the parameter {param!r} is missing: add it", param=param) from None
        shown = repr(fault["input"])
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
        raise Invalid(f"{param} is {shown}: {fault['msg']}", param=param) from None


def refuse_unknown(
    raw: Mapping[str, Any],
    known: Collection[str],
    ignored: Collection[str],
    neutral: Mapping[str, tuple[JSON, ...]],
) -> None:
    """Refuse by name the first parameter that would not have the effect its sender expects."""
    for name, value in raw.items():
        if name in known or name in ignored or value is None:
            continue
        if name not in neutral:
            raise Invalid(f"the parameter {name[:80]!r} is not supported here: leave it out", param=name[:80])
        # `True == 1` in Python, but not to the one who wrote it.
        if not any(value is good or (value == good and type(value) is not bool) for good in neutral[name]):
            raise Invalid(
                f"{name!r} is only taken as {neutral[name][0]!r} here, which asks for nothing: leave it out",
                param=name,
            )


def shallow(value: JSON, param: str) -> None:
    """Refuse a schema nested so deep that writing it out again would fail further down the road."""
    if is_deeper(value, _DEEPEST):
        raise Invalid(f"{param} is nested more than {_DEEPEST} levels deep: flatten it", param=param)


def _path(loc: tuple[int | str, ...]) -> str:
    """Write a location as messages[0].content, without the names pydantic gives to branches of a union."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier():
            path += f".{part}" if path else part
    for branch in (".str", ".dict"):
        path = path.removesuffix(branch)
    return path
