"""Métier: one governed road for every model call, durable workflows for every delegated task."""

from __future__ import annotations

from metier.calls import Answer, Call, Chunk, Message, Principal, Receipt, Tool, ToolCall, Usage
from metier.errors import Broken, MetierError, Mistaken, Refused, Unavailable

__all__ = [
    "Answer",
    "Broken",
    "Call",
    "Chunk",
    "Message",
    "MetierError",
    "Mistaken",
    "Principal",
    "Receipt",
    "Refused",
    "Tool",
    "ToolCall",
    "Unavailable",
    "Usage",
]
