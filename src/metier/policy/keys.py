"""Virtual keys: what callers hold, whose project and system it stands for, and how long."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from metier.calls import KeyId, OrganisationId, Principal, ProjectId, SystemId, new_id
from metier.errors import Conflict, Invalid, NotAuthenticated, NotFound, SystemNotApproved
from metier.policy.mirror import Mirror
from metier.store import Row, Store
from metier.vault import Vault

__all__ = ["Issued", "Key", "Keys", "Organisation", "Project"]

_PREFIX = "sk-mt-"
_PURPOSE = "key"
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Organisation:
    """Owner of projects; nothing of one is visible to another."""

    id: OrganisationId
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Project:
    """Owner of keys and of a budget."""

    id: ProjectId
    name: str
    organisation: OrganisationId
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """A key as people see it: everything but its secret."""

    id: KeyId
    """Public part; it may appear in logs and rules."""
    name: str
    project: ProjectId
    system: SystemId
    models: frozenset[str] | None
    """Model names it may use; None means all."""
    groups: frozenset[str]
    """Groups whose documents it may read."""
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key with its secret, which is shown this once and kept nowhere."""

    key: Key
    secret: str = field(repr=False)
    """What the caller sends, whole: sk-mt-<public>-<secret>."""


@dataclass(frozen=True, slots=True)
class _Held:
    digest: bytes
    expires_at: float
    revoked: bool
    principal: Principal


