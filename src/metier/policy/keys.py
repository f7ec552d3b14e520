"""Virtual keys: what callers hold, whose project and system it stands for, and how long."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from metier.calls import KeyId, OrganisationId, Principal, ProjectId, SystemId, new_id
from metier.errors import Conflict, Invalid, NotAllowed, NotAuthenticated, NotFound, SystemNotApproved
from metier.policy.mirror import Mirror
from metier.store import Row, Store
from metier.vault import Vault

__all__ = ["SURFACES", "Issued", "Key", "Keys", "Organisation", "Project", "Scopes"]

SURFACES = frozenset(
    "chat responses embeddings rerank messages batches flows audio images models metrics admin".split()
)
"""Where a key can be allowed or not; "admin" is everything for people: review and console."""

_PREFIX = "sk-mt-"
_PURPOSE = "key"
_LONGEST = 200
_LONGEST_GRACE_S = 90 * 86_400


@dataclass(frozen=True, slots=True)
class Scopes:
    """What a key may do, or the keys of an owner at most; None means everything."""

    models: frozenset[str] | None = None
    """Public model names."""
    surfaces: frozenset[str] | None = None
    """Among SURFACES."""
    tools: frozenset[str] | None = None
    """Names of functions that calls may offer to a model."""

    def under(self, owner: Scopes) -> Scopes:
        """Give what is left of these under an owner: never more than the owner has."""
        return Scopes(
            _both(self.models, owner.models), _both(self.surfaces, owner.surfaces), _both(self.tools, owner.tools)
        )


@dataclass(frozen=True, slots=True)
class Organisation:
    """Owner of projects; nothing of one is visible to another."""

    id: OrganisationId
    name: str
    created_at: datetime
    scopes: Scopes = Scopes()
    """What its keys may do at most."""


@dataclass(frozen=True, slots=True)
class Project:
    """Owner of keys and of a budget."""

    id: ProjectId
    name: str
    organisation: OrganisationId
    created_at: datetime
    scopes: Scopes = Scopes()
    """What its keys may do at most, under what those of its organisation may."""


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
    surfaces: frozenset[str] | None = None
    """Where it may be used; None means everywhere."""
    tools: frozenset[str] | None = None
    """Functions its calls may offer to a model; None means any."""
    rotated_at: datetime | None = None
    before_until: datetime | None = None
    """Until when the secret before the last rotation is taken."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key with its secret, which is shown this once and kept nowhere."""

    key: Key
    secret: str = field(repr=False)
    """What the caller sends, whole: sk-mt-<public>-<secret>."""


@dataclass(frozen=True, slots=True)
class _Held:
    digest: bytes
    before: bytes
    """Digest of the secret before the last rotation; zeros when there is none."""
    before_until: float
    expires_at: float
    revoked: bool
    principal: Principal


