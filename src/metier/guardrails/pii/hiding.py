"""Hides personal data from people who look at values: every text of a JSON value, by the placeholders models see."""

from __future__ import annotations

from metier.calls import JSON
from metier.guardrails.pii.masking import mask
from metier.guardrails.pii.table import Table

__all__ = ["hide"]


def hide(value: JSON, table: Table) -> JSON:
    """Give the value with placeholders in the place of personal data; one table keeps them the same throughout."""
    if isinstance(value, str):
        return mask(value, table)[0]
    if isinstance(value, list):
        return [hide(item, table) for item in value]
    if isinstance(value, dict):
        # Names of fields are left alone: what may name a person has a space, a dot or a sign in it.
        return {key if key.isidentifier() else mask(key, table)[0]: hide(item, table) for key, item in value.items()}
    return value
