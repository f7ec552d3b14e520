"""How long runs are kept, and how the runs of a person are found and erased."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from psycopg import sql

from metier.calls import JSON, OrganisationId, ProjectId
from metier.errors import ConfigError, Conflict, NotFound
from metier.record.erasure import Target
from metier.store import Store, named_queries
from metier.vault import Vault, member
from metier.workflow.context import utc
from metier.workflow.engine import Engine, StepContext
from metier.workflow.operations import Operations
from metier.workflow.people_found import people_in
from metier.workflow.review import TaskDesk
from metier.workflow.run_retention import RunRetention, RunRules, Swept
from tests.sealing import age, found, proven
from tests.workflow.flows import WHO, Counting, flow, step

WHOM = "Jean.Dupont@exemple.fr"


def target(vault: Vault, name: str) -> Target:
    """Name an end user as an erasure does."""
    return Target("main", person=member(vault, "main", name))


async def told(store: Store, statement: str, *values: object) -> int:
    async with store.connection() as connection:
        return (await connection.execute(statement.encode(), values)).rowcount


async def count(store: Store, table: str) -> int:
    async with store.connection() as connection:
        query = sql.SQL("SELECT count(*) AS n FROM {}").format(sql.Identifier(table))
        row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return int(row["n"])


async def test_runs_are_kept_for_their_time_and_then_go_with_all_they_hold(store: Store, vault: Vault) -> None:
    async def large(context: StepContext, given: dict[str, JSON]) -> JSON:
        return {"text": "".join(f"{n}" for n in range(90_000))}

    engine = Engine(store, vault, {"code": large}, desk=TaskDesk(store, vault))
    config: JSON = {"over": "{{ [1, 2] }}", "max": 2, "as": "runs"}
    each = step("each", "foreach", config, steps=(step("v"),))
    old = await engine.start(flow(step("a"), each, output=1, name="old"), {}, WHO)
    kept = await engine.start(flow(step("ask", "human", {"assign": "group:sav", "title": "?"}), name="open"), {}, WHO)
    await engine.drain()
    await told(store, "UPDATE runs SET finished_at = now() - interval '40 days' WHERE finished_at IS NOT NULL")
    await told(store, "UPDATE blobs SET created_at = now() - interval '2 days'")
    assert await RunRetention(store, vault, RunRules(days=41)).sweep(dry_run=True) is not None
    retention = RunRetention(store, vault, RunRules(days=365, projects={"sales": 90}, flows={"old": 30}))
    planned = await retention.sweep(dry_run=True)
    assert planned is not None
    assert [(one.flow, one.runs) for one in planned.runs] == [("old", 1)]
    assert await count(store, "runs") == 4
    blobs = await count(store, "blobs")
    assert blobs > 0
    swept = await retention.sweep()
    assert swept is not None
    assert (swept.blobs, await count(store, "runs"), await count(store, "blobs")) == (blobs, 1, 0)
    with pytest.raises(NotFound):
        await engine.get(old)
    assert (await engine.get(kept)).status == "parked"


async def test_what_is_under_a_legal_hold_stays(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    operations = Operations(store, vault, engine, None)
    run = await engine.start(flow(step("a"), output=1), {"from": WHOM}, WHO)
    await engine.drain()
    await told(store, "UPDATE runs SET finished_at = now() - interval '40 days'")
    hold = "INSERT INTO legal_holds (id, scope, target, reason, by_whom) VALUES ('h1', %s, %s, 'court', 'zoe')"
    await told(store, hold, "project", "sales")
    swept = await RunRetention(store, vault, RunRules(days=1)).sweep()
    assert swept is not None
    assert swept.runs == ()
    with pytest.raises(Conflict, match="h1"):
        await operations.people.erase(target(vault, WHOM), "zoe", False)
    await told(store, "UPDATE legal_holds SET released_at = now(), scope = 'subject', target = %s", "nobody")
    assert await operations.people.erase(target(vault, WHOM), "zoe", False) == 1
    with pytest.raises(NotFound):
        await engine.get(run)


async def test_a_hold_on_somebody_in_an_item_keeps_all_that_stands_around_it(store: Store, vault: Vault) -> None:
    async def finds(context: StepContext, given: dict[str, JSON]) -> JSON:
        return {"contact": WHOM}

    engine = Engine(store, vault, {"code": finds})
    people = Operations(store, vault, engine, None).people
    config: JSON = {"over": "{{ [1] }}", "max": 1, "as": "runs", "each": 1}
    each = step("each", "foreach", config, steps=(step("v"),))
    await engine.start(flow(each, output=1), {"from": "eve@exemple.fr"}, WHO)
    await engine.drain()
    await people.look()
    await told(store, "UPDATE runs SET finished_at = now() - interval '40 days'")
    hold = "INSERT INTO legal_holds (id, scope, target, reason, by_whom) VALUES ('h1', 'subject', %s, 'court', 'zoe')"
    await told(store, hold, member(vault, "main", WHOM))
    retention = RunRetention(store, vault, RunRules(days=1))
    assert await retention.older("sales", 1) == ()
    assert (await retention.sweep(), await count(store, "runs")) == (Swept((), 0, 0), 2)
    for dry in (True, False):
        with pytest.raises(Conflict, match="h1"):
            await people.erase(target(vault, "eve@exemple.fr"), "zoe", dry)
    await told(store, "UPDATE legal_holds SET released_at = now()")
    assert await people.erase(target(vault, "eve@exemple.fr"), "zoe", False) == 1


async def test_what_is_foreseen_is_deleted_and_what_is_held_is_found_in_one_way(store: Store, vault: Vault) -> None:
    async def finds(context: StepContext, given: dict[str, JSON]) -> JSON:
        return {"contact": given["of"]}

    engine, people = Engine(store, vault, {"code": finds}), ("held@exemple.fr", "free@exemple.fr", "none@exemple.fr")
    config: JSON = {"over": "{{ [inputs.of] }}", "max": 1, "as": "runs", "each": 1}
    each = step("each", "foreach", config, steps=(step("v", with_={"of": "{{ item }}"}),))
    runs = [await engine.start(flow(each, output=1), {"of": one}, WHO) for one in people]
    await engine.drain()
    await Operations(store, vault, engine, None).people.look()
    await told(store, "UPDATE runs SET finished_at = now() - interval '40 days'")
    holds = (("h1", people[0], None), ("h2", people[0], None), ("h3", people[1], utc()))
    hold = """INSERT INTO legal_holds (id, scope, target, reason, by_whom, released_at)
              VALUES (%s, 'subject', %s, 'court', 'zoe', %s)"""
    for id, person, released in holds:
        await told(store, hold, id, member(vault, "main", person), released)
    assert await count(store, "runs_held") == 4, "the run and its item, under each of two holds"
    retention = RunRetention(store, vault, RunRules(days=1))
    foreseen, swept = await retention.sweep(dry_run=True), await retention.sweep()
    assert foreseen is not None and swept is not None
    assert [one.runs for one in foreseen.runs] == [one.runs for one in swept.runs] == [2]
    assert [one.id for one in await engine.list() if one.parent is None] == runs[:1]


async def test_a_run_nobody_can_read_keeps_no_other_from_being_erased(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    people = Operations(store, vault, engine, None).people
    torn, whole = [await engine.start(flow(step("a"), output=1), {"from": WHOM}, WHO) for _ in range(2)]
    await engine.drain()
    await told(store, "UPDATE runs SET inputs = 'torn'::bytea WHERE id = %s", torn)
    await told(store, "DELETE FROM run_people")
    assert await people.erase(target(vault, WHOM), "zoe", False) == 1
    with pytest.raises(NotFound):
        await engine.get(whole)
    assert (await engine.get(torn)).status == "done"


async def test_old_events_go(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {})
    await engine.emit(None, WHO.project, "paid", "7", {}, id="e1")
    await engine.emit(None, WHO.project, "paid", "8", {}, id="e2")
    await told(store, "UPDATE events SET at = now() - interval '91 days' WHERE id = 'e1'")
    swept = await RunRetention(store, vault).sweep()
    assert swept is not None
    assert (swept.events, await count(store, "events")) == (1, 1)


async def test_the_runs_of_a_person_are_found_and_erased(store: Store, vault: Vault) -> None:
    async def finds(context: StepContext, given: dict[str, JSON]) -> JSON:
        return {"contact": f"Madame <{WHOM}>"} if context.path == "look" else {}

    engine = Engine(store, vault, {"code": finds}, desk=TaskDesk(store, vault))
    operations = Operations(store, vault, engine, TaskDesk(store, vault))
    asks = step("ask", "human", {"assign": "group:sav", "title": "?"})
    given = await engine.start(flow(asks, name="one"), {"mail": {"text": f"De: {WHOM}\nBonjour"}}, WHO)
    found = await engine.start(flow(step("look"), output=1, name="two"), {"customer": "C-1234"}, WHO)
    other = await engine.start(flow(step("none"), output=1, name="three"), {"mail": "eve@exemple.fr"}, WHO)
    await engine.drain()
    erase = operations.people.erase
    assert await erase(target(vault, WHOM.lower()), "zoe", True) == 2
    assert await erase(target(vault, "C-1234"), "zoe", True) == 1
    assert await erase(target(vault, "jean.dupont@exemple.com"), "zoe", True) == 0
    assert await erase(Target("main", call="call_1"), "zoe", False) == 0
    assert await erase(target(vault, WHOM), "zoe", False) == 2
    for gone in (given, found):
        with pytest.raises(NotFound):
            await engine.get(gone)
    assert (await engine.get(other)).status == "done"
    assert await count(store, "tasks") == 0


async def test_what_steps_keep_and_events_about_a_person_go_too(store: Store, vault: Vault) -> None:
    async def finds(context: StepContext, given: dict[str, JSON]) -> JSON:
        return {"contact": given["who"]}

    engine = Engine(store, vault, {"code": finds})
    people = Operations(store, vault, engine, None).people
    keeps = flow(step("v", with_={"who": "{{ inputs.who }}"}, cache_s=3600.0), output=1)
    for who in (WHOM, "eve@exemple.fr"):
        await engine.start(keeps, {"who": who}, WHO)
        await engine.emit(None, WHO.project, "paid", "7", {"by": {"mail": who}}, id=f"paid by {who[:4]}")
    await engine.drain()
    await told(store, "DELETE FROM runs")
    assert (await count(store, "kept_results"), await count(store, "events")) == (2, 2)
    assert await people.erase(target(vault, WHOM), "zoe", True) == 0
    assert (await count(store, "kept_results"), await count(store, "events")) == (2, 2)
    assert await people.erase(target(vault, WHOM), "zoe", False, "elsewhere") == 0
    assert (await count(store, "kept_results"), await count(store, "events")) == (1, 2)
    assert await people.erase(target(vault, WHOM), "zoe", False) == 0
    assert (await count(store, "kept_results"), await count(store, "events")) == (1, 1)


async def test_what_steps_keep_for_another_organisation_stays(store: Store, vault: Vault) -> None:
    async def finds(context: StepContext, given: dict[str, JSON]) -> JSON:
        return {"contact": WHOM}

    engine = Engine(store, vault, {"code": finds})
    people = Operations(store, vault, engine, None).people
    keeps = flow(step("v", cache_s=3600.0), output=1)
    for project, organisation in (("sales", "main"), ("theirs", "org_a")):
        whose = replace(WHO, project=ProjectId(project), organisation=OrganisationId(organisation))
        await engine.start(keeps, {}, whose)
    await engine.drain()
    assert await people.erase(target(vault, WHOM), "zoe", False) == 1
    ((sealed, digest),) = await found(store, "kept_results", "sealed", "digest")
    clear = proven(vault, "org_a", "kept", sealed, digest.hex())
    await age(store, "kept_results", "sealed", sealed, vault.seal("kept", clear, digest.hex()))
    assert await people.erase(target(vault, WHOM), "zoe", False) == 0
    assert await count(store, "kept_results") == 0, "of whom it is, nobody knows"


async def test_deleting_runs_takes_time_with_their_number_alone(store: Store) -> None:
    given = {"now": utc(), "days": 1, "flows": "{}", "projects": "{}", "project": None, "most": 10}
    plans = []
    async with store.connection() as connection:
        await connection.execute("SET enable_seqscan = off")
        for name in ("expired_runs", "expire_runs"):
            plans.append(await connection.execute(f"EXPLAIN {named_queries('engine')[name]}".encode(), given))
        for id in ("run_1", "run_2"):
            # What the database does for each run that goes.
            plans.append(await connection.execute("EXPLAIN DELETE FROM ONLY runs WHERE %s = parent", (id,)))
        told = ["\n".join(row["QUERY PLAN"] for row in await plan.fetchall()) for plan in plans]
    assert all("SubPlan" not in plan for plan in told[:2]), "those held are looked through once, not once for each run"
    assert all("runs_parent" in plan for plan in told[2:])


async def test_a_person_in_what_a_run_under_way_has_found_is_found_too(store: Store, vault: Vault) -> None:
    async def finds(context: StepContext, given: dict[str, JSON]) -> JSON:
        return {"contact": WHOM}

    engine = Engine(store, vault, {"code": finds}, desk=TaskDesk(store, vault))
    people = Operations(store, vault, engine, TaskDesk(store, vault)).people
    asks = step("ask", "human", {"assign": "group:sav", "title": "?"})
    parked = await engine.start(flow(step("look"), asks), {}, WHO)
    await engine.drain()
    assert (await engine.get(parked)).status == "parked", "it may wait for months"
    hold = "INSERT INTO legal_holds (id, scope, target, reason, by_whom) VALUES ('h', 'subject', %s, 'suit', 'zoe')"
    await told(store, hold, member(vault, "main", WHOM))
    with pytest.raises(Conflict, match="legal hold"):
        await people.erase(target(vault, WHOM), "zoe", False)
    await told(store, "DELETE FROM legal_holds")
    assert await people.erase(target(vault, WHOM), "zoe", True) == 1
    assert await people.erase(target(vault, WHOM), "zoe", False) == 1
    with pytest.raises(NotFound):
        await engine.get(parked)


async def test_a_run_of_a_run_leads_to_the_one_that_started_it(store: Store, vault: Vault) -> None:
    async def finds(context: StepContext, given: dict[str, JSON]) -> JSON:
        return {"contact": WHOM}

    engine = Engine(store, vault, {"code": finds})
    config: JSON = {"over": "{{ [1, 2] }}", "max": 2, "as": "runs", "each": 1}
    await engine.start(flow(step("each", "foreach", config, steps=(step("v"),)), output=1), {}, WHO)
    await engine.drain()
    assert await Operations(store, vault, engine, None).people.erase(target(vault, WHOM), "zoe", False) == 1
    assert await count(store, "runs") == 0


def test_long_texts_without_addresses_take_no_time(vault: Vault) -> None:
    assert people_in(vault, "main", "A" * 5_000_000, ["@" * 100_000]) == set()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ([], "list"),
        ({"dys": 3}, "dys"),
        ({"days": 0}, "whole number"),
        ({"days": True}, "whole number"),
        ({"flows": {"a": "3d"}}, r"runs\.flows\.a"),
    ],
)
def test_a_section_that_is_wrong_is_refused(section: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RunRules.from_yaml(section)


def test_what_is_left_out_keeps_its_value() -> None:
    assert RunRules.from_yaml({"flows": {"a": 3}}) == RunRules(flows={"a": 3})
    assert RunRules.from_yaml(None) == RunRules()
    assert utc() - timedelta(days=RunRules().days) < utc()
