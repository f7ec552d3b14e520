"""Checks that every model call passes, on the way in and on the way out."""

from __future__ import annotations

from metier.guardrails.base import Chain, Checked, Guardrail, OutputFilter, Verdict
from metier.guardrails.pii import PersonalData

__all__ = ["Chain", "Checked", "Guardrail", "OutputFilter", "PersonalData", "Verdict"]
