"""How deep values are nested: what can be read and not be written again is refused where it enters."""

from __future__ import annotations

from typing import Final

from metier.calls import JSON

__all__ = ["DEEPEST", "is_deeper", "read_deeper"]

DEEPEST: Final = 200
"""Levels taken from outside; what is written down with them inside stays below the 254 that can be written."""


def is_deeper(value: JSON, most: int = DEEPEST) -> bool:
    """Say whether a value has more levels than so many, without going down into it by recursion."""
    level: list[JSON] = [value]
    for _ in range(most):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
        ]
        if not level:
            return False
    return True


def read_deeper(data: bytes, value: JSON) -> bool:
    """Say the same of a value as it was just read from bytes, which mostly tell it by themselves."""
    return data.count(b"[") + data.count(b"{") > DEEPEST and is_deeper(value)