class Keys:
    """Issues, lists, revokes and recognises keys; a revoked key stops working everywhere within a second."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        statuses: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]],
        admitted: frozenset[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._queries = store.queries("keys")
        self._vault = vault
        self._statuses = statuses
        self._admitted = admitted
        self._now = now
        self._mirror: Mirror[_Held] = Mirror(self._load, clock=clock)

    async def create_organisation(self, name: str) -> Organisation:
        """Make an organisation, which owns projects."""
        if not name.strip():
            raise Invalid(f"an organisation needs a name, got {name!r}", param="name")
        row = await self._queries.one("insert_organisation", {"id": new_id("org"), "name": name})
        if row is None:
            raise Conflict(f"an organisation named {name!r} already exists: choose another name", param="name")
        return Organisation(**row)

    async def organisation(self, organisation: str) -> Organisation:
        """Find an organisation by its id, or by its name."""
        row = await self._queries.one("get_organisation", {"id": organisation})
        if row is None:
            raise NotFound(f"there is no organisation {organisation!r}: create it first", param="organisation")
        return Organisation(**row)

    async def organisations(self) -> tuple[Organisation, ...]:
        """List every organisation by name."""
        return tuple(Organisation(**row) for row in await self._queries.all("list_organisations"))

    async def create_project(self, name: str, organisation: str = "main") -> Project:
        """Make a project in an organisation (by id or name); it owns keys and a budget."""
        if not name.strip():
            raise Invalid(f"a project needs a name, got {name!r}", param="name")
        owner = await self.organisation(organisation)
        params = {"id": new_id("project"), "name": name, "organisation": owner.id}
        row = await self._queries.one("insert_project", params)
        if row is None:
            raise Conflict(f"a project named {name!r} already exists: choose another name", param="name")
        return Project(**row)

    async def project(self, project: str) -> Project:
        """Find a project by its id, or by its name."""
        row = await self._queries.one("get_project", {"id": project})
        if row is None:
            raise NotFound(f"there is no project {project!r}: create it first", param="project")
        return Project(**row)

    async def projects(self) -> tuple[Project, ...]:
        """List every project by name."""
        return tuple(Project(**row) for row in await self._queries.all("list_projects"))

    async def issue(
        self,
        name: str,
        project: str,
        system: str,
        by: str,
        *,
        models: Sequence[str] | None = None,
        groups: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> Issued:
        """Make a key for an approved system (by id); its secret is in the answer and nowhere else."""
        if expires_at is not None and (expires_at.tzinfo is None or expires_at.timestamp() <= self._now()):
            raise Invalid(
                f"a key cannot expire at {expires_at!r}: give a moment to come, with its zone", param="expires_at"
            )
        owner = await self.project(project)
        status = (await self._statuses([system])).get(system)
        if status is None:
            raise NotFound(f"there is no system {system!r} in the register: register it first", param="system")
        if status not in self._admitted:
            raise SystemNotApproved(
                f"no key is issued for the system {system!r}, which is {status!r}: have it approved first "
                f"({' or '.join(sorted(self._admitted))})"
            )
        public, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        params = {
            "id": public,
            "digest": self._vault.digest(_PURPOSE, secret.encode()),
            "name": name,
            "project": owner.id,
            "system": system,
            "models": None if models is None else [*models],
            "groups": [*groups],
            "created_by": by,
            "expires_at": expires_at,
        }
        row = await self._queries.one("insert_key", params)
        assert row is not None
        return Issued(_key(row), f"{_PREFIX}{public}-{secret}")

    async def list(self, project: str | None = None) -> tuple[Key, ...]:
        """List the keys of a project, or of all, newest first, revoked ones included."""
        return tuple(_key(row) for row in await self._queries.all("list_keys", {"project": project}))

    async def revoke(self, key: str, by: str) -> None:
        """End a key for good; takes the public part, or the whole key as its holder has it."""
        public = _split(key)[0] if key.startswith(_PREFIX) else key
        if await self._queries.one("revoke_key", {"id": public, "by": by}) is None:
            raise NotFound(f"there is no key {public!r} that could be revoked: list the keys to see their public parts")
        self._mirror.forget(public)

    async def authenticate(self, secret: str) -> Principal:
        """Recognise the caller by the key it sent, from memory where it was read within a second."""
        public, given = _split(secret)
        held = await self._mirror.get(public)
        # The digest is compared even for an unknown key, so that the time taken tells nothing.
        digest = self._vault.digest(_PURPOSE, given.encode())
        good = hmac.compare_digest(digest, held.digest if held else bytes(32))
        if held is None or not good:
            raise NotAuthenticated("the key sent is not one of ours: check that it was copied whole")
        return self._still_good(held)

    async def principal(self, key: KeyId) -> Principal:
        """Give the caller behind the public part of a key that showed its secret before, while the key is good."""
        held = await self._mirror.get(key)
        if held is None:
            raise NotAuthenticated(f"there is no key {key!r} any more: sign in with another")
        return self._still_good(held)

    async def refresh(self) -> None:
        """Re-read the keys in use; called twice a second, it keeps the database off the road of calls."""
        await self._mirror.refresh()

    def _still_good(self, held: _Held) -> Principal:
        public = held.principal.key_id
        if held.revoked:
            raise NotAuthenticated(f"the key {public!r} was revoked: ask its owner for a new one")
        if held.expires_at <= self._now():
            raise NotAuthenticated(f"the key {public!r} has expired: ask its owner for a new one")
        return held.principal

    async def _load(self, ids: Sequence[str]) -> dict[str, _Held]:
        return {row["id"]: _held(row) for row in await self._queries.all("read_keys", {"ids": [*ids]})}


def _split(secret: str) -> tuple[str, str]:
    public, dash, given = secret[len(_PREFIX) :].partition("-")
    well_formed = secret.startswith(_PREFIX) and public.isalnum() and dash and given
    if not well_formed or not secret.isascii() or len(secret) > _LONGEST:
        raise NotAuthenticated("no key of ours was sent: send `Authorization: Bearer sk-mt-…`")
    return public, given


def _held(row: Row) -> _Held:
    expires: datetime | None = row["expires_at"]
    principal = Principal(
        key_id=KeyId(row["id"]),
        project=ProjectId(row["project"]),
        system=SystemId(row["system"]),
        name=row["name"],
        groups=frozenset(row["groups"]),
        models=None if row["models"] is None else frozenset(row["models"]),
        organisation=OrganisationId(row["organisation"]),
    )
    return _Held(
        digest=bytes(row["digest"]),
        expires_at=float("inf") if expires is None else expires.timestamp(),
        revoked=row["revoked_at"] is not None,
        principal=principal,
    )


def _key(row: Row) -> Key:
    sets = {"models": None if row["models"] is None else frozenset(row["models"]), "groups": frozenset(row["groups"])}
    return Key(**{**row, **sets})
