"""Recorded calls as people look at them: pages, one call, and what is kept, read, erased and deleted of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from metier.errors import NotFound
from metier.record.contents import Contents
from metier.record.erasure import Erasure
from metier.record.keeping import Keepings
from metier.record.ledger import Ledger
from metier.record.retention import Forget, Retention
from metier.record.unusual import Unusual, hours, unusual
from metier.record.usage import KeyUsage, keys
from metier.store import Row, Store
from metier.vault import Vault

__all__ = ["Filter", "Line", "Records"]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls a page shows; None leaves all."""

    project: str | None = None
    system: str | None = None
    key: str | None = None
    model: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    end_user: str | None = None
    """Keyed digest, as `contents.member` gives it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One recorded call in a page."""

    id: str
    at: datetime
    organisation: str
    project: str
    system: str
    key: str
    model: str
    deployment: str | None
    operation: str
    outcome: str
    error_code: str | None
    error_cause: str | None
    """Why it failed: `http_401`, `ECONNREFUSED`, `connect_timeout`; None where nothing is known."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_eur: Decimal
    duration_s: float
    first_token_s: float | None
    tries: int
    cache: str | None
    for_end_user: bool
    """The client said whom it served; only a digest of it is kept."""
    contents: bool
    """What was said is kept, sealed."""


class Records:
    """What happens to calls once they are recorded; made with the ledger, which it has keep contents."""

    def __init__(self, store: Store, vault: Vault, ledger: Ledger, forget: Forget | None = None) -> None:
        self._calls = store.queries("ledger")
        self.contents = Contents(store, vault)
        self.keepings = Keepings(store)
        self.erasure = Erasure(store, vault)
        self.retention = Retention(store, forget)
        ledger.keep(self.contents)

    async def page(self, wanted: Filter, *, after: str | None = None, most: int = 50) -> tuple[Line, ...]:
        """List calls, latest first; the id of the last one asks for the next page."""
        params = {name: getattr(wanted, name) for name in wanted.__slots__}
        rows = await self._calls.all("calls_page", {**params, "after": after, "most": most})
        return tuple(Line(**row) for row in rows)

    async def get(self, call: str) -> Row:
        """Read everything recorded about one call but its contents."""
        row = await self._calls.one("call", {"id": call})
        if row is None:
            raise NotFound(f"there is no recorded call {call!r}: `metier calls list` shows the latest")
        return row

    async def keys(
        self, *, since: date | None = None, until: date | None = None, project: str | None = None
    ) -> tuple[KeyUsage, ...]:
        """Total calls per key, dearest first, on whole days (UTC)."""
        return await keys(self._calls, since=since, until=until, project=project)

    async def unusual(self, now: datetime) -> tuple[Unusual, ...]:
        """Compare the last whole hour with the same hours before; how is said in `metier.record.unusual`."""
        compared = hours(now)
        rows = await self._calls.all("same_hours", {"hours": [*compared.all]})
        firsts = await self._calls.all("first_hours", {"since": min(compared.all)})
        return unusual(compared, rows, firsts)
