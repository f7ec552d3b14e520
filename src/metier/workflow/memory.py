"""A second engine behind the port, in memory: for tests of flows, in milliseconds, with a clock that can be moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

from metier.calls import JSON, Principal, ProjectId, RunId
from metier.errors import Conflict, Invalid
from metier.workflow.children import Flows
from metier.workflow.commands import Entry, Failure, Finish, Key, Park
from metier.workflow.context import StepFunction, plain
from metier.workflow.definition import Kind, Workflow, accept
from metier.workflow.interpreter import Walk
from metier.workflow.leaving import Opening
from metier.workflow.looking import records
from metier.workflow.memory_book import Book
from metier.workflow.memory_moves import Moves
from metier.workflow.memory_records import People, Virtual
from metier.workflow.memory_reviving import again
from metier.workflow.port import Event, Run, RunStatus, StepRecord
from metier.workflow.replay import Replayed, replay
from metier.workflow.reviving import failed_for, once_more

__all__ = ["Memory", "Virtual"]

_PAGE_MAX = 200


class Memory:
    """An engine whose runs live as long as it does; the interpreter and the step functions are the real ones."""

    def __init__(
        self,
        steps: Mapping[Kind, StepFunction],
        *,
        people: Mapping[str, JSON] | People | None = None,
        flows: Flows | None = None,
        clock: Virtual | None = None,
    ) -> None:
        """Make an engine; `people` gives decisions by path or id of the step, or computes them."""
        self.clock = clock or Virtual()
        decide = people if callable(people) else _table(people or {})
        self._book = Book(self.clock, decide, flows)
        self._moves = Moves(self._book, steps)

    async def start(
        self,
        workflow: Workflow,
        inputs: Mapping[str, JSON],
        principal: Principal,
        *,
        dedupe: str | None = None,
        priority: int = 0,
    ) -> RunId:
        """Start a run, pinned to this definition; the same `dedupe` gives the run it has already started."""
        clear = accept(workflow, plain(dict(inputs)))
        cause = (principal.project, workflow.name, dedupe)
        for record in self._book.records.values() if dedupe is not None else ():
            if (record.run.project, record.run.workflow, record.run.dedupe) == cause:
                return record.run.id
        return self._book.make(workflow, clear, principal, dedupe=dedupe).run.id

    async def emit(self, tx: None, project: ProjectId, event: str, key: str, data: JSON, *, id: str) -> bool:
        """Tell an event to the runs that wait for it, once for each id; say whether it was the first time."""
        return self._book.happen(project, event, key, data, id)

    async def signal(self, tx: None, run: RunId, key: Key, value: JSON) -> None:
        """Record a decision a run waits for, and make it go on; Conflict where it does not wait for it."""
        record = self._book.find(run)
        if record.run.over or not self._book.decide(record, key, value):
            raise Conflict(
                f"run {run!r} is {record.run.status!r} and does not wait for this decision: look at it again"
            )

    async def resume(self, run: RunId) -> None:
        """Let a failed run try its failed step once more."""
        if not await self.retry(None, run):
            raise Conflict(f"run {run!r} is {self._book.find(run).run.status!r}: only failed or dead runs are resumed")

    async def retry(
        self, tx: None, run: RunId, path: str | None = None, told: Mapping[str, JSON] | None = None
    ) -> bool:
        """Resume a run if it failed, at `path` where one is given."""
        record = self._book.find(run)
        failure = record.run.failure
        if record.run.status != "failed" or path not in (None, failure.path if failure else None):
            return False
        if record.origin is not None:
            above = self._book.find(record.origin.run)
            failed, origin = above.run.failure, record.origin
            if failed is None or not failed_for(failed, origin.path, origin.attempt, origin.item):
                return False
            if failure is not None and failure.path and told:
                for key, decision in once_more(failure, record.lines, spent=True, told=told):
                    self._book.write(record, Entry(*key, "decision", decision, self.clock()))
            return await self.retry(None, above.run.id, failed.path)
        again(self._book, record, told=told or {})
        self._book.due[run] = None
        return True

    async def cancel(self, run: RunId) -> None:
        """End a run and those below it, whatever they do."""
        record = self._book.find(run)
        counted = record.run.status == "failed" and record.origin is not None
        if record.run.status in ("done", "cancelled") or counted:
            raise Conflict(f"run {run!r} is already {record.run.status!r}: there is nothing to cancel")
        self._book.over(record, Finish(failure=Failure("cancelled", "it was cancelled")), "cancelled")
        record.run = replace(record.run, failure=None)

    async def recover(self) -> int:
        """Make the runs due again whose worker was stopped in the middle, and say how many."""
        lost = [one.run.id for one in self._book.records.values() if one.run.status == "running" and one.held is None]
        self._book.due.update(dict.fromkeys(lost))
        return len(lost)

    async def drain(self) -> None:
        """Move everything that can move now, then return; what waits for a time goes on once the clock is there."""
        while True:
            for record in self._book.records.values():
                if record.run.wake_at is not None and record.run.wake_at <= self.clock():
                    self._book.due[record.run.id] = None
            due = [*self._book.due]
            self._book.due.clear()
            if not due:
                return
            came = await asyncio.gather(*(self._moves.move(run) for run in due), return_exceptions=True)
            for error in came:
                if error is not None:
                    raise error

    async def play(self) -> None:
        """Move everything, and the clock with it, until there is nothing but questions and events to wait for."""
        await self.drain()
        while times := [one.run.wake_at for one in self._book.records.values() if one.run.wake_at is not None]:
            self.clock.now = max(self.clock.now, min(times))
            await self.drain()

    async def follow(self, run: RunId) -> AsyncGenerator[Event, None]:
        """Tell what happens to a run, from its beginning until it is over; close it with `aclosing`."""
        record, queue = self._book.find(run), asyncio.Queue[Event]()
        for line in list(record.lines.values()):
            queue.put_nowait(Event(run, None, line.path, line.attempt, line.name, line.kind))
        queue.put_nowait(Event(run, record.run.status))
        record.followers.append(queue)
        try:
            while True:
                event = await queue.get()
                yield event
                if event.status is not None and record.run.over and queue.empty():
                    return
        finally:
            record.followers.remove(queue)

    async def get(self, run: RunId) -> Run:
        """Give a run without its contents."""
        return self._book.find(run).run

    async def list(
        self,
        *,
        workflow: str | None = None,
        project: str | None = None,
        status: RunStatus | None = None,
        before: RunId | None = None,
        limit: int = 50,
    ) -> tuple[Run, ...]:
        """Give one page of runs, newest first; the last one's id is the `before` of the next page."""
        if not 1 <= limit <= _PAGE_MAX:
            raise Invalid(f"cannot list {limit!r} runs: ask for 1 to {_PAGE_MAX}", param="limit")
        found = [
            one.run
            for one in reversed(self._book.records.values())
            if (workflow is None or one.run.workflow == workflow)
            and (project is None or one.run.project == project)
            and (status is None or one.run.status == status)
            and (before is None or one.run.id < before)
        ]
        return tuple(found[:limit])

    async def steps(self, run: RunId) -> tuple[StepRecord, ...]:
        """Give the journal of a run in order, with what each step was given; traces are left out."""
        record = self._book.find(run)
        around = None if record.origin is None else record.origin.around
        walk = Walk(record.workflow, record.inputs, dict(record.lines), {"id": run}, around=around)
        return records(record.lines.values(), walk.shown())

    async def inputs(self, run: RunId) -> dict[str, JSON]:
        """Give what a run was started with."""
        return dict(self._book.find(run).inputs)

    async def result(self, run: RunId) -> JSON:
        """Give the output of a run that is done, or raise Conflict saying where it stands."""
        record = self._book.find(run)
        if record.run.status != "done":
            why = f": {record.run.failure.message}" if record.run.failure else ""
            raise Conflict(f"run {run!r} has no output, it is {record.run.status!r}{why}")
        return record.output

    async def definition(self, run: RunId) -> Workflow:
        """Give the definition a run is pinned to."""
        return self._book.find(run).workflow

    async def replay(self, run: RunId) -> Replayed:
        """Go through the journal of a run again, without a call, and say where the interpreter disagrees with it."""
        record, ended = self._book.find(run), None
        if record.run.status in ("done", "failed"):
            ended = Finish(record.output, record.run.outcome or "done", record.run.failure)
        return replay(
            record.workflow,
            record.inputs,
            record.lines.values(),
            {"id": run},
            around=None if record.origin is None else record.origin.around,
            ended=ended,
        )

    def asked(self, run: RunId) -> tuple[Park, ...]:
        """Give the questions a run waits for people with."""
        return tuple(one for one in self._book.find(run).opened.values() if isinstance(one, Park))

    def again(self, steps: Mapping[Kind, StepFunction]) -> None:
        """Go on as another process would: other step functions, and nothing known but what is written."""
        for record in self._book.records.values():
            record.held = None
        self._moves = Moves(self._book, steps)


def _table(decisions: Mapping[str, JSON]) -> People:
    """Look decisions up by path and name of the question, by path, and by id of the step."""

    def decide(opening: Opening) -> JSON:
        park = opening.park
        for key in (f"{park.path}{park.name}", park.path, park.step.id):
            if key in decisions:
                return decisions[key]
        return None

    return decide
