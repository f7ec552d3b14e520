"""Verified citations as a `code:` function: what a draft cites and states, checked against the extracts offered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

from metier.calls import JSON
from metier.errors import Invalid
from metier.knowledge.analyser import Language
from metier.knowledge.answer import check_citations, cited
from metier.knowledge.blocks import Anchor
from metier.knowledge.retrieve import Extract

__all__ = ["check_draft"]


def check_draft(draft: dict[str, JSON], hits: list[JSON], given: list[JSON], language: str) -> JSON:
    """Check a draft's citations and figures; `given` are further texts that figures may come from."""
    body = draft.get("body")
    if not isinstance(body, str):
        raise Invalid("citations.check needs a draft with a `body` that is text")
    citations = cited(draft.get("citations") or [])
    offered = [_extract(hit) for hit in hits if isinstance(hit, dict)]
    allowed = {f"given {number}": text for number, text in enumerate(given, 1) if isinstance(text, str) and text}
    spoken: Language = "en" if language == "en" else "fr"
    found = check_citations(body, citations, offered, allowed, spoken)
    wrong = {(finding.kind, finding.where) for finding in found.findings}
    verified = sum(
        ("citation unknown", one.id) not in wrong and ("quote not found", one.quote) not in wrong for one in citations
    )
    missing = not citations
    return {
        "ok": found.ok and not missing,
        "cited": len(citations),
        "verified": verified,
        "critique": found.critique(spoken),
        "findings": [cast("JSON", asdict(finding)) for finding in found.findings],
    }


def _extract(hit: Mapping[str, JSON]) -> Extract:
    text = str(hit.get("text", ""))
    return Extract(
        id=str(hit.get("id", "")),
        document=str(hit.get("document", "")),
        title=str(hit.get("title", "")),
        version=None,
        text=text,
        anchor=Anchor(0, len(text)),
    )
