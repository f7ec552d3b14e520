"""The pure functions `code:` steps may call: language of a text, the order it speaks of, verified citations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from metier.calls import JSON
from metier.workflow.steps.asked import language, questions
from metier.workflow.steps.citations import check_draft
from metier.workflow.steps.code import Code
from metier.workflow.steps.criteria import check_criteria
from metier.workflow.steps.letter import brief, compose

__all__ = ["FUNCTIONS", "brief", "compose", "language", "named_order", "questions"]

_ORDER = re.compile(r"\b[A-Z]{2,4}-\d{4}-\d{4,6}\b")


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
    "criteria.check": cast("Code", check_criteria),
    "letter.brief": cast("Code", brief),
    "letter.compose": cast("Code", compose),
    "orders.named": cast("Code", named_order),
    "text.language": cast("Code", language),
    "text.questions": cast("Code", questions),
}
"""Every function a `code:` step may name."""
