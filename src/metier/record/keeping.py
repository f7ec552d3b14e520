"""What is kept of each system's calls and how long: decisions with a reason, and legal holds, which come first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import psycopg

from metier.calls import new_id
from metier.errors import Invalid, NotFound
from metier.store import Store

__all__ = ["CONTENTS_DAYS", "METADATA_DAYS", "Capture", "Keeping", "Keepings", "LegalHold", "Scope"]

Capture = Literal["none", "masked", "full"]
"""Nothing; what the provider saw, placeholders in place of personal values; what the client saw."""

Scope = Literal["system", "project", "subject", "call"]
"""What a legal hold covers; a subject is the digest of an end user, or a project where none was named."""

CONTENTS_DAYS = 30
"""Days contents are kept where nobody decided otherwise."""

METADATA_DAYS = 365
"""Days the records of calls are kept where nobody decided otherwise; the totals of the hours stay."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What holds for one system, who decided it and why."""

    system: str
    capture: Capture
    contents_days: int
    metadata_days: int
    reason: str
    by_whom: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LegalHold:
    """Calls that may not be deleted until somebody releases them."""

    id: str
    scope: Scope
    target: str
    reason: str
    by_whom: str
    at: datetime
    released_at: datetime | None
    """None while it holds."""
    released_by: str | None


class Keepings:
    """Writes these decisions down; they are rows and not configuration, so that every node obeys within a second."""

    def __init__(self, store: Store) -> None:
        self._queries = store.queries("contents")

    async def decide(
        self,
        system: str,
        by: str,
        reason: str,
        *,
        capture: Capture | None = None,
        contents_days: int | None = None,
        metadata_days: int | None = None,
    ) -> Keeping:
        """Change what is kept of a system's calls; what is not named stays as it was decided before."""
        _reasoned(by, reason, f"changing what is kept of {system!r}")
        before = await self.of(system)
        days = contents_days or (before.contents_days if before else CONTENTS_DAYS)
        longest = metadata_days or (before.metadata_days if before else METADATA_DAYS)
        if not 0 < days <= longest:
            raise Invalid(
                f"contents of {system!r} cannot be kept {days} days and records {longest}: contents go first, after a "
                "day at least",
                param="contents_days",
            )
        params = {
            "system": system,
            "capture": capture or (before.capture if before else "none"),
            "contents_days": days,
            "metadata_days": longest,
            "reason": reason,
            "by_whom": by,
        }
        try:
            row = await self._queries.one("insert_keeping", params)
        except psycopg.errors.ForeignKeyViolation as error:
            raise NotFound(f"there is no system {system!r} in the register: register it first") from error
        assert row is not None
        return Keeping(**row)

    async def of(self, system: str) -> Keeping | None:
        """Give what was decided for one system; None where nobody has, and nothing is captured."""
        row = await self._queries.one("keepings", {"system": system})
        return None if row is None else Keeping(**row)

    async def list(self) -> tuple[Keeping, ...]:
        """Give what holds for every system somebody decided about."""
        return tuple(Keeping(**row) for row in await self._queries.all("keepings", {"system": None}))

    async def hold(self, scope: Scope, target: str, by: str, reason: str) -> LegalHold:
        """Keep calls from being deleted or erased until the hold is released."""
        _reasoned(by, reason, f"holding {scope} {target!r}")
        params = {"id": new_id("hold"), "scope": scope, "target": target, "reason": reason, "by_whom": by}
        row = await self._queries.one("insert_hold", params)
        assert row is not None
        return LegalHold(**row)

    async def release(self, hold: str, by: str) -> LegalHold:
        """End a legal hold; what is due is deleted at the next sweep."""
        row = await self._queries.one("release_hold", {"id": hold, "by_whom": by})
        if row is None:
            raise NotFound(f"there is no legal hold {hold!r} that still stands: `metier calls holds` lists them")
        return LegalHold(**row)

    async def holds(self) -> tuple[LegalHold, ...]:
        """List the legal holds, those that stand first."""
        return tuple(LegalHold(**row) for row in await self._queries.all("legal_holds"))


def _reasoned(by: str, reason: str, what: str) -> None:
    for name, value in (("by", by), ("reason", reason)):
        if not value.strip():
            raise Invalid(f"{what} needs a {'name' if name == 'by' else 'reason'}, got {value!r}", param=name)
