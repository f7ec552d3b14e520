from __future__ import annotations

import asyncio

import pytest

from metier.errors import Conflict, Invalid, NotFound
from metier.governance.register import ADMITTED, MOVES, Register, Status
from metier.store import Store


async def test_a_registered_system_is_an_idea_that_admits_nothing(store: Store) -> None:
    register = Register(store)
    system = await register.register("Assistant RH", "Répondre aux questions de paie", "Nadia")
    assert system.status == "idea" and system.status not in ADMITTED
    assert await register.get("Assistant RH") == await register.get(system.id) == system
    assert [(a.old_status, a.new_status, a.by_whom) for a in await register.approvals(system.id)] == [
        (None, "idea", "Nadia")
    ]


async def test_approving_records_every_step_with_who_and_why(store: Store) -> None:
    register = Register(store)
    system = await register.register("Tri des e-mails", "Classer les e-mails entrants", "Paul")
    approved = await register.approve(system.id, "Claire (DPO)", "general", "avis du comité")
    assert approved.status == "general"
    moves = await register.approvals(system.id)
    assert [m.new_status for m in moves] == ["idea", "qualified", "pilot", "general"]
    assert {(m.by_whom, m.reason) for m in moves[1:]} == {("Claire (DPO)", "avis du comité")}
    assert await register.approve(system.id, "Claire (DPO)", "general") == approved
    assert len(await register.approvals(system.id)) == 4


async def test_a_suspended_system_can_come_back_and_a_retired_one_cannot(store: Store) -> None:
    register = Register(store)
    system = await register.register("Devis", "Rédiger des devis", "Ana")
    await register.approve(system.id, "Ana")
    assert (await register.suspend(system.id, "Sécurité", "fuite")).status == "suspended"
    assert (await register.approve(system.id, "Ana")).status == "pilot"
    await register.move(system.id, "retired", "Ana")
    with pytest.raises(Conflict, match="cannot become 'pilot'; it may become: nothing"):
        await register.approve(system.id, "Ana")


@pytest.mark.parametrize("start", list(MOVES))
async def test_only_the_moves_of_the_table_are_possible(store: Store, start: Status) -> None:
    register = Register(store)
    routes: dict[Status, tuple[Status, ...]] = {
        "idea": (),
        "qualified": ("qualified",),
        "pilot": ("qualified", "pilot"),
        "general": ("qualified", "pilot", "general"),
        "suspended": ("qualified", "pilot", "suspended"),
        "retired": ("retired",),
    }
    for to in MOVES:
        system = await register.register(f"{start} to {to}", "essai", "x")
        for step in routes[start]:
            await register.move(system.id, step, "x")
        if to in MOVES[start]:
            assert (await register.move(system.id, to, "x")).status == to
        else:
            with pytest.raises(Conflict):
                await register.move(system.id, to, "x")


async def test_two_people_moving_the_same_system_do_not_both_win(store: Store) -> None:
    register = Register(store)
    system = await register.register("Course", "essai", "x")
    done = await asyncio.gather(
        *(register.move(system.id, "qualified", f"p{i}") for i in range(6)), return_exceptions=True
    )
    assert sum(not isinstance(d, BaseException) for d in done) == 1
    assert all(isinstance(d, Conflict) for d in done if isinstance(d, BaseException))
    assert len(await register.approvals(system.id)) == 2


async def test_what_is_missing_taken_or_unknown_is_said(store: Store) -> None:
    register = Register(store)
    with pytest.raises(Invalid, match="needs a purpose"):
        await register.register("A", "  ", "x")
    await register.register("A", "essai", "x")
    with pytest.raises(Conflict, match="already registered"):
        await register.register("A", "essai", "x")
    with pytest.raises(NotFound, match="'B' in the register"):
        await register.get("B")
    with pytest.raises(Invalid, match="who decides"):
        await register.move("A", "qualified", "")
    with pytest.raises(Invalid, match="not 'idea'"):
        await register.approve("A", "x", "idea")
    assert [s.name for s in await register.list()] == ["A"]
    first = await register.get("A")
    assert await register.statuses([first.id, "system_none"]) == {first.id: "idea"}
