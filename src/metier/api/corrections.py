"""Corrections of drafts over HTTP, and how often two readings agree: for who looks after the runs of the project."""

from __future__ import annotations

from typing import Final, Protocol

import orjson
from starlette.routing import BaseRoute, Route

from metier.api.endpoint import Endpoint
from metier.api.overseeing import overseeing
from metier.api.surface import Door, Surface
from metier.api.transfer import Asking, listed
from metier.calls import JSON, Principal
from metier.errors import Invalid, NotFound
from metier.guardrails.pii import Table, hide
from metier.workflow.context import plain
from metier.workflow.corrections import Correction
from metier.workflow.review import Review

__all__ = ["CorrectionServices", "CorrectionsPages", "correction_routes"]

_SURFACE: Final = "admin"


class CorrectionServices(Protocol):
    """What corrections over HTTP need of the platform."""

    @property
    def keys(self) -> Door:
        """Who is calling."""
        ...

    @property
    def review(self) -> Review:
        """The tasks, with what became of their drafts."""
        ...


def correction_routes(app: CorrectionServices) -> list[BaseRoute]:
    """List the paths of corrections; they take the keys that open the pages of people."""
    keys, made = Surface(app.keys, _SURFACE), CorrectionsPages(app.review)
    return [
        Route("/v1/corrections", Endpoint(keys, made.several, Asking), methods=["GET"]),
        Route("/v1/corrections/{id}", Endpoint(keys, made.one, Asking), methods=["GET"]),
        Route("/v1/agreement", Endpoint(keys, made.agreement, Asking), methods=["GET"]),
    ]


class CorrectionsPages:
    """Answers requests about corrections of the project of the key, to keys of the group admins."""

    def __init__(self, review: Review) -> None:
        self._review = review

    async def several(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/corrections: which drafts of the project people corrected, oldest first, without their contents."""
        overseeing(principal)
        asked = exchange.query("flow", "after", "limit")
        limit = exchange.number(asked, "limit", 20, 100)
        found = await self._review.corrections.list(
            workflow=_name(asked, "flow"), after=_name(asked, "after"), limit=limit + 1, project=principal.project
        )
        await exchange.json(listed([_correction(one) for one in found], limit))

    async def one(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/corrections/{id}: a draft as it was and as it was let go, personal data masked."""
        overseeing(principal)
        exchange.query()
        id = exchange.target
        found = await self._review.corrections.get(id, principal.project) if id.isprintable() else None
        if found is None:
            raise NotFound(f"there is no correction {id[:80]!r} that this key may see: list them to find its id")
        table = Table()
        contents: dict[str, JSON] = {
            "shown": hide(plain(found.shown), table),
            "original": hide(plain(found.original), table),
            "edited": hide(plain(found.edited), table),
        }
        await exchange.json(orjson.dumps({**_correction(found), **contents}))

    async def agreement(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/agreement: by flow and step, how many questions were read twice and how many readings agreed."""
        overseeing(principal)
        asked = exchange.query("flow")
        found = await self._review.agreement(_name(asked, "flow"), principal.project)
        rows: list[dict[str, JSON]] = [
            {
                "id": f"{row['workflow']}/{row['path']}", "object": "agreement", "flow": row["workflow"],
                "path": row["path"], "read_twice": row["twice"], "agreed": row["agreed"],
            }
            for row in found
        ]  # fmt: skip
        await exchange.json(listed(rows, len(rows)))


def _name(asked: dict[str, str], name: str) -> str | None:
    text = asked.get(name)
    if text is not None and not text.isprintable():
        raise Invalid(f"{name} is {text[:60]!r}: write it in letters", param=name)
    return text or None


def _correction(one: Correction) -> dict[str, JSON]:
    return {
        "id": one.id,
        "object": "correction",
        "run": one.run,
        "flow": one.workflow,
        "definition": one.definition,
        "path": one.path,
        "prompt": one.prompt,
        "by": one.by,
        "made_at": one.made_at.isoformat(),
        "expires_at": one.expires_at.isoformat(),
    }
