"""Secrets of connectors and triggers: sealed, named per project or organisation, read only by those they are for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from metier.errors import Invalid, NotAllowed, NotFound
from metier.store import Store
from metier.vault import Vault

__all__ = ["ANY", "Named", "Secrets"]

ANY = "*"
"""A scope that lets every connector read."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
_LONGEST = 64_000


@dataclass(frozen=True, slots=True)
class Named:
    """One secret as people see it: everything but its value, which is shown nowhere again."""

    name: str
    organisation: str
    project: str | None
    """The project whose runs may use it; None for every project of the organisation."""
    scope: tuple[str, ...]
    """Connectors and triggers that may read it; "*" stands for every one."""
    set_by: str
    set_at: datetime


class Secrets:
    """Keeps what connectors prove themselves with; a value goes in once and comes out only to a connector."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._queries = store.queries("secrets")
        self._vault = vault

    @classmethod
    def built(cls, store: Store, vault: Vault) -> Secrets:
        """Make the room in one call."""
        return cls(store, vault)

    async def set(
        self,
        name: str,
        value: str,
        *,
        scope: Sequence[str],
        by: str,
        organisation: str = "main",
        project: str | None = None,
    ) -> None:
        """Seal a value under a name, instead of the one before; `scope` names the connectors that may read it."""
        _proper(name)
        if not scope or any(one != ANY and not _NAME.fullmatch(one) for one in scope):
            raise Invalid(f"the secret {name!r} needs the names of the connectors it is for, or '*' for every one")
        if not value or len(value) > _LONGEST or "\x00" in value:
            # The value is never part of a message.
            raise Invalid(f"the value of the secret {name!r} must be text of 1 to {_LONGEST:,} characters")
        row = {
            "organisation": organisation,
            "project": project or "",
            "name": name,
            "scope": sorted(set(scope)),
            "sealed": self._vault.seal("secret", value.encode(), _bound(organisation, project or "", name)),
            "by": by,
        }
        try:
            await self._queries.run("put", row)
        except psycopg.errors.ForeignKeyViolation:
            raise NotFound(f"there is no organisation {organisation!r} to keep the secret {name!r} for") from None

    async def get(self, name: str, connector: str, *, organisation: str = "main", project: str | None = None) -> str:
        """Open a secret for a connector it is for: that of the project, else that of the organisation."""
        given = {"organisation": organisation, "project": project or "", "name": name}
        row = await self._queries.one("get", given)
        if row is None:
            raise NotFound(
                f"{connector!r} needs the secret {name!r}, which is not set for "
                f"{f'project {project!r}' if project else f'organisation {organisation!r}'}: "
                f"metier secret set {name} --for {connector}"
            )
        if ANY not in row["scope"] and connector not in row["scope"]:
            raise NotAllowed(f"the secret {name!r} is not for {connector!r}: set it again with --for {connector}")
        place = _bound(row["organisation"], row["project"], row["name"])
        return self._vault.open("secret", row["sealed"], place).decode()

    async def list(self, organisation: str | None = None) -> tuple[Named, ...]:
        """Give every secret without its value, by name."""
        rows = await self._queries.all("list", {"organisation": organisation})
        return tuple(
            Named(r["name"], r["organisation"], r["project"] or None, tuple(r["scope"]), r["set_by"], r["set_at"])
            for r in rows
        )

    async def remove(self, name: str, *, organisation: str = "main", project: str | None = None) -> None:
        """Delete a secret; connectors that need it fail from then on and say so."""
        given = {"organisation": organisation, "project": project or "", "name": name}
        if not await self._queries.run("remove", given):
            raise NotFound(f"there is no secret {name!r} to remove here: metier secret list shows those there are")


def _proper(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{name[:120]!r} cannot name a secret: use up to 100 of a-z, 0-9, '.', '_' and '-', beginning with a "
            "letter or digit"
        )


def _bound(organisation: str, project: str, name: str) -> str:
    return f"{organisation}\x00{project}\x00{name}"
