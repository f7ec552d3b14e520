"""Runs that live in memory: what is known of each, what they tell each other, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import orjson

from metier.calls import JSON, Principal, ProjectId, RunId
from metier.errors import NotFound
from metier.workflow.children import Flows, bounded, called, item_flow, returned, shallow
from metier.workflow.commands import CHILD, Await, Call, Entry, Failure, Finish, Items, Key, Park, Under
from metier.workflow.context import fits, plain
from metier.workflow.definition import Workflow, accept
from metier.workflow.ground import Purse
from metier.workflow.journal import Hold, Line, LostRun
from metier.workflow.leaving import Opening
from metier.workflow.memory_records import Group, Origin, People, Record, Told, Virtual
from metier.workflow.memory_reviving import failed, spent, take_up
from metier.workflow.port import Event, Run, RunStatus
from metier.workflow.reviving import lasting

__all__ = ["Book"]


class Book:
    """Where all runs of one engine are written down."""

    def __init__(self, clock: Virtual, people: People, flows: Flows | None) -> None:
        self.records: dict[RunId, Record] = {}
        self.due: dict[RunId, None] = {}
        """Runs that may be moved, in the order they became so."""
        self.flows = flows
        self.clock = clock
        self._people = people
        self._events: list[Told] = []
        self._groups: dict[tuple[RunId, str, int], Group] = {}
        self.below: dict[RunId, list[Record]] = {}
        """Runs that steps of a run have started."""
        self._kept: dict[bytes, tuple[datetime, JSON]] = {}

    def make(
        self,
        workflow: Workflow,
        inputs: Mapping[str, JSON],
        principal: Principal,
        *,
        dedupe: str | None = None,
        status: RunStatus = "pending",
        origin: Origin | None = None,
    ) -> Record:
        """Make a run, and make it due unless it is queued."""
        now = self.clock()
        run = Run(
            id=RunId(f"run_{len(self.records) + 1:09d}"),
            workflow=workflow.name,
            definition=workflow.hash,
            status=status,
            outcome=None,
            key_id=principal.key_id,
            project=principal.project,
            system=principal.system,
            dedupe=dedupe,
            parked_on=None,
            wake_at=None,
            cost_eur=Decimal(0),
            failure=None,
            created_at=now,
            updated_at=now,
            finished_at=None,
            parent=None if origin is None else origin.run,
        )
        record = self.records[run.id] = Record(run, workflow, dict(inputs), principal, origin)
        if origin is not None:
            self.below.setdefault(origin.run, []).append(record)
        if status == "pending":
            self.due[run.id] = None
        return record

    def find(self, run: RunId) -> Record:
        """Give what is known of a run, or raise NotFound."""
        record = self.records.get(run)
        if record is None:
            raise NotFound(f"no run {run!r}: list the runs to find its id")
        return record

    async def append(self, hold: Hold, lines: Sequence[Line]) -> None:
        """Write lines for the holder of a run, or raise LostRun when somebody else holds it by now."""
        record = self.records[hold.run]
        if record.epoch != hold.epoch or record.run.status != "running":
            raise LostRun(f"run {hold.run!r} is no longer held under epoch {hold.epoch}: this worker stops here")
        for line in lines:
            self.write(record, line.entry())

    def write(self, record: Record, entry: Entry) -> None:
        """Write one line, and tell who follows the run."""
        record.lines[entry.key] = entry
        told = Event(record.run.id, None, entry.path, entry.attempt, entry.name, entry.kind)
        for follower in record.followers:
            follower.put_nowait(told)

    def become(self, record: Record, status: RunStatus, *, on: str | None = None, at: datetime | None = None) -> None:
        """Give a run another status, with what it waits for, and tell who follows it."""
        record.run = replace(record.run, status=status, parked_on=on, wake_at=at, updated_at=self.clock())
        if record.held is not None:
            record.run = replace(record.run, cost_eur=record.held.spent)
        for follower in record.followers:
            follower.put_nowait(Event(record.run.id, status))

    def tell(self, record: Record, line: Line | None) -> bool:
        """Signal a run: write a line from outside, and make it go on; say if it may still do so."""
        if record.run.over or (line is not None and line.entry().key in record.lines):
            return False
        if line is not None:
            entry = line.entry()
            record.opened.pop(entry.key, None)
            self.write(record, entry)
            if record.held is not None:
                record.held.walk.feed(entry)
        if record.held is not None:
            record.held.looked.clear()
            record.came.set()
        elif record.run.status in ("parked", "waiting"):
            self.become(record, "pending")
        if record.run.status == "pending":
            self.due[record.run.id] = None
        return True

    async def ask(self, record: Record, park: Park) -> None:
        """Put a question to the people, who may decide at once, or to a run that begins for it."""
        held, key = record.held, (park.path, park.attempt, park.name)
        if held is not None:
            held.asked = [one for one in held.asked if (one.path, one.attempt, one.name) != key]
        if key in record.opened:
            return
        record.opened[key] = park
        if park.flow is not None:
            place = f"{park.path}{park.name}"
            call = Call(place, park.attempt, park.step, park.flow, park.task, park.budget_left_eur)
            child = await self.call(record, call)
            line = Line(park.path, park.attempt, "choice", child, self.clock(), name=f"{CHILD}{park.name}")
            self.write(record, line.entry())
            return
        decision = self._people(Opening(record.run.id, record.workflow.name, record.principal.project, park))
        if decision is not None:
            self.decide(record, key, decision)

    def decide(self, record: Record, key: Key, decision: JSON) -> bool:
        """Record a decision that fits what was asked, and make the run go on; say if it waited for it."""
        asked = record.opened.get(key)
        if asked is None:
            return False
        value = plain(decision)
        fits(value, asked.schema if isinstance(asked, Park) else None, f"the decision at {key[0]!r}")
        return self.tell(record, Line(key[0], key[1], "decision", value, self.clock(), name=key[2]))

    def happen(self, project: ProjectId, event: str, key: str, data: JSON, id: str) -> bool:
        """Tell an event to the runs that wait for it, once for each id; say whether it was the first time."""
        if any(told.id == id for told in self._events):
            return False
        told = Told(id, project, event, key, plain(data), self.clock())
        self._events.append(told)
        for record in self.records.values():
            if record.principal.project != project:
                continue
            for place, waited in list(record.opened.items()):
                if isinstance(waited, Await) and (waited.event, waited.key) == (event, key):
                    self.tell(record, Line(place[0], place[1], "result", _value(told), self.clock()))
        return True

    def happened(self, record: Record, command: Await) -> JSON:
        """Give the first event that came since a run was made and that it has not had yet; else None."""
        had = {
            line.value["id"] for line in record.lines.values() if isinstance(line.value, dict) and "id" in line.value
        }
        for told in self._events:
            known = (told.project, told.event, told.key) == (record.principal.project, command.event, command.key)
            if known and told.id not in had and told.at >= record.run.created_at:
                return _value(told)
        return None

    async def call(self, record: Record, command: Call) -> JSON:
        """Start the run of a called flow, once for each attempt, or let the one that failed go on."""
        shallow(command.flow, _depth(self, record))
        workflow = await called(record.workflow, command.flow, self.flows, record.principal)
        inputs = accept(workflow, plain(dict(command.with_)))
        origin = Origin(record.run.id, command.path, command.attempt)
        if command.again:
            for one in failed(self, replace(origin, attempt=command.attempt - 1)):
                cost, left = one.run.cost_eur, command.budget_left_eur
                one.workflow = workflow
                take_up(self, one, origin, lend=True)
                lent = Purse(None, one.lines.values()).lent
                one.workflow = bounded(workflow, None if left is None else lasting(cost + left, lent))
                self.due[one.run.id] = None
                return {"run": one.run.id}
        child = next((one for one in self.below.get(record.run.id, ()) if one.origin == origin), None) or self.make(
            bounded(workflow, command.budget_left_eur), inputs, record.principal, origin=origin
        )
        return {"run": child.run.id}

    def begin(self, record: Record, command: Items) -> JSON:
        """Make a queued run for each item, or let those that failed queue again, and let the first ones go."""
        body = bounded(item_flow(record.workflow, command.step), command.budget_left_eur)
        place, around = (record.run.id, command.path, command.attempt), plain(command.given)
        assert isinstance(around, dict)
        members = []
        for number in range(len(command.items)) if command.only is None else command.only:
            origin = Origin(*place, number, around)
            before = failed(self, replace(origin, attempt=command.attempt - 1)) if command.only is not None else []
            for one in before:
                left = command.budget_left_eur
                one.workflow = bounded(
                    item_flow(record.workflow, command.step), None if left is None else one.run.cost_eur + left
                )
                take_up(self, one, origin, lend=False)
                self.become(one, "queued")
            made = before or [
                self.make(
                    body,
                    {"item": plain(command.items[number]), "index": number},
                    record.principal,
                    status="queued",
                    origin=origin,
                )
            ]
            members.append(made[0].run.id)
        self._groups[place] = Group(members, [*members], len(members), command.collect)
        _let_go(self, self._groups[place], command.width)
        return {"items": len(members)}

    def gathered(self, record: Record, command: Under) -> tuple[JSON, Decimal] | None:
        """Read what the items of a step came to, and cost, once all are over."""
        group = self._groups.get((record.run.id, command.path, command.attempt))
        if group is None or group.left > 0:
            return None
        members = [self.records[id] for id in group.members]
        return {"outcomes": [_outcome(one) for one in members]}, sum(
            (one.run.cost_eur - one.told_eur for one in members), Decimal(0)
        )

    def over(self, record: Record, finish: Finish, status: RunStatus = "failed") -> None:
        """Write what a run came to, end what is below it, and tell its parent."""
        failure = finish.failure
        record.output = None if failure else plain(finish.output)
        record.opened.clear()
        outcome = None if failure else finish.outcome
        record.run = replace(record.run, outcome=outcome, failure=failure, finished_at=self.clock())
        self.become(record, status if failure else "done")
        self.due.pop(record.run.id, None)
        record.came.set()
        self._end_below(record.run.id)
        record.run = replace(record.run, cost_eur=spent(self, record))
        self._ended(record, finish)

    async def kept(self, place: JSON) -> JSON:
        """Give what was kept under all that it depends on, while it holds; else None."""
        until, value = self._kept.get(orjson.dumps(place, option=orjson.OPT_SORT_KEYS), (self.clock(), None))
        return value if until > self.clock() else None

    async def keep(self, place: JSON, value: JSON, for_s: float, workspace: str) -> None:
        """Keep a value for some time; nothing is sealed here."""
        until = self.clock() + timedelta(seconds=for_s)
        self._kept[orjson.dumps(place, option=orjson.OPT_SORT_KEYS)] = (until, value)

    async def back(self, run: RunId, path: str) -> None:
        """Wait until the database answers: there is none here."""

    def _ended(self, record: Record, finish: Finish) -> None:
        """Tell the parent of a run that it is over."""
        origin, run = record.origin, record.run
        if origin is None:
            return
        parent = self.records[origin.run]
        if origin.item is None:
            line = returned(origin.path, origin.attempt, run.id, finish, run.cost_eur - record.told_eur)
            self.tell(parent, replace(line, started_at=self.clock()))
            return
        group = self._groups[origin.run, origin.path, origin.attempt]
        group.left -= 1
        if run.id in group.queued:
            group.queued.remove(run.id)
        if finish.failure is not None and not group.collects:
            group.left -= len(group.queued)
            for id in group.queued:
                self.become(self.records[id], "cancelled")
            group.queued.clear()
        else:
            _let_go(self, group, 1)
        if group.left == 0:
            self.tell(parent, None)

    def _end_below(self, run: RunId) -> None:
        for record in self.below.get(run, ()):
            if not record.run.over:
                self.become(record, "cancelled")
                record.left_behind = True
                self.due.pop(record.run.id, None)
                record.opened.clear()
                record.came.set()
                self._end_below(record.run.id)


def _depth(book: Book, record: Record) -> int:
    above, depth = record.origin, 0
    while above is not None:
        above, depth = book.records[above.run].origin, depth + 1
    return depth


def _let_go(book: Book, group: Group, number: int) -> None:
    for _ in range(min(number, len(group.queued))):
        record = book.records[group.queued.pop(0)]
        book.become(record, "pending")
        book.due[record.run.id] = None


def _value(told: Told) -> dict[str, JSON]:
    return {"event": told.event, "key": told.key, "data": told.data, "id": told.id}


def _outcome(record: Record) -> JSON:
    if record.run.status == "done":
        return {"value": record.output}
    failure = record.run.failure or Failure(record.run.status, f"the run of the item was {record.run.status}")
    return {"code": failure.code, "message": failure.message}
