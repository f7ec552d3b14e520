"""Decides before a call whether it may be made, and holds the money it may cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Protocol

from metier.calls import Call, Part, Principal, ProjectId, Text
from metier.catalog import Model
from metier.errors import BudgetExceeded, Invalid, NotAllowed, SystemNotApproved
from metier.policy.leases import Budget, Leases, Period, Reservation, period_start
from metier.policy.mirror import Mirror
from metier.store import Row, Store, Tx

__all__ = ["Admission", "Budget", "Entry", "Period", "Reservation", "SilentLease", "input_estimate"]

_ZERO = Decimal(0)
_IMAGE_BYTES = 6_400
"""What an image is counted for, at two bytes a token: 3,200 tokens, above what public providers bill for one."""


class Entry(Protocol):
    """What admission needs of the record of a call: to write down, before the call, what is held for it."""

    def hold(self, hold: Reservation | None, input_tokens: int) -> None:
        """Record the reservation durably, or raise LedgerBroken so that no call is made."""
        ...


@dataclass(frozen=True, slots=True)
class SilentLease:
    """A lease whose worker is not heard any more; its money stays held until somebody settles it."""

    worker: str
    project: ProjectId
    starts_on: date
    granted_eur: Decimal
    charged_eur: Decimal
    heartbeat_at: datetime


class Admission:
    """Admits calls of allowed keys and approved systems, within the budget of their project.

    Money is lent by PostgreSQL to this worker in leases, so that most calls reserve in memory. At all
    times spent + held ≤ limit when money is lent: what is spent passes the limit at most by the sum
    of (cost - reserved) of the calls that cost more than the bound reserved for them.
    """

    def __init__(
        self,
        store: Store,
        worker: str,
        statuses: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]],
        admitted: frozenset[str],
        *,
        share: Decimal = Decimal("0.02"),
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._store = store
        self._queries = store.queries("admission")
        self._admitted = admitted
        self._today = today
        self._systems: Mirror[str] = Mirror(statuses, clock=clock)
        self._budgets: Mirror[Budget] = Mirror(self._load, clock=clock)
        self._leases = Leases(store, worker, share=share, clock=clock, today=today)

    async def admit(self, call: Call, model: Model, entry: Entry) -> None:
        """Let `call` pass with its money held in `entry`, or raise the rule that refuses it."""
        principal = call.principal
        if principal.models is not None and call.model not in principal.models:
            raise NotAllowed(
                f"key {principal.key_id!r} may not use the model {call.model!r}: ask its owner to widen it",
                param="model",
            )
        if call.operation != model.operation:
            raise Invalid(f"the model {model.name!r} is for {model.operation!r}, not {call.operation!r}", param="model")
        await self.approved(principal)
        input_tokens = input_estimate(call)
        need = _worst(call, model, input_tokens)
        hold = await self._reserve(principal.project, need) if need else None
        entry.hold(hold, input_tokens)

    async def approved(self, principal: Principal) -> None:
        """Let the system behind a key pass, or say in which state the register has it."""
        status = await self._systems.get(principal.system)
        if status not in self._admitted:
            raise SystemNotApproved(
                f"the system {principal.system!r} is {status or 'unknown'!r} in the register: calls pass once it is "
                f"approved ({' or '.join(sorted(self._admitted))})"
            )

    async def set_budget(self, project: str, limit_eur: Decimal, period: Period = "month") -> Budget:
        """Limit what a project may spend per period; raising or lowering keeps what is spent."""
        params = {
            "project": project,
            "period": period,
            "limit_eur": limit_eur,
            "starts_on": period_start(period, self._today()),
        }
        await self._queries.run("set_budget", params)
        self._budgets.forget(project)
        budget = await self.budget(project)
        assert budget is not None
        return budget

    async def drop_budget(self, project: str) -> None:
        """Leave a project without any limit."""
        await self._queries.run("drop_budget", {"project": project})
        self._budgets.forget(project)

    async def budget(self, project: str) -> Budget | None:
        """Read where the budget of a project stands; None when it has no limit."""
        return (await self._load([project])).get(project)

    async def charge(self, tx: Tx, charges: Sequence[tuple[str, str, Decimal]]) -> None:
        """Turn held money into spent money for recorded calls: (lease, project, cost), in their transaction."""
        if not charges:
            return
        costs: dict[str, Decimal] = {}
        for lease, _, cost in charges:
            costs[lease] = costs.get(lease, _ZERO) + cost
        await self._queries.run("lock_budgets", {"projects": sorted({p for _, p, _ in charges})}, tx)
        for lease in sorted(costs):
            row = await self._queries.one("charge", {"id": lease, "cost": costs[lease]}, tx)
            if row is not None:
                spent = costs[lease]
                await self._spend(tx, row, spent, freed=spent if row["open"] else _ZERO)

    async def settle_worker(self, tx: Tx, worker: str, *, lost: bool = False) -> Decimal:
        """End the leases of a dead worker whose calls are all recorded; `lost` counts the rest as spent."""
        rows = await self._queries.all("lease_projects", {"worker": worker}, tx)
        await self._queries.run("lock_budgets", {"projects": sorted(row["project"] for row in rows)}, tx)
        total = _ZERO
        for row in await self._queries.all("close_leases", {"worker": worker}, tx):
            remaining: Decimal = row["remaining_eur"]
            total += remaining
            await self._spend(tx, row, remaining if lost else _ZERO, freed=remaining)
        return total

    async def write_off(self, worker: str) -> Decimal:
        """Count as spent what a worker held whose disk is lost; gives the amount."""
        async with self._store.transaction() as tx:
            return await self.settle_worker(tx, worker, lost=True)

    async def silent(self, age_s: float = 60.0) -> tuple[SilentLease, ...]:
        """List the leases whose worker has not been heard for `age_s`."""
        return tuple(SilentLease(**row) for row in await self._queries.all("silent_leases", {"age_s": age_s}))

    async def drift(self) -> list[Row]:
        """List budgets that disagree with the ledger or with their leases: empty, unless something broke."""
        return await self._queries.all("drift")

    async def tick(self, *, idle_s: float = 5.0) -> None:
        """Refresh what is mirrored, show that this worker lives, and give back money left idle."""
        await self._systems.refresh()
        await self._budgets.refresh()
        await self._leases.tick(idle_s)

    async def run(self, every_s: float = 0.5) -> None:
        """Tick for ever; owned by the lifespan of the process."""
        while True:
            await self.tick()
            await asyncio.sleep(every_s)

    async def _load(self, projects: Sequence[str]) -> dict[str, Budget]:
        rows = await self._queries.all("budgets", {"projects": [*projects]})
        return {row["project"]: Budget(**row) for row in rows}

    async def _reserve(self, project: str, need: Decimal) -> Reservation | None:
        budget = await self._budgets.get(project)
        if budget is None:
            return None
        reservation = await self._leases.reserve(budget, need)
        if reservation is None:
            raise await self._exceeded(project, need)
        return reservation

    async def _exceeded(self, project: str, need: Decimal) -> BudgetExceeded:
        standing = await self.budget(project)
        if standing is None:
            self._budgets.forget(project)
            return BudgetExceeded(f"the budget of project {project!r} was removed just now: send the call again")
        return BudgetExceeded(
            f"the call may cost {need:f} € but project {project!r} has {standing.limit_eur:f} € per {standing.period}, "
            f"of which {standing.spent_eur:f} € are spent and {standing.held_eur:f} € held: raise the budget or ask "
            "for fewer output tokens"
        )

    async def _spend(self, tx: Tx, lease: Row, spent: Decimal, *, freed: Decimal) -> None:
        params = {"project": lease["project"], "starts_on": lease["starts_on"], "spent": spent, "freed": freed}
        await self._queries.run("spend", params, tx)


def input_estimate(call: Call) -> int:
    """Estimate the input tokens cautiously, a token per two bytes: about twice what prose costs."""
    size = sum(_bytes(text) for text in call.inputs) + _bytes(call.query)
    for message in call.messages:
        size += 16 + _bytes(message.content) + sum(_part_size(part) for part in message.parts)
        size += sum(_bytes(thought.text) + len(thought.signature) for thought in message.reasoning)
        size += sum(len(asked.name) + _bytes(asked.arguments) + 16 for asked in message.tool_calls)
    for tool in call.tools:
        size += len(tool.name) + _bytes(tool.description) + _bytes(str(tool.parameters)) + 32
    if call.output is not None:
        size += _bytes(str(call.output.schema)) + 32
    return size // 2 + 16


def _part_size(part: Part) -> int:
    if isinstance(part, Text):
        return _bytes(part.text)
    # Two bytes a token: images cost by their size in pixels, documents by page, at most about what is said here.
    return _IMAGE_BYTES if part.media_type.startswith("image/") else max(len(part.data), _IMAGE_BYTES)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _worst(call: Call, model: Model, input_tokens: int) -> Decimal:
    """The most a call can cost on any deployment of its model."""
    worst = _ZERO
    for deployment in model.deployments:
        if deployment.price is None:
            if deployment.allow_unpriced:
                continue
            raise NotAllowed(
                f"the price of deployment {deployment.id!r} behind {model.name!r} is unknown, so no money can be held "
                "for it: declare `price` in metier.yaml, or `allow_unpriced: true`",
                param="model",
            )
        output = 0 if call.operation == "embed" else deployment.max_output_tokens
        if call.max_output_tokens is not None:
            output = min(output, call.max_output_tokens)
        worst = max(worst, deployment.price.of(input_tokens, output))
    return worst