class Keys:
    """Issues, rotates, revokes and recognises keys; a revoked key stops working everywhere within a second."""

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
        return Organisation(**_owner(row))

    async def organisation(self, organisation: str) -> Organisation:
        """Find an organisation by its id, or by its name."""
        row = await self._queries.one("get_organisation", {"id": organisation})
        if row is None:
            raise NotFound(
                f"there is no organisation {organisation!r}: make it with `metier key organisation NAME`",
                param="organisation",
            )
        return Organisation(**_owner(row))

    async def organisations(self) -> tuple[Organisation, ...]:
        """List every organisation by name."""
        return tuple(Organisation(**_owner(row)) for row in await self._queries.all("list_organisations"))

    async def create_project(self, name: str, organisation: str = "main") -> Project:
        """Make a project in an organisation (by id or name); it owns keys and a budget."""
        if not name.strip():
            raise Invalid(f"a project needs a name, got {name!r}", param="name")
        owner = await self.organisation(organisation)
        params = {"id": new_id("project"), "name": name, "organisation": owner.id}
        row = await self._queries.one("insert_project", params)
        if row is None:
            raise Conflict(f"a project named {name!r} already exists: choose another name", param="name")
        return Project(**_owner(row))

    async def bound(self, owner: Organisation | Project, scopes: Scopes) -> None:
        """Say what the keys of an owner may do at most, those that exist included, within a second."""
        _known(scopes)
        query = "bound_project" if isinstance(owner, Project) else "bound_organisation"
        await self._queries.one(query, {"id": owner.id, **_lists(scopes)})
        self._mirror.clear()

    async def project(self, project: str) -> Project:
        """Find a project by its id, or by its name."""
        row = await self._queries.one("get_project", {"id": project})
        if row is None:
            raise NotFound(f"there is no project {project!r}: `metier key project` makes one", param="project")
        return Project(**_owner(row))

    async def projects(self) -> tuple[Project, ...]:
        """List every project by name."""
        return tuple(Project(**_owner(row)) for row in await self._queries.all("list_projects"))

    async def issue(
        self,
        name: str,
        project: str,
        system: str,
        by: str,
        *,
        scopes: Scopes | None = None,
        groups: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> Issued:
        """Make a key for an approved system (by id), within what its owners may; its secret is nowhere else."""
        if expires_at is not None and (expires_at.tzinfo is None or expires_at.timestamp() <= self._now()):
            raise Invalid(
                f"a key cannot expire at {expires_at!r}: give a moment to come, with its zone", param="expires_at"
            )
        owner, scopes = await self.project(project), scopes or Scopes()
        await self._within(owner, scopes)
        status = (await self._statuses([system])).get(system)
        if status is None:
            raise NotFound(f"there is no system {system!r} in the register: register it first", param="system")
        if status not in self._admitted:
            raise SystemNotApproved(
                f"no key is issued for the system {system!r}, which is {status!r}: have it approved first, "
                f"`metier system move SYSTEM {' or '.join(sorted(self._admitted, reverse=True))}`"
            )
        public, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        params = {
            "id": public,
            "digest": self._vault.digest(_PURPOSE, secret.encode()),
            "name": name,
            "project": owner.id,
            "system": system,
            **_lists(scopes),
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

    async def get(self, key: str) -> Key:
        """Find a key by its public part, or by the whole key as its holder has it."""
        row = await self._queries.one("get_key", {"id": _public(key)})
        if row is None:
            raise NotFound(f"there is no key {_public(key)!r}: list the keys to see their public parts", param="key")
        return _key(row)

    async def groups(self, name: str, organisation: str) -> frozenset[str]:
        """Give the groups of whoever has a good key of a name, in an organisation, that opens the pages of people."""
        params = {"name": name, "organisation": organisation}
        rows = await self._queries.all("groups_of", params) if name.isprintable() else []
        return frozenset(str(row["name"]) for row in rows)

    async def rotate(self, key: str, grace_s: float = 86_400.0) -> Issued:
        """Give a key another secret; the one before is taken for `grace_s` more, so that nobody is cut off."""
        if not 0 <= grace_s <= _LONGEST_GRACE_S:
            raise Invalid(
                f"a grace of {grace_s!r} s cannot be: give 0 to {_LONGEST_GRACE_S} seconds (90 days)", param="grace"
            )
        public, secret = _public(key), secrets.token_urlsafe(32)
        digest = self._vault.digest(_PURPOSE, secret.encode())
        row = await self._queries.one("rotate_key", {"id": public, "digest": digest, "grace_s": grace_s})
        if row is None:
            raise NotFound(f"there is no good key {public!r} that could be rotated: list the keys to see their state")
        self._mirror.forget(public)
        return Issued(_key(row), f"{_PREFIX}{public}-{secret}")

    async def revoke(self, key: str, by: str) -> None:
        """End a key for good; takes the public part, or the whole key as its holder has it."""
        public = _public(key)
        if await self._queries.one("revoke_key", {"id": public, "by": by}) is None:
            raise NotFound(f"there is no key {public!r} that could be revoked: list the keys to see their public parts")
        self._mirror.forget(public)

    async def authenticate(self, secret: str, surface: str = "admin") -> Principal:
        """Recognise the caller by the key it sent, for one surface, from memory where it was read within a second."""
        public, given = _split(secret)
        held = await self._mirror.get(public)
        # Both digests are compared even for an unknown key, so that the time taken tells nothing.
        digest = self._vault.digest(_PURPOSE, given.encode())
        good = hmac.compare_digest(digest, held.digest if held else bytes(32))
        before = hmac.compare_digest(digest, held.before if held else bytes(32))
        if held is None or not (good or (before and self._now() < held.before_until)):
            raise NotAuthenticated("the key sent is not one of ours, or was rotated: check that it was copied whole")
        principal = self._still_good(held)
        if principal.surfaces is not None and surface not in principal.surfaces:
            raise NotAllowed(
                f"key {public!r} may not be used on the surface {surface!r}, only on "
                f"{', '.join(sorted(principal.surfaces)) or 'none'}: ask its owner to widen it"
            )
        return principal

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

    async def _within(self, owner: Project, scopes: Scopes) -> None:
        """No key is issued with more than its owners have: what it would be denied is not promised."""
        _known(scopes)
        above = owner.scopes.under((await self.organisation(owner.organisation)).scopes)
        for kind in ("models", "surfaces", "tools"):
            asked, most = getattr(scopes, kind), getattr(above, kind)
            beyond = sorted((asked or frozenset()) - most) if most is not None else []
            if beyond:
                raise NotAllowed(
                    f"a key of project {owner.name!r} cannot have the {kind} {', '.join(beyond)}: the project may have "
                    f"{', '.join(sorted(most)) or 'none'}; widen the project first",
                    param=kind,
                )

    async def _load(self, ids: Sequence[str]) -> dict[str, _Held]:
        return {row["id"]: _held(row) for row in await self._queries.all("read_keys", {"ids": [*ids]})}


def _split(secret: str) -> tuple[str, str]:
    public, dash, given = secret[len(_PREFIX) :].partition("-")
    well_formed = secret.startswith(_PREFIX) and public.isalnum() and dash and given
    if not well_formed or not secret.isascii() or len(secret) > _LONGEST:
        raise NotAuthenticated("no key of ours was sent: send `Authorization: Bearer sk-mt-…`")
    return public, given


def _public(key: str) -> str:
    return _split(key)[0] if key.startswith(_PREFIX) else key


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    return other if one is None else one if other is None else one & other


def _known(scopes: Scopes) -> None:
    strange = sorted((scopes.surfaces or frozenset()) - SURFACES)
    if strange:
        known = ", ".join(sorted(SURFACES))
        raise Invalid(f"there is no surface {strange[0]!r}: choose among {known}", param="surfaces")


def _lists(scopes: Scopes) -> dict[str, list[str] | None]:
    return {
        kind: None if names is None else sorted(names)
        for kind, names in (("models", scopes.models), ("surfaces", scopes.surfaces), ("tools", scopes.tools))
    }


def _scopes(row: Row, prefix: str = "") -> Scopes:
    found = (row[f"{prefix}{kind}"] for kind in ("models", "surfaces", "tools"))
    return Scopes(*(None if names is None else frozenset(names) for names in found))


def _owner(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("models", "surfaces", "tools")} | {
        "scopes": _scopes(row)
    }


def _held(row: Row) -> _Held:
    expires: datetime | None = row["expires_at"]
    until: datetime | None = row["before_until"]
    scopes = _scopes(row).under(_scopes(row, "project_")).under(_scopes(row, "organisation_"))
    principal = Principal(
        key_id=KeyId(row["id"]),
        project=ProjectId(row["project"]),
        system=SystemId(row["system"]),
        name=row["name"],
        groups=frozenset(row["groups"]),
        models=scopes.models,
        organisation=OrganisationId(row["organisation"]),
        surfaces=scopes.surfaces,
        tools=scopes.tools,
    )
    return _Held(
        digest=bytes(row["digest"]),
        before=bytes(row["digest_before"] or bytes(32)),
        before_until=0.0 if until is None else until.timestamp(),
        expires_at=float("inf") if expires is None else expires.timestamp(),
        revoked=row["revoked_at"] is not None,
        principal=principal,
    )


def _key(row: Row) -> Key:
    scopes = _scopes(row)
    sets = {"models": scopes.models, "surfaces": scopes.surfaces, "tools": scopes.tools}
    return Key(**{**row, **sets, "groups": frozenset(row["groups"])})
