"""Tasks over HTTP: what waits for the owner of a key, and everything they may do with it; absences too."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Protocol, TypeVar

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints
from starlette.routing import BaseRoute, Route

from metier.api.endpoint import Endpoint
from metier.api.parsing import fit, load, refuse_unknown
from metier.api.surface import Door, Surface
from metier.api.transfer import Asking, listed
from metier.calls import JSON, Principal
from metier.errors import Invalid
from metier.workflow.review import NOTE_MAX, Absence, Review, Reviewer, Task, TaskEvent, TaskId

__all__ = ["TaskServices", "TasksPages", "task_routes"]

_Body = TypeVar("_Body", bound=BaseModel)
_SURFACE: Final = "admin"
_WORDS: Final = StringConstraints(min_length=1, max_length=NOTE_MAX)
_WHO: Final = StringConstraints(min_length=1, max_length=220)


class TaskServices(Protocol):
    """What tasks over HTTP need of the platform."""

    @property
    def keys(self) -> Door:
        """Who is calling."""
        ...

    @property
    def review(self) -> Review:
        """The tasks."""
        ...


def task_routes(app: TaskServices) -> list[BaseRoute]:
    """List the paths of tasks; they take the keys that open the pages of people."""
    keys, made = Surface(app.keys, _SURFACE), TasksPages(app.review)
    one = "/v1/tasks/{id}"
    return [
        Route("/v1/tasks", Endpoint(keys, made.several, Asking), methods=["GET"]),
        Route(one, Endpoint(keys, made.one, Asking), methods=["GET"]),
        Route(f"{one}/claim", Endpoint(keys, made.claim, Asking), methods=["POST"]),
        Route(f"{one}/release", Endpoint(keys, made.release, Asking), methods=["POST"]),
        Route(f"{one}/comments", Endpoint(keys, made.comment, Asking), methods=["POST"]),
        Route(f"{one}/decide", Endpoint(keys, made.decide, Asking), methods=["POST"]),
        Route(f"{one}/hand-off", Endpoint(keys, made.hand_off, Asking), methods=["POST"]),
        Route("/v1/absences", Endpoint(keys, made.absences, Asking), methods=["GET", "POST"]),
        Route("/v1/absences/{id}", Endpoint(keys, made.end_absence, Asking), methods=["DELETE"]),
    ]


class TasksPages:
    """Answers requests about tasks in the name of the key, whose name and groups say what is theirs."""

    def __init__(self, review: Review) -> None:
        self._review = review

    async def several(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/tasks: the tasks that wait for the owner of the key, oldest first."""
        asked = exchange.query("after", "limit")
        limit = exchange.number(asked, "limit", 20, 100)
        after = TaskId(asked["after"]) if asked.get("after") else None
        found = await self._review.list(Reviewer.behind(principal), after=after, limit=limit + 1)
        await exchange.json(listed([_task(task) for task in found], limit))

    async def one(self, exchange: Asking, principal: Principal) -> None:
        """GET /v1/tasks/{id}: a task whole, with what happened to it."""
        await self._answer(exchange, principal)

    async def claim(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/tasks/{id}/claim: take a task in hand, so that nobody else decides it meanwhile."""
        await self._review.claim(await self._theirs(exchange, principal), Reviewer.behind(principal))
        await self._answer(exchange, principal)

    async def release(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/tasks/{id}/release: put a claimed task back for the others."""
        await self._review.release(await self._theirs(exchange, principal), Reviewer.behind(principal))
        await self._answer(exchange, principal)

    async def comment(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/tasks/{id}/comments: say something on a task without deciding it."""
        body = await _body(exchange, _Comment)
        if body is not None:
            await self._review.comment(await self._theirs(exchange, principal), Reviewer.behind(principal), body.text)
            await self._answer(exchange, principal)

    async def decide(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/tasks/{id}/decide: record a decision; the run goes on, and the second of two people gets 409."""
        body = await _body(exchange, _Decision)
        if body is not None:
            id = await self._theirs(exchange, principal)
            await self._review.decide(id, Reviewer.behind(principal), body.decision, body.note)
            await exchange.json(orjson.dumps(_task(await self._review.get(id))))

    async def hand_off(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/tasks/{id}/hand-off: give a task to another group or person, with what they need to know."""
        body = await _body(exchange, _HandOff)
        if body is not None:
            id = await self._theirs(exchange, principal)
            await self._review.hand_off(id, Reviewer.behind(principal), body.to, body.note)
            await exchange.json(orjson.dumps(_summary(await self._review.get(id))))

    async def absences(self, exchange: Asking, principal: Principal) -> None:
        """GET and POST /v1/absences: the absences one is concerned by; declare one's own."""
        who = Reviewer.behind(principal)
        if exchange.method != "POST":
            exchange.query()
            found = [_absence(one) for one in await self._review.absences.list(who)]
            await exchange.json(listed(found, len(found)))
            return
        body = await _body(exchange, _Absent)
        if body is not None:
            made = await self._review.absences.declare(who, body.since, body.until, body.substitute)
            await exchange.json(orjson.dumps(_absence(made)))

    async def end_absence(self, exchange: Asking, principal: Principal) -> None:
        """DELETE /v1/absences/{id}: come back earlier, or withdraw an absence."""
        await self._review.absences.end(exchange.target, Reviewer.behind(principal))
        await exchange.json(orjson.dumps({"id": exchange.target, "object": "absence", "deleted": True}))

    async def _theirs(self, exchange: Asking, principal: Principal) -> TaskId:
        """Give the id of a task they may see; those of others do not exist for them, whatever they would do."""
        return (await self._review.get(TaskId(exchange.target), Reviewer.behind(principal))).id

    async def _answer(self, exchange: Asking, principal: Principal) -> None:
        who, id = Reviewer.behind(principal), TaskId(exchange.target)
        task = await self._review.get(id, who)
        events = [_event(event) for event in await self._review.history(id, who)]
        bar = await self._review.bar(id, who)
        await exchange.json(orjson.dumps({**_task(task), "events": events, "may_not_decide": bar}))


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Comment(_Shape):
    text: Annotated[str, _WORDS]


class _Decision(_Shape):
    decision: dict[str, Any]
    note: Annotated[str, StringConstraints(max_length=NOTE_MAX)] = ""


class _HandOff(_Shape):
    to: Annotated[str, _WHO]
    note: Annotated[str, _WORDS]


class _Absent(_Shape):
    since: AwareDatetime
    until: AwareDatetime
    substitute: Annotated[str, _WHO]


async def _body(exchange: Asking, shape: type[_Body]) -> _Body | None:
    data = await exchange.body()
    if data is None:
        return None
    raw = load(data)
    refuse_unknown(raw, shape.model_fields, (), {})
    for name in ("since", "until"):
        if name in raw and not isinstance(raw[name], str):
            raise Invalid(f"{name} is no text: write a time like 2026-08-03T08:00:00+02:00", param=name)
    return fit(shape, raw)


def _summary(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "object": "task",
        "run": task.run,
        "workflow": task.workflow,
        "path": task.path,
        "state": task.state,
        "assignee": task.assignee,
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        **_summary(task),
        "title": task.title,
        "claimed_by": task.claimer,
        "due_at": _at(task.due_at),
        "opened_at": _at(task.opened_at),
        "decided_by": task.decider,
        "decided_at": _at(task.decided_at),
        "show": task.show,
        "edit": task.edit,
        "schema": task.schema,
        "decision": task.decision,
        "note": task.note,
    }


def _event(event: TaskEvent) -> dict[str, JSON]:
    return {
        "kind": event.kind,
        "at": _at(event.at),
        "by": event.by,
        "target": event.target,
        "words": event.words,
    }


def _absence(absence: Absence) -> dict[str, JSON]:
    return {
        "id": absence.id,
        "object": "absence",
        "person": absence.person,
        "substitute": absence.substitute,
        "since": _at(absence.from_at),
        "until": _at(absence.until_at),
    }


def _at(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
