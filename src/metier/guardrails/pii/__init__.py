"""Personal data: found by patterns, control keys and names; replaced by placeholders; restored in streams."""

from __future__ import annotations

from metier.guardrails.pii.finding import find
from metier.guardrails.pii.guardrail import PersonalData
from metier.guardrails.pii.hiding import hide
from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.masking import mask
from metier.guardrails.pii.restore import Restore
from metier.guardrails.pii.table import Table

__all__ = ["Found", "Kind", "PersonalData", "Restore", "Table", "find", "hide", "mask"]
