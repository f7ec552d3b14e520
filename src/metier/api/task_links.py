"""Links for people over HTTP: made by who looks after the runs of a project, for somebody the task waits for."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.routing import BaseRoute, Route

from metier.api.endpoint import Endpoint
from metier.api.overseeing import overseeing
from metier.api.parsing import fit, load, refuse_unknown
from metier.api.surface import Door, Surface
from metier.api.transfer import Asking
from metier.calls import Principal
from metier.connectors.people import People
from metier.errors import NotFound
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer, Task, TaskId

__all__ = ["LinkBody", "LinkKeys", "LinkServices", "Noticing", "TaskLinks", "link_routes"]

_SURFACE: Final = "admin"
_HOURS: Final = 72


class LinkKeys(Door, Protocol):
    """The keys, and whom they were issued to."""

    async def groups(self, name: str, organisation: str) -> frozenset[str]:
        """Give the groups of whoever has a key of a name in an organisation."""
        ...


class Noticing(Protocol):
    """What tells people of tasks by e-mail."""

    @property
    def people(self) -> People:
        """Who they are, and where they reach the platform."""
        ...


class LinkServices(Protocol):
    """What links over HTTP need of the platform."""

    @property
    def keys(self) -> LinkKeys:
        """Who is calling, and who is in which group."""
        ...

    @property
    def review(self) -> Review:
        """The tasks."""
        ...

    @property
    def engine(self) -> Engine:
        """To which project their runs belong."""
        ...

    @property
    def notices(self) -> Noticing:
        """The people of metier.yaml."""
        ...


def link_routes(app: LinkServices) -> list[BaseRoute]:
    """List the paths of links; they take the keys that open the pages of people."""
    made = TaskLinks(app)
    return [Route("/v1/tasks/{id}/links", Endpoint(Surface(app.keys, _SURFACE), made.make, Asking), methods=["POST"])]


class TaskLinks:
    """Makes links to tasks of the project of the key, for keys of the group admins."""

    def __init__(self, app: LinkServices) -> None:
        self._app = app

    async def make(self, exchange: Asking, principal: Principal) -> None:
        """POST /v1/tasks/{id}/links: a link to a task for somebody it waits for: once, and for a while."""
        task = await self._of(TaskId(exchange.target), principal)
        overseeing(principal)
        data = await exchange.body()
        if data is None:
            return
        raw = load(data)
        refuse_unknown(raw, LinkBody.model_fields, (), {})
        body, people = fit(LinkBody, raw), self._app.notices.people
        groups = await self._app.keys.groups(body.person, principal.organisation)
        known = people.known.get(body.person)
        if known is not None and known.organisation == principal.organisation:
            groups |= known.groups
        token, link = await self._app.review.link(
            task.id, Reviewer.behind(principal), body.person, groups, timedelta(hours=body.hours)
        )
        path = f"/review/links/{token}"
        told = {
            "id": link.id,
            "object": "task.link",
            "task": task.id,
            "person": link.person,
            "path": path,
            "url": f"{people.url}{path}" if people.url else None,
            "expires_at": link.expires_at.isoformat(),
        }
        # Whoever holds it acts as that person: no cache keeps it.
        await exchange.json(orjson.dumps(told), [(b"cache-control", b"no-store")])

    async def _of(self, id: TaskId, principal: Principal) -> Task:
        """Give a task of a run of the project; those of others do not exist for this key."""
        inside = Reviewer(principal.name, organisation=principal.organisation, everywhere=True)
        task = await self._app.review.get(id, inside)
        if (await self._app.engine.get(task.run)).project != principal.project:
            raise NotFound(f"no task {id!r}: list your tasks to find its id")
        return task


class LinkBody(BaseModel):
    """For whom a link is, and how long it is good."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    person: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    hours: Annotated[int, Field(ge=1, le=_HOURS, strict=True)] = _HOURS
