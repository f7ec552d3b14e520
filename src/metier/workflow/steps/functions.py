"""The pure functions `code:` steps may call: language of a text, the order it speaks of, verified citations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from metier.calls import JSON
from metier.workflow.steps.citations import check_draft
from metier.workflow.steps.code import Code

__all__ = ["FUNCTIONS", "language", "named_order", "questions"]

_WORD = re.compile(r"[^\W\d_]+")
_ORDER = re.compile(r"\b[A-Z]{2,4}-\d{4}-\d{4,6}\b")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_ASKING = re.compile(
    r"\W*(pouvez|pourriez|puis-je|est-ce|comment|combien|quand|quel|o[uù]|je (voudrais|souhaite|demande|veux)|merci de|"
    r"could|can|how|do|does|is|what|when|where|which|i would|i want|would|please)\b",
    re.IGNORECASE,
)
_QUESTIONS = 4
_FRENCH = frozenset(
    "le la les un une des du de et est je vous nous mon ma mes ne pas pour que qui dans sur avec bonjour merci "
    "votre vos ce cette au aux en il elle sont ai suis c'est plus mais ou où être avoir fait sans".split()
)
_ENGLISH = frozenset(
    "the a an of and is i you we my not for that who in on with hello thanks your this to it are have has was "
    "be but or where can would do does from please will if".split()
)


def language(text: str) -> JSON:
    """Tell French, English or other by the frequent small words of each; an empty text has no language."""
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        return {"language": "fr", "empty": True}
    french = sum(word in _FRENCH for word in words) / len(words)
    english = sum(word in _ENGLISH for word in words) / len(words)
    accents = sum(word.isascii() is False for word in words) / len(words)
    if max(french, english) < 0.08 and accents == 0 and len(words) > 6:
        return {"language": "other", "empty": False}
    return {"language": "en" if english > french + accents / 2 else "fr", "empty": False}


def questions(text: str, subject: str = "", topic: str = "") -> JSON:
    """Cut a message into what it asks, for searching: each question, and the topic with the subject."""
    sentences = [part.strip() for part in _SENTENCE.split(text) if part.strip()]
    asked = [part for part in sentences if len(part) > 12 and ("?" in part or _ASKING.match(part))]
    words = f"{topic} {subject}".strip()
    return {"queries": [*asked[:_QUESTIONS], *([words] if words else [])] or [text[:500]]}


def named_order(text: str, orders: list[JSON]) -> JSON:
    """Find the order a message names, or the only one the customer has; its amount is 0 when none is found."""
    known = [order for order in orders if isinstance(order, dict)]
    named = set(_ORDER.findall(text))
    matches = [order for order in known if order.get("number") in named]
    if not matches and not named and len(known) == 1:
        matches = known
    if not matches:
        return {"found": False, "amount_eur": 0, "summary": ""}
    order = matches[0]
    amount = order.get("amount_eur")
    return {
        "found": True,
        "amount_eur": amount if isinstance(amount, int | float) else 0,
        "summary": _summary(order),
    }


def _summary(order: Mapping[str, JSON]) -> str:
    items = order.get("items")
    named = [
        f"{item.get('quantity', 1)} × {item.get('name')} ({item.get('unit_eur')} €)"
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict)
    ]
    return (
        f"{order.get('number')} du {order.get('date')} : {', '.join(named)} ; "
        f"livraison {order.get('delivery_eur', 0)} € ; total {order.get('amount_eur')} € ; {order.get('status')}"
    )


FUNCTIONS: Mapping[str, Code] = {
    "citations.check": cast("Code", check_draft),
    "orders.named": cast("Code", named_order),
    "text.language": cast("Code", language),
    "text.questions": cast("Code", questions),
}
"""Every function a `code:` step may name."""
