"""Which flows start by themselves: what is deployed, in whose name, paused or not, and what their sources say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from metier.calls import JSON, KeyId, Principal, ProjectId, new_id
from metier.errors import Broken, Invalid, NotFound
from metier.store import Row, Store, Tx
from metier.triggers.event import Kind
from metier.workflow import cel
from metier.workflow.context import Clock, utc
from metier.workflow.definition import from_data, to_data
from metier.workflow.shape import Trigger, TriggerKind, Workflow

__all__ = ["Deployed", "Deployments", "likeness"]

_FLOWS_KEPT = 64


@dataclass(frozen=True, slots=True)
class Deployed:
    """One trigger of a deployed flow, as people and sources look at it."""

    id: str
    project: ProjectId
    organisation: str
    """Whose the project is."""
    flow: str
    kind: TriggerKind
    config: Mapping[str, JSON]
    with_: Mapping[str, JSON]
    dedupe: str | None
    when: str | None
    key_id: KeyId
    """Runs are started in its name."""
    definition: str
    """Hash of the definition runs are started with."""
    enabled: bool
    revision: int
    state: JSON
    holder: str | None
    """The process whose source runs; None where nobody has to, or nobody does."""
    epoch: int
    failures: int
    error: str | None
    """Why its source failed last."""
    retry_at: datetime | None
    taken: int
    """Events so far."""
    last_at: datetime | None
    made_at: datetime
    letters: int
    """Events that became no run and wait for somebody."""


class Deployments:
    """Keeps what is deployed; the definition of a flow is read once and kept while it is the one in force."""

    def __init__(self, store: Store, kinds: Mapping[TriggerKind, Kind], clock: Clock = utc) -> None:
        self._store = store
        self._queries = store.queries("triggers")
        self._kinds = kinds
        self._clock = clock
        self._flows: dict[str, Workflow] = {}

    def check(self, workflow: Workflow) -> None:
        """Refuse a workflow whose triggers cannot work, naming the place in its file."""
        if not workflow.triggers:
            raise Invalid(f"{workflow.name!r} has no triggers: write some under `triggers:`, then deploy it")
        seen: set[str] = set()
        for trigger in workflow.triggers:
            try:
                self._check(workflow, trigger)
                if (like := likeness(trigger)) in seen:
                    raise Invalid(f"there are two {trigger.kind} triggers alike: keep one")
                seen.add(like)
            except Invalid as wrong:
                raise Invalid(f"{trigger.mark}: {wrong.message}", param=wrong.param) from None

    def _check(self, workflow: Workflow, trigger: Trigger) -> None:
        kind = self._kinds.get(trigger.kind)
        if kind is None:
            raise Invalid(f"there is no trigger of the kind {trigger.kind!r} here")
        kind.check(trigger.config)
        for expression in (trigger.dedupe, trigger.when):
            if expression is not None:
                cel.parse(expression)
        for _, text in cel.expressions_in(dict(trigger.with_)):
            cel.parse(text)
        properties = workflow.inputs.get("properties")
        if isinstance(properties, dict):
            for name in trigger.with_:
                if name not in properties:
                    raise Invalid(f"`with` gives {name!r}, which is no input of {workflow.name!r}")

    async def deploy(self, workflow: Workflow, principal: Principal, by: str) -> list[Deployed]:
        """Let a flow start by itself from now on; what is alike keeps its state, what is gone ends."""
        self.check(workflow)
        row = {
            "project": principal.project,
            "flow": workflow.name,
            "key_id": principal.key_id,
            "definition": workflow.hash,
            "data": orjson.dumps(to_data(workflow)).decode(),
            "by": by,
            "now": self._clock(),
        }
        async with self._store.transaction() as tx:
            await self._queries.run("put_flow", row, tx)
            for trigger in workflow.triggers:
                await self._queries.one("put", {**row, "id": new_id("trg"), **_spec(trigger)}, tx)
            kept = [likeness(trigger) for trigger in workflow.triggers]
            await self._queries.run("drop_others", {**row, "likenesses": kept}, tx)
        return await self.list(project=principal.project, flow=workflow.name)

    async def list(
        self, *, project: str | None = None, flow: str | None = None, kind: TriggerKind | None = None
    ) -> list[Deployed]:
        """Give triggers by project and flow; names come from addresses, and no database takes every character."""
        if not (flow or "").isprintable():
            return []
        found = await self._queries.all("list", {"project": project, "flow": flow, "kind": kind, "id": None})
        return [_deployed(row) for row in found]

    async def get(self, id: str) -> Deployed:
        """Give one trigger."""
        named = {"project": None, "flow": None, "kind": None, "id": id}
        row = await self._queries.one("list", named) if id.isprintable() else None
        if row is None:
            raise NotFound(f"there is no trigger {id[:80]!r}: metier triggers list shows those there are")
        return _deployed(row)

    async def enable(self, id: str, enabled: bool) -> Deployed:
        """Pause a trigger, or let it go on."""
        await self._queries.run("enable", {"id": id, "enabled": enabled})
        return await self.get(id)

    async def remove(self, project: str, flow: str) -> None:
        """Let a flow no longer start by itself; its runs stay."""
        if not await self._queries.run("remove_flow", {"project": project, "flow": flow}):
            raise NotFound(f"{flow!r} is not deployed in {project!r}: metier triggers list shows what is")

    async def workflow(self, trigger: Deployed, tx: Tx | None = None) -> Workflow:
        """Give the definition the runs of a trigger are started with."""
        known = self._flows.get(trigger.definition)
        if known is not None:
            return known
        given = {"project": trigger.project, "flow": trigger.flow, "definition": trigger.definition}
        row = await self._queries.one("data", given, tx)
        if row is None:
            raise NotFound(f"{trigger.flow!r} was deployed anew or removed in {trigger.project!r}: look at it again")
        data: dict[str, Any] = orjson.loads(row["data"])
        if len(self._flows) >= _FLOWS_KEPT:
            self._flows.clear()
        self._flows[trigger.definition] = found = from_data(data)
        if found.name != trigger.flow:
            raise Broken(f"what is deployed as {trigger.flow!r} is {found.name!r}: deploy it again")
        return found


def likeness(trigger: Trigger) -> str:
    """Give what makes two triggers of a flow the same one: their kind and config."""
    told = orjson.dumps([trigger.kind, dict(trigger.config)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(told).hexdigest()[:32]


def _spec(trigger: Trigger) -> dict[str, object]:
    parts = {
        "config": dict(trigger.config),
        "with": dict(trigger.with_),
        "dedupe": trigger.dedupe,
        "when": trigger.when,
    }
    return {"kind": trigger.kind, "likeness": likeness(trigger), "spec": orjson.dumps(parts).decode()}


def _deployed(row: Row) -> Deployed:
    spec = row["spec"]
    fields = {name: value for name, value in row.items() if name not in ("spec", "held")}
    fields["holder"] = row["holder"] if row["held"] else None
    return Deployed(**fields, config=spec["config"], with_=spec["with"], dedupe=spec["dedupe"], when=spec["when"])
