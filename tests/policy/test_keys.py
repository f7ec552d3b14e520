from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from metier.calls import KeyId
from metier.errors import Conflict, Invalid, NotAllowed, NotAuthenticated, NotFound, SystemNotApproved, Unavailable
from metier.governance.register import ADMITTED, Register
from metier.policy.keys import Keys, Scopes
from metier.policy.mirror import Mirror
from metier.store import Store
from metier.vault import Vault
from tests.record.world import build


async def test_an_issued_key_is_recognised_and_its_secret_is_nowhere(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    only = Scopes(frozenset({"chat"}))
    issued = await world.keys.issue(
        "poste RH", "Clients", world.principal.system, "Nadia", scopes=only, groups=["rh", "tous"]
    )
    assert issued.secret.startswith(f"sk-mt-{issued.key.id}-") and issued.secret not in repr(issued)
    principal = await world.keys.authenticate(issued.secret)
    assert principal.key_id == issued.key.id and principal.project == world.principal.project
    assert (
        principal.models == frozenset({"chat"}) and principal.groups == {"rh", "tous"} and principal.name == "poste RH"
    )
    async with store.connection() as connection:
        stored = str(await (await connection.execute("SELECT * FROM keys")).fetchall())
    secret = issued.secret.removeprefix(f"sk-mt-{issued.key.id}-")
    assert secret not in stored and secret.encode().hex() not in stored
    assert await world.keys.list() == await world.keys.list(principal.project) == (issued.key,)
    assert await world.keys.list("other") == ()


async def test_what_is_not_exactly_the_key_is_refused(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    issued = await world.keys.issue("k", "Clients", world.principal.system, "Nadia")
    other = await world.keys.issue("l", "Clients", world.principal.system, "Nadia")
    public, secret = issued.key.id, issued.secret.removeprefix(f"sk-mt-{issued.key.id}-")
    wrong = ["", "Bearer", issued.secret[:-1], issued.secret + "x", issued.secret.upper(), issued.secret[6:]]
    wrong += [f"sk-mt-{public}-", f"sk-mt--{secret}", f"sk-mt-{other.key.id}-{secret}", f"sk-mt-é-{secret}"]
    wrong += ["sk-mt-" + "a" * 1000 + "-b", f"sk-mt-{public}-{secret}\0", f"sk-mt-' OR 1=1-{secret}"]
    for presented in wrong:
        with pytest.raises(NotAuthenticated):
            await world.keys.authenticate(presented)
    stranger = Keys(store, Vault(bytes(31) + b"x"), world.register.statuses, ADMITTED)
    with pytest.raises(NotAuthenticated):
        await stranger.authenticate(issued.secret)


async def test_a_revoked_key_stops_within_a_second_everywhere(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    clock = [0.0]
    elsewhere = Keys(store, Vault(bytes(32)), world.register.statuses, ADMITTED, clock=lambda: clock[0])
    issued = await world.keys.issue("k", "Clients", world.principal.system, "Nadia")
    await elsewhere.authenticate(issued.secret)
    await world.keys.authenticate(issued.secret)
    await world.keys.revoke(issued.key.id, "Nadia")
    with pytest.raises(NotAuthenticated, match="was revoked"):
        await world.keys.authenticate(issued.secret)
    clock[0] = 0.99
    await elsewhere.authenticate(issued.secret)
    clock[0] = 1.0
    with pytest.raises(NotAuthenticated, match="was revoked"):
        await elsewhere.authenticate(issued.secret)
    with pytest.raises(NotFound):
        await world.keys.revoke(issued.key.id, "Nadia")
    [key] = await world.keys.list()
    assert key.revoked_at is not None


async def test_refreshing_shows_a_revocation_before_the_second_is_over(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    elsewhere = Keys(store, Vault(bytes(32)), world.register.statuses, ADMITTED, clock=lambda: 0.0)
    issued = await world.keys.issue("k", "Clients", world.principal.system, "Nadia")
    await elsewhere.authenticate(issued.secret)
    await world.keys.revoke(issued.secret, "its holder")
    await elsewhere.refresh()
    with pytest.raises(NotAuthenticated, match="was revoked"):
        await elsewhere.authenticate(issued.secret)


async def test_a_key_expires_even_while_it_is_in_memory(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    now = [datetime.now(UTC).timestamp()]
    keys = Keys(store, Vault(bytes(32)), world.register.statuses, ADMITTED, clock=lambda: 0.0, now=lambda: now[0])
    soon = datetime.fromtimestamp(now[0] + 60, UTC)
    issued = await keys.issue("k", "Clients", world.principal.system, "Nadia", expires_at=soon)
    await keys.authenticate(issued.secret)
    now[0] += 61
    with pytest.raises(NotAuthenticated, match="has expired"):
        await keys.authenticate(issued.secret)
    for moment in (soon, datetime.now() + timedelta(days=1)):
        with pytest.raises(Invalid, match="cannot expire"):
            await keys.issue("k", "Clients", world.principal.system, "Nadia", expires_at=moment)


async def test_a_caller_seen_before_is_found_by_the_public_part_while_the_key_is_good(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    now = [datetime.now(UTC).timestamp()]
    keys = Keys(store, Vault(bytes(32)), world.register.statuses, ADMITTED, now=lambda: now[0])
    soon = datetime.fromtimestamp(now[0] + 60, UTC)
    one = await keys.issue("k", "Clients", world.principal.system, "Nadia", groups=["sav"])
    two = await keys.issue("l", "Clients", world.principal.system, "Nadia", expires_at=soon)
    assert await keys.principal(one.key.id) == await keys.authenticate(one.secret)
    assert (await keys.principal(two.key.id)).name == "l"
    await keys.revoke(one.key.id, "Nadia")
    now[0] += 61
    for key, why in ((one.key.id, "was revoked"), (two.key.id, "has expired"), (KeyId("nobody"), "no key 'nobody'")):
        with pytest.raises(NotAuthenticated, match=why):
            await keys.principal(key)


async def test_no_key_without_an_approved_system_and_a_project(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    idea = await Register(store).register("Idée", "voir", "Paul")
    with pytest.raises(SystemNotApproved, match="'idea'"):
        await world.keys.issue("k", "Clients", idea.id, "Paul")
    with pytest.raises(NotFound, match="system 'system_x'"):
        await world.keys.issue("k", "Clients", "system_x", "Paul")
    with pytest.raises(NotFound, match="project 'Autre'"):
        await world.keys.issue("k", "Autre", world.principal.system, "Paul")
    with pytest.raises(Conflict, match="already exists"):
        await world.keys.create_project("Clients")
    with pytest.raises(Invalid):
        await world.keys.create_project(" ")
    assert [p.name for p in await world.keys.projects()] == ["Clients"]


class Rows:
    """Rows that can be made unreachable."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {"a": 1}
        self.reads = 0
        self.down = False

    async def load(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.reads += 1
        if self.down:
            raise psycopg.OperationalError("gone")
        return {key: self.held[key] for key in keys if key in self.held}


async def test_the_last_known_answer_holds_while_the_database_is_away_and_no_longer_than_the_grace() -> None:
    rows, clock = Rows(), [0.0]
    mirror: Mirror[int] = Mirror(rows.load, clock=lambda: clock[0], grace_s=300)
    assert await mirror.get("a") == 1 and await mirror.get("b") is None and await mirror.get("b") is None
    assert rows.reads == 2, "absence is remembered too"
    rows.down, clock[0] = True, 2.0
    assert [await mirror.get("a") for _ in range(50)] == [1] * 50
    assert rows.reads == 3, "an absent database is not asked by every call"
    with pytest.raises(Unavailable):
        await mirror.get("c")
    await mirror.refresh()
    clock[0] = 301.0
    with pytest.raises(Unavailable):
        await mirror.get("a")
    rows.down, rows.held = False, {}
    assert await mirror.get("a") is None


async def test_a_slow_database_is_waited_for_where_nothing_is_held_and_not_where_something_is() -> None:
    clock, slow = [0.0], asyncio.Event()

    async def load(keys: Sequence[str]) -> Mapping[str, int]:
        await asyncio.sleep(0.05)
        if clock[0]:
            await slow.wait()
        return dict.fromkeys(keys, 1)

    mirror: Mirror[int] = Mirror(load, clock=lambda: clock[0], patience_s=0.01, first_s=60.0)
    assert await mirror.get("a") == 1, "slower than the patience, which is for what is held"
    clock[0] = 2.0
    async with asyncio.timeout(60):
        assert await mirror.get("a") == 1
    assert not slow.is_set()


async def test_a_mirror_stays_small_however_many_names_are_tried() -> None:
    rows, clock = Rows(), [0.0]
    mirror: Mirror[int] = Mirror(rows.load, clock=lambda: clock[0], most=10)
    for n in range(100):
        assert await mirror.get(f"wrong{n}") is None
    before = rows.reads
    await mirror.refresh()
    assert rows.reads == before + 1 and len(vars(mirror)["_held"]) <= 10


async def test_what_an_owner_loses_its_keys_lose_too_and_none_is_issued_with_more(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    keys, system = world.keys, world.principal.system
    wide = await keys.issue("large", "Clients", system, "Nadia", scopes=Scopes(models=frozenset({"chat", "local"})))
    free = await keys.issue("libre", "Clients", system, "Nadia")
    await keys.bound(await keys.organisation("main"), Scopes(models=frozenset({"chat", "autre"})))
    await keys.bound(await keys.project("Clients"), Scopes(models=frozenset({"chat", "local"}), tools=frozenset({"t"})))
    assert (await keys.authenticate(wide.secret)).models == frozenset({"chat"}), "by the organisation"
    one = await keys.authenticate(free.secret)
    assert (one.models, one.tools, one.surfaces) == (frozenset({"chat"}), frozenset({"t"}), None)
    for scopes, word in ((Scopes(models=frozenset({"local"})), "local"), (Scopes(tools=frozenset({"u"})), "tools u")):
        with pytest.raises(NotAllowed, match=word):
            await keys.issue("trop", "Clients", system, "Nadia", scopes=scopes)
    with pytest.raises(Invalid, match="no surface 'fax'"):
        await keys.issue("trop", "Clients", system, "Nadia", scopes=Scopes(surfaces=frozenset({"fax"})))
    await keys.bound(await keys.organisation("main"), Scopes())
    await keys.bound(await keys.project("Clients"), Scopes())
    assert (await keys.authenticate(free.secret)).models is None


async def test_a_rotated_key_takes_the_secret_before_until_its_grace_is_over_and_revoking_ends_both(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    now = [datetime.now(UTC).timestamp()]
    keys = Keys(store, Vault(bytes(32)), world.register.statuses, ADMITTED, now=lambda: now[0])
    issued = await keys.issue("k", "Clients", world.principal.system, "Nadia")
    rotated = await keys.rotate(issued.secret, grace_s=60)
    assert rotated.key.id == issued.key.id and rotated.secret != issued.secret
    assert await keys.authenticate(issued.secret) == await keys.authenticate(rotated.secret)
    now[0] += 61
    await keys.authenticate(rotated.secret)
    with pytest.raises(NotAuthenticated, match="was rotated"):
        await keys.authenticate(issued.secret)
    again = await keys.rotate(issued.key.id, grace_s=3600)
    await keys.revoke(issued.key.id, "Nadia")
    for secret in (rotated.secret, again.secret):
        with pytest.raises(NotAuthenticated, match="was revoked"):
            await keys.authenticate(secret)
    for key, grace_s, error in (
        (issued.key.id, 1.0, NotFound),
        ("nobody", 1.0, NotFound),
        (issued.key.id, -1.0, Invalid),
    ):
        with pytest.raises(error):
            await keys.rotate(key, grace_s)
    with pytest.raises(NotFound):
        await keys.get("nobody")


async def test_a_key_of_some_surfaces_opens_no_other_and_a_door_without_a_name_none(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    only = Scopes(surfaces=frozenset({"chat"}))
    issued = await world.keys.issue("k", "Clients", world.principal.system, "Nadia", scopes=only)
    assert (await world.keys.authenticate(issued.secret, "chat")).surfaces == frozenset({"chat"})
    for surface in ("messages", "admin"):
        with pytest.raises(NotAllowed, match=f"surface '{surface}'"):
            await world.keys.authenticate(issued.secret, surface)
    with pytest.raises(NotAllowed):
        await world.keys.authenticate(issued.secret)
