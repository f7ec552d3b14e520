"""The worker's side of triggers: each source runs in one process at a time, by a lease, and fails visibly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import orjson
import psycopg

from metier.calls import JSON, new_id
from metier.errors import MetierError
from metier.store import Store
from metier.triggers.deployment import Deployed, Deployments
from metier.triggers.event import Event, Kind, Source
from metier.triggers.intake import Intake
from metier.workflow.shape import TriggerKind

__all__ = ["Haste", "Opened", "Runner"]

Opened: TypeAlias = Callable[[Deployed], Awaitable[Source]]
"""Makes the source of a trigger."""

_FORGET_S = 6 * 3600

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Haste:
    """How quickly sources change hands and are tried again; a dead process's go on within lease_s + beat_s."""

    lease_s: float = 20.0
    beat_s: float = 5.0
    """Between two looks for what is lost and what is free."""
    first_s: float = 5.0
    """Wait after the first failure; each further one doubles it."""
    most_s: float = 300.0
    at_once: int = 200
    """Sources one process runs."""


@dataclass(frozen=True, slots=True)
class _Held:
    epoch: int
    revision: int
    task: asyncio.Task[None]


class _Lost(Exception):
    """Another process holds the trigger now."""


class Runner:
    """Holds triggers and runs their sources until asked to stop; any number of processes may run one."""

    def __init__(
        self,
        store: Store,
        deployments: Deployments,
        intake: Intake,
        kinds: Mapping[TriggerKind, Kind],
        opened: Opened,
        haste: Haste | None = None,
    ) -> None:
        self._queries = store.queries("triggers")
        self._deployments = deployments
        self._intake = intake
        self._kinds = [name for name, kind in kinds.items() if kind.open is not None]
        self._opened = opened
        self._haste = haste or Haste()
        self._holder = new_id("worker")
        self._held: dict[str, _Held] = {}
        self._sure = time.monotonic()
        self._forgot = 0.0

    async def work(self, stop: asyncio.Event) -> None:
        """Run sources until asked to stop, then give them back so that others take them at once."""
        async with asyncio.TaskGroup() as group:
            try:
                while not stop.is_set():
                    try:
                        await self._beat(group)
                    except (psycopg.Error, MetierError) as error:
                        _log.warning("triggers could not be looked at (%s): again in %g s", error, self._haste.beat_s)
                        if time.monotonic() - self._sure > self._haste.lease_s - self._haste.beat_s:
                            # Others may hold them by now; nothing is lost, since each event starts one run anyway.
                            self._end(list(self._held))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), self._haste.beat_s)
            finally:
                tasks = [held.task for held in self._held.values()]
                self._end(list(self._held))
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self, group: asyncio.TaskGroup) -> None:
        self._held = {id: held for id, held in self._held.items() if not held.task.done()}
        await self._renew()
        room = max(0, self._haste.at_once - len(self._held))
        row = {"holder": self._holder, "lease_s": self._haste.lease_s, "kinds": self._kinds, "limit": room}
        for free in await self._queries.all("claim", row):
            task = group.create_task(self._run(free["id"], free["epoch"]))
            self._held[free["id"]] = _Held(free["epoch"], free["revision"], task)
        self._sure = time.monotonic()
        if self._sure - self._forgot > _FORGET_S:
            self._forgot = self._sure
            await self._intake.forget()

    async def _renew(self) -> None:
        if not self._held:
            return
        row = {
            "ids": [*self._held],
            "epochs": [held.epoch for held in self._held.values()],
            "revisions": [held.revision for held in self._held.values()],
            "lease_s": self._haste.lease_s,
        }
        kept = {found["id"] for found in await self._queries.all("renew", row)}
        self._end([id for id in self._held if id not in kept])

    def _end(self, ids: list[str]) -> None:
        for id in ids:
            self._held.pop(id).task.cancel()

    async def _run(self, id: str, epoch: int) -> None:
        error: str | None = None
        try:
            await self._listen(await self._deployments.get(id), epoch)
        except _Lost:
            return
        except (MetierError, psycopg.Error) as failed:
            error = str(failed)
            _log.warning("the source of trigger %s failed: %s", id, error)
        except Exception as failed:  # noqa: BLE001  # the edge of a source: recorded, and tried again later
            # The text of a foreign exception may hold what a source was given to prove itself with.
            error = f"it failed unexpectedly ({type(failed).__name__})"
            _log.exception("the source of trigger %s failed", id)
        finally:
            with contextlib.suppress(psycopg.Error, MetierError):
                await asyncio.shield(self._release(id, epoch, error))

    async def _release(self, id: str, epoch: int, error: str | None) -> None:
        haste = {"first_s": self._haste.first_s, "most_s": self._haste.most_s}
        await self._queries.run("release", {"id": id, "epoch": epoch, "error": error and error[:2000], **haste})

    async def _listen(self, trigger: Deployed, epoch: int) -> None:
        source = await self._opened(trigger)
        well = trigger.error is None
        async with contextlib.aclosing(source.events(trigger.state)) as events:
            async for event in events:
                if isinstance(event, Event):
                    taken = await self._intake.take(trigger, event)
                    await source.settle(event, taken)
                if event.state is not None:
                    await self._advance(trigger.id, epoch, event.state)
                if not well:
                    well = True
                    await self._queries.run("well", {"id": trigger.id, "epoch": epoch})

    async def _advance(self, id: str, epoch: int, state: JSON) -> None:
        row = {"id": id, "epoch": epoch, "state": orjson.dumps(state).decode()}
        if not await self._queries.run("advance", row):
            raise _Lost
