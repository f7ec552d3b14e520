"""From an event to exactly one run: recognised, judged, turned into inputs, started, and only then noted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias, runtime_checkable

import orjson

from metier.calls import JSON, KeyId, Principal, RunId, new_id
from metier.errors import Conflict, Invalid, NotFound
from metier.store import Row, Store
from metier.triggers.askers import Askers
from metier.triggers.deployment import Deployed, Deployments
from metier.triggers.event import Event, Taken
from metier.vault import Vault
from metier.workflow.context import Clock, utc
from metier.workflow.definition import accept
from metier.workflow.expressions import Expressions
from metier.workflow.shape import Workflow

__all__ = ["Intake", "Letter", "Preview", "Starter", "Versioned", "Who"]

_PURPOSE = "trigger"
_DAYS = 400

Who: TypeAlias = Callable[[KeyId], Awaitable[Principal]]
"""Gives the caller behind a key, or raises when it may call no more."""


class Starter(Protocol):
    """What starts runs: the same cause gives the run it has already started."""

    async def start(
        self, workflow: Workflow, inputs: Mapping[str, JSON], principal: Principal, *, dedupe: str | None = None
    ) -> RunId:
        """Start a run, pinned to this definition."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """A starter that follows releases, of which pilots are told by who asks and not by whom the run works for."""

    async def start_for(
        self, asker: Principal, workflow: Workflow, inputs: Mapping[str, JSON], principal: Principal, *, dedupe: str
    ) -> RunId:
        """Start a run with the version released to whoever asked; it works under the key of `principal`."""
        ...


@dataclass(frozen=True, slots=True)
class Preview:
    """What an event would start."""

    holds: bool
    """Whether `when` holds, or there is none."""
    inputs: Mapping[str, JSON]
    cause: str
    """What makes the event the same again: its id, or what `dedupe` gave."""


@dataclass(frozen=True, slots=True)
class Letter:
    """An event that became no run, kept until somebody has mended the cause."""

    id: str
    trigger: str
    project: str
    flow: str
    kind: str
    data: Mapping[str, JSON]
    cause: str
    """What makes the event the same again."""
    fault: str
    """Why no retry helps: only another event does."""
    error: str
    tries: int
    at: datetime


class Intake:
    """Turns events into runs; any process may take the same event at any time, and one run comes of it."""

    def __init__(
        self, store: Store, vault: Vault, starter: Starter, who: Who, deployments: Deployments, clock: Clock = utc
    ) -> None:
        self._store = store
        self._queries = store.queries("triggers")
        self._vault = vault
        self._starter = starter
        self._who = who
        self._deployments = deployments
        self._clock = clock
        self._askers = Askers(store, clock)
        self._expressions = Expressions()

    async def preview(self, trigger: Deployed, event: Event) -> Preview:
        """Say what an event would start, and start nothing; Invalid says why it would not."""
        return self._judged(trigger, event, await self._deployments.workflow(trigger))

    async def take(self, trigger: Deployed, event: Event) -> Taken:
        """Start the run of an event, or find that it has one; other failures than its own are raised."""
        try:
            cause = self._cause(trigger, event)
        except Invalid as wrong:
            # What cannot be read lacks what `dedupe` looks for: the first cause is told.
            return await self._fail(trigger, event, event.id, event.fault or wrong.message)
        known = await self._known(trigger, event, cause)
        if known is not None:
            return known
        if event.fault:
            return await self._fail(trigger, event, cause, event.fault)
        workflow = await self._deployments.workflow(trigger)
        try:
            judged = self._judged(trigger, event, workflow)
            if not judged.holds:
                await self._note(trigger, event, cause, Taken("skipped"))
                return Taken("skipped")
            run = await self._start(trigger, workflow, judged, event.asker)
        except Invalid as wrong:
            return await self._fail(trigger, event, cause, wrong.message)
        taken = Taken("started", run)
        await self._note(trigger, event, cause, taken)
        return taken

    async def letters(self, project: str | None = None, id: str | None = None, limit: int = 100) -> list[Letter]:
        """Give events that became no run, oldest first."""
        rows = await self._queries.all("letters", {"id": id, "project": project, "limit": limit})
        return [self._letter(row) for row in rows]

    async def retry(self, id: str) -> Taken:
        """Take a dead letter again, with the definition and the trigger as they are now."""
        row = await self._queries.one("letters", {"id": id, "project": None, "limit": 1})
        if row is None:
            raise NotFound(f"there is no failed event {id[:80]!r}: metier triggers failed shows those there are")
        letter = self._letter(row)
        trigger = await self._deployments.get(letter.trigger)
        event = Event(letter.cause, letter.data, fault=letter.fault)
        workflow = await self._deployments.workflow(trigger)
        try:
            judged = self._judged(trigger, event, workflow)
            run = await self._start(trigger, workflow, judged) if judged.holds else None
        except Invalid as wrong:
            error = self._vault.seal(_PURPOSE, wrong.message.encode(), f"{id}/error", trigger.organisation)
            await self._queries.run("tried", {"id": id, "error": error})
            return Taken("failed", error=wrong.message)
        taken = Taken("started", run) if run else Taken("skipped")
        async with self._store.transaction() as tx:
            mended = {"trigger": trigger.id, "event": row["event"], "outcome": taken.outcome, "run": taken.run}
            await self._queries.run("mend", mended, tx)
            await self._queries.run("drop_letter", {"id": id}, tx)
        return taken

    async def drop(self, id: str) -> None:
        """Give up a dead letter; the event is not taken again."""
        if not await self._queries.run("drop_letter", {"id": id}):
            raise NotFound(f"there is no failed event {id[:80]!r}: metier triggers failed shows those there are")

    async def forget(self) -> int:
        """Delete what is known of events older than any source brings again, and who asked for runs that are gone."""
        await self._queries.run("forget_askers")
        return await self._queries.run("forget", {"days": _DAYS})

    def _judged(self, trigger: Deployed, event: Event, workflow: Workflow) -> Preview:
        if event.fault:
            raise Invalid(event.fault)
        cause = self._cause(trigger, event)
        scope: dict[str, JSON] = {"event": dict(event.data)}
        if trigger.when is not None and not self._expressions.holds(trigger.when, scope):
            return Preview(False, {}, cause)
        if trigger.with_:
            given = self._expressions.render(dict(trigger.with_), scope)
        else:
            properties = workflow.inputs.get("properties")
            named = properties if isinstance(properties, dict) else event.data
            given = {name: value for name, value in event.data.items() if name in named}
        return Preview(True, accept(workflow, given), cause)

    def _cause(self, trigger: Deployed, event: Event) -> str:
        if trigger.dedupe is None:
            return event.id
        value = self._expressions.evaluate(trigger.dedupe, {"event": dict(event.data)})
        if value is None or value == "":
            raise Invalid(f"dedupe {trigger.dedupe!r} gave nothing: the event cannot be told from others")
        return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()

    async def _start(
        self, trigger: Deployed, workflow: Workflow, judged: Preview, asker: Principal | None = None
    ) -> RunId:
        principal = await self._who(trigger.key_id)
        # A digest: what a sender wrote, such as an id of a message, is not kept in the clear.
        dedupe = f"{trigger.kind}:{self._digest(judged.cause).hex()}"
        if asker is not None:
            await self._askers.note(asker, principal.project, workflow.name, dedupe)
        if asker is not None and isinstance(self._starter, Versioned):
            return await self._starter.start_for(asker, workflow, judged.inputs, principal, dedupe=dedupe)
        return await self._starter.start(workflow, judged.inputs, principal, dedupe=dedupe)

    async def _known(self, trigger: Deployed, event: Event, cause: str) -> Taken | None:
        row = await self._queries.one("known", {"trigger": trigger.id, "event": self._digest(cause)})
        if row is None:
            return None
        if event.content and row["content"] is not None and bytes(row["content"]) != self._content(event):
            raise Conflict(f"another event was sent to trigger {trigger.id!r} under the same id: give each its own")
        error = "it failed before: metier triggers failed shows why" if row["outcome"] == "failed" else ""
        return Taken("known", row["run"], error)

    async def _note(self, trigger: Deployed, event: Event, cause: str, taken: Taken) -> bool:
        row = {
            "trigger": trigger.id,
            "event": self._digest(cause),
            "outcome": taken.outcome,
            "run": taken.run,
            "content": self._content(event),
            "now": self._clock(),
        }
        async with self._store.transaction() as tx:
            made = await self._queries.run("note", row, tx)
            if not made:
                return False
            await self._queries.run("count", {"trigger": trigger.id, "now": row["now"]}, tx)
            if taken.outcome == "failed":
                id = new_id("let")
                whole = {"data": dict(event.data), "cause": cause, "fault": event.fault}
                data = self._vault.seal(_PURPOSE, orjson.dumps(whole), f"{id}/data", trigger.organisation)
                error = self._vault.seal(_PURPOSE, taken.error.encode(), f"{id}/error", trigger.organisation)
                await self._queries.run("keep_letter", {**row, "id": id, "data": data, "error": error}, tx)
        return True

    async def _fail(self, trigger: Deployed, event: Event, cause: str, error: str) -> Taken:
        taken = Taken("failed", error=error)
        await self._note(trigger, event, cause, taken)
        return taken

    def _letter(self, row: Row) -> Letter:
        whole = orjson.loads(self._vault.open(_PURPOSE, row["data"], f"{row['id']}/data"))
        error = self._vault.open(_PURPOSE, row["error"], f"{row['id']}/error").decode()
        fields = {name: row[name] for name in ("id", "trigger", "project", "flow", "kind", "tries", "at")}
        return Letter(**fields, **whole, error=error)

    def _digest(self, cause: str) -> bytes:
        return self._vault.digest("trigger event", cause.encode("utf-8", "surrogatepass"))

    def _content(self, event: Event) -> bytes | None:
        return self._vault.digest("trigger content", event.content) if event.content else None
