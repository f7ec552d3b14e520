"""What was probably meant by an expression that is not CEL: the end of the message that refuses it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from metier.workflow.functions import FUNCTIONS

__all__ = ["meant", "nearest", "shown"]

_SHOWN_MAX = 160
_MEANT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile("[“”‘’«»]"), "write straight quotes, ' or \""),
    (re.compile(r"={1,2}\0=|\0=(?!=)|\0is\b|\bis \0"), "write == to compare"),
    (re.compile(r"<\0>|\0<>"), "write != for what differs"),
    (re.compile(r"\0and\b|(?<!&)&\0|\0&(?!&)", re.IGNORECASE), "write && between conditions"),
    (re.compile(r"\0or\b", re.IGNORECASE), "write || between conditions"),
    (re.compile(r"\bnot \0|\0not\b", re.IGNORECASE), "write ! before a condition, such as !(a in b)"),
    (re.compile(r"(?<!\|)\|\0|\0\|(?!\|)"), "write lower(x) for a filter, || between conditions"),
    (re.compile(r"\0(?:if|else)\b|\b(?:if|else) \0"), "write condition ? one : other"),
    (re.compile(r"\A[^?:]*\?[^?:]*\0[^?:]*\Z"), "write condition ? one : other"),
    (re.compile(r"\{\0?\{|\}\0?\}"), "write it without the double braces"),
)
"""What people write who know other languages, at the place (NUL) where it cannot be read."""
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_UNFINISHED = re.compile(r"[-+*/%<>=!&|.,?:]\s*\Z|\bin\s*\Z")
_ELSEWHERE: Mapping[str, str] = {
    "len": "size",
    "length": "size",
    "count": "size",
    "str": "string",
    "float": "double",
    "strip": "trim",
    "includes": "contains",
    "toLowerCase": "lower",
    "lowerAscii": "lower",
    "toUpperCase": "upper",
    "upperAscii": "upper",
}


def shown(expr: str, at: int) -> str:
    """Quote an expression; of a long one, what stands around the character."""
    if len(expr) <= _SHOWN_MAX:
        return repr(expr)
    start = max(0, min(at - _SHOWN_MAX // 2, len(expr) - _SHOWN_MAX))
    before, after = "…" if start else "", "…" if start + _SHOWN_MAX < len(expr) else ""
    return repr(f"{before}{expr[start : start + _SHOWN_MAX]}{after}")


def meant(expr: str, at: int) -> str:
    """Say how CEL writes what stands where an expression could not be read, where other languages write it so."""
    if not expr.strip():
        return "; write an expression, such as inputs.text"
    before, after = expr[:at], expr[at:]
    for pattern, mend in _MEANT:
        if pattern.search(before + "\0" + after):
            return f"; {mend}"
    if (open_ := _open(expr)) is not None:
        return f"; the bracket at character {open_ + 1} is never closed"
    return "; something is missing at its end" if _UNFINISHED.search(expr) else ""


def _open(expr: str) -> int | None:
    """Find the last bracket that is opened and not closed, outside of strings."""
    opened: list[int] = []
    for position, character in enumerate(_STRING.sub(lambda found: "'" * len(found[0]), expr)):
        if character in "([{":
            opened.append(position)
        elif character in ")]}" and opened:
            opened.pop()
    return opened[-1] if opened else None


def nearest(name: str, macros: Collection[str]) -> str:
    """Say which function was meant by a name there is none of."""
    if name in ("now", "today", "random", "uuid"):
        return "; an expression always gives the same: take it from an input, or from the event of a trigger"
    if name in _ELSEWHERE:
        return f"; did you mean {_ELSEWHERE[name]!r}?"
    close = difflib.get_close_matches(name[:60], FUNCTIONS, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; {name} is written list.{name}(x, …)" if name in macros else "; the reference lists those there are"
