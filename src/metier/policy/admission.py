"""Decides before a call whether it may be made, and holds what it may use of every limit above it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import orjson
import psycopg

from metier.calls import Call, Principal, ProjectId
from metier.catalog import Model
from metier.errors import BudgetExceeded, Invalid, MetierError, NotAllowed, RateLimited, SystemNotApproved, Unavailable
from metier.policy.alerts import Alerts
from metier.policy.estimate import Expected, Footprint, Outputs, expected
from metier.policy.hold import Entry, Hold, Meter
from metier.policy.leases import Leases
from metier.policy.limits import UNITS, Limit, Limits, Measure, Period, Scope, period_end, period_start, rounded
from metier.policy.mirror import Mirror
from metier.policy.rates import Rate, Rates, Wait
from metier.store import Row, Store, Tx

__all__ = [
    "Admission", "Budget", "Entry", "Hold", "Period", "Remaining", "SilentLease", "Surroundings", "Verdict",
]  # fmt: skip

_ZERO = Decimal(0)
_log = logging.getLogger(__name__)
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What a project may spend in a period, and where it stands."""

    project: ProjectId
    period: Period
    limit_eur: Decimal
    starts_on: date
    spent_eur: Decimal
    """Cost of the recorded calls of the period."""
    held_eur: Decimal
    """Lent to workers: reserved by calls in progress, or kept ready for the next ones."""


@dataclass(frozen=True, slots=True)
class SilentLease:
    """A lease whose worker is not heard any more; what it holds stays held until somebody settles it."""

    worker: str
    scope: Scope | None
    """None when the limit was removed meanwhile."""
    subject: str | None
    measure: Measure
    starts_on: date
    granted: Decimal
    charged: Decimal
    heartbeat_at: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a call: admitted, or to be asked of another model."""

    instead: str | None = None
    """Model to use instead, because a limit that degrades is used up; nothing is held then."""
    meter: Meter | None = None
    """Follows the answer, where a budget may end it midway."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """The tightest limit of one measure for a caller: what the rate limit headers say."""

    limit: int
    remaining: int
    reset_s: float
    """Seconds until the whole limit is there again."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What admission knows of the house around it."""

    footprint: Footprint | None = None
    """Estimates energy and carbon; without it, limits of them refuse calls unless unknown ones pass."""
    digest: Callable[[str, str], str] = lambda organisation, name: f"{organisation} {name}"
    """Makes of an organisation and its end user's name what limits know that person by."""
    now: Callable[[], float] | None = None
    """Seconds since 1970 for rates; None takes the clock of PostgreSQL."""
    names: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]] | None = None
    """Reads what people call systems, by id; without it a refusal has the id."""
    alerts: Alerts | None = None
    """Who is told; None writes alerts down for the console and sends them nowhere."""


_ADMITTED = Verdict()


class Admission:
    """Admits calls of allowed keys and approved systems, within every limit from the organisation to the end user.

    Limits are lent by PostgreSQL to this worker in leases, so that most calls reserve in memory; `Leases` says the
    bound for quotas and budgets, `Rates` for rates and concurrency. A call without limits pays a look in a dictionary.
    """

    def __init__(
        self,
        store: Store,
        worker: str,
        statuses: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]],
        admitted: frozenset[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
        around: Surroundings | None = None,
    ) -> None:
        self._store = store
        self._queries = store.queries("admission")
        self._admitted = admitted
        self._today = today
        self._around = around or Surroundings()
        self._worker = worker
        self._systems: Mirror[str] = Mirror(statuses, clock=clock)
        names = self._around.names
        self._names: Mirror[str] | None = None if names is None else Mirror(names, clock=clock, max_age_s=60.0)
        self.limits = Limits(store, clock=clock)
        """Sets, lists and removes limits."""
        self._leases = Leases(store, worker, clock=clock, today=today)
        self._rates = Rates(store, worker, clock=clock, now=self._around.now)
        self._outputs = Outputs()
        self.alerts = self._around.alerts or Alerts(store, {}, {})
        """Told, inside the transactions that record calls, which limits have more spent now."""

    def lent(self) -> Mapping[str, tuple[Decimal, Decimal]]:
        """Tell what this worker was lent of each limit, and what of that is free; for metrics."""
        return self._leases.lent()

    async def admit(self, call: Call, model: Model, entry: Entry) -> Verdict:
        """Let `call` pass with what it may use held in `entry`, or raise the rule that refuses it."""
        principal = call.principal
        _rights(call)
        if call.operation != model.operation:
            raise Invalid(f"the model {model.name!r} is for {model.operation!r}, not {call.operation!r}", param="model")
        await self.approved(principal)
        limits = await self.limits.of(principal)
        need = expected(call, model, self._outputs, self._around.footprint)
        if not limits:
            entry.hold(None, need.likely_tokens)
            return _ADMITTED
        hold = Hold(entry, principal, call.model, self._outputs)
        try:
            instead = await self._fill(hold, call, limits, need)
            if instead is not None:
                hold.undo()
                return Verdict(instead)
            hold.seal()
            entry.hold(hold, need.likely_tokens)
        except BaseException:
            hold.undo()
            raise
        bounded = [(p.limit, p.member, _told_only(p.limit, call)) for p in hold.parts if p.limit.measure != "requests"]
        if not any(not told for _, _, told in bounded):
            return _ADMITTED
        return Verdict(meter=Meter(hold, need, self._leases, bounded))

    async def approved(self, principal: Principal) -> None:
        """Let the system behind a key pass, or say in which state the register has it."""
        status = await self._systems.get(principal.system)
        if status not in self._admitted:
            name = await _called(principal.system, self._names)
            raise SystemNotApproved(
                f"the system {name!r} is {status or 'unknown'!r} in the register: calls pass once it is "
                f"approved ({' or '.join(sorted(self._admitted))})"
            )

    async def remaining(self, call: Call) -> Mapping[Measure, Remaining]:
        """Tell the tightest limit of requests and of tokens for a caller, from memory, as far as they are known."""
        found: dict[Measure, Remaining] = {}
        for limit in await self.limits.of(call.principal):
            if limit.measure not in ("requests", "tokens") or limit.action != "refuse":
                continue
            told = self._told(limit, self._member(limit, call))
            before = found.get(limit.measure)
            if told is not None and (before is None or told.remaining < before.remaining):
                found[limit.measure] = told
        return found

    async def set_budget(self, project: str, limit_eur: Decimal, period: Period = "month") -> Budget:
        """Limit what a project may spend per period; raising or lowering keeps what is spent."""
        limit = await self.limits.set(Limit("", "project", project, "money", period, limit_eur), "metier")
        others = [one.id for one in await self._money(project) if one.period != period]
        if others:
            await self.limits.drop(others)
        params = {"limit": limit.id, "member": "", "starts_on": period_start(period, self._today())}
        await self._queries.run("open_standing", params)
        budget = await self.budget(project)
        assert budget is not None
        return budget

    async def drop_budget(self, project: str) -> None:
        """Leave a project without any limit of money."""
        await self.limits.drop([one.id for one in await self._money(project)])

    async def budget(self, project: str) -> Budget | None:
        """Read where the budget of a project stands; None when it has no limit."""
        for row in await self.limits.standings(project):
            if (row["scope"], row["measure"], row["action"]) == ("project", "money", "refuse"):
                starts_on = row["starts_on"] or period_start(row["period"], self._today())
                return Budget(
                    ProjectId(row["subject"]), row["period"], row["amount"], starts_on, row["spent"], row["held"]
                )
        return None

    async def charge(self, tx: Tx, rows: Sequence[Row]) -> None:
        """Turn what was held into what is spent, for newly recorded calls, in their transaction."""
        charged = [row for row in rows if row["lease"] is not None]
        if not charged:
            return
        leases = sorted({part.partition("=")[0] for row in charged for part in row["lease"].split()})
        await self._queries.run("lock_standings", {"leases": leases}, tx)
        document = orjson.dumps(charged, default=str).decode()
        touched = await self._queries.all("charge", {"rows": document}, tx)
        await self.alerts.crossed(tx, sorted({row["limit_id"] for row in touched if not row["member"]}))

    async def settle_worker(self, tx: Tx, worker: str, *, lost: bool = False) -> Decimal:
        """End the leases of a dead worker whose calls are all recorded; `lost` counts the rest as spent."""
        leases = [row["id"] for row in await self._queries.all("worker_leases", {"worker": worker}, tx)]
        await self._queries.run("lock_standings", {"leases": leases}, tx)
        rows = await self._queries.all("close_leases", {"worker": worker, "lost": lost}, tx)
        await self._queries.run("leave", {"worker": worker}, tx)
        if lost:
            await self.alerts.crossed(tx, sorted({row["limit_id"] for row in rows}))
        return sum((row["remaining"] for row in rows if row["measure"] == "money"), _ZERO)

    async def write_off(self, worker: str) -> Decimal:
        """Count as spent what a worker held whose disk is lost; gives the amount of money."""
        async with self._store.transaction() as tx:
            return await self.settle_worker(tx, worker, lost=True)

    async def silent(self, age_s: float = 60.0) -> tuple[SilentLease, ...]:
        """List the leases whose worker has not been heard for `age_s`."""
        return tuple(SilentLease(**row) for row in await self._queries.all("silent_leases", {"age_s": age_s}))

    async def drift(self) -> list[Row]:
        """List limits that disagree with the ledger or with their leases: empty, unless something broke."""
        return await self._queries.all("drift")

    async def tick(self, *, idle_s: float = 5.0) -> None:
        """Refresh what is mirrored, show that this worker lives, and give back what was left idle."""
        await self._systems.refresh()
        await self.limits.refresh()
        await self._leases.tick(idle_s)
        await self._rates.tick()

    async def run(self, every_s: float = 0.5) -> None:
        """Tick for ever; owned by the lifespan of the process."""
        while True:
            try:
                await self.tick()
            except (MetierError, psycopg.Error) as error:
                _log.warning("limits could not be refreshed: %s", error)
            await asyncio.sleep(every_s)

    async def _fill(self, hold: Hold, call: Call, limits: Sequence[Limit], need: Expected) -> str | None:
        """Hold a part of every limit, or raise; gives the model to use instead where a limit degrades."""
        needs: dict[Measure, Decimal | None] = {}
        for limit in limits:
            member = self._member(limit, call)
            if limit.measure not in needs:
                needs[limit.measure] = need.need(limit.measure)
            amount = needs[limit.measure]
            if amount is None:
                if limit.unknown_passes or _told_only(limit, call):
                    continue
                raise NotAllowed(
                    f"the {limit.measure} of {call.model!r} is unknown and {limit.whose} has a limit of it: give the "
                    "deployment an energy card in metier.yaml, or let unknown ones pass in the limit",
                    param="model",
                )
            if limit.durable:
                if not amount:
                    continue
                part = await self._leases.reserve(limit, member, amount, forced=_told_only(limit, call))
                if part is None and limit.degrade_to is not None and _may(call.principal, limit.degrade_to):
                    return limit.degrade_to
                if part is None:
                    raise await self._exceeded(limit, member, amount)
                hold.add(part)
                continue
            drawn = await self._rates.draw(limit, member, int(amount))
            if isinstance(drawn, Wait):
                raise _limited(drawn, int(amount))
            hold.add(drawn)
        return None

    def _member(self, limit: Limit, call: Call) -> str:
        """Which end user counts; those a client does not name count as one."""
        if limit.scope != "end_user" or not call.end_user:
            return ""
        return self._around.digest(call.principal.organisation, call.end_user)

    def _told(self, limit: Limit, member: str) -> Remaining | None:
        if not limit.durable:
            rate: Rate = self._rates.standing(limit, member)
            return Remaining(int(limit.amount), rate.remaining, rate.reset_s)
        left = self._leases.remaining(limit, member)
        end = period_end(limit.period, period_start(limit.period, self._today()))
        if left is None or end is None:
            return None
        return Remaining(int(limit.amount), int(left), (end - self._today()) / timedelta(days=1) * _DAY_S)

    async def _money(self, project: str) -> list[Limit]:
        return [
            one
            for one in await self.limits.list(project)
            if (one.scope, one.measure, one.action) == ("project", "money", "refuse")
        ]

    async def _exceeded(self, limit: Limit, member: str, need: Decimal) -> MetierError:
        rows = [row for row in await self.limits.standings(limit.subject) if row["id"] == limit.id]
        if not rows:
            return BudgetExceeded(f"a limit of {limit.whose} was removed just now: send the call again")
        (row,) = rows
        unit, start = UNITS[limit.measure], period_start(limit.period, self._today())
        current = row["starts_on"] == start
        spent, held = (rounded(row[name] if current else Decimal(0)) for name in ("spent", "held"))
        standing = (
            f", of which {spent} {unit} are spent and {held} {unit} held by calls under way" if not member else ""
        )
        end = period_end(limit.period, start)
        wait = "" if end is None else f", or wait until {end.isoformat()} (UTC)"
        return BudgetExceeded(
            f"the call may use {rounded(need)} {unit} but {await self.limits.called(limit)} has "
            f"{rounded(limit.amount)} {unit} per {limit.period}{standing}: have the limit raised, ask for fewer output "
            f"tokens{wait}"
        )


async def _called(system: str, names: Mirror[str] | None) -> str:
    """Name a system as people do; by its id while nobody can say."""
    try:
        return (names and await names.get(system)) or system
    except Unavailable:
        return system


def _rights(call: Call) -> None:
    """Keep a key to its models and tools."""
    principal = call.principal
    if not _may(principal, call.model):
        raise NotAllowed(
            f"key {principal.key_id!r} may not use the model {call.model!r}: ask its owner to widen it", param="model"
        )
    if principal.tools is not None:
        for tool in call.tools:
            if tool.name not in principal.tools:
                raise NotAllowed(
                    f"key {principal.key_id!r} may not offer the tool {tool.name!r}: ask its owner to widen it",
                    param="tools",
                )


def _may(principal: Principal, model: str) -> bool:
    return principal.models is None or model in principal.models


def _told_only(limit: Limit, call: Call) -> bool:
    """A limit that alerts refuses nothing; one that degrades does not refuse the model it degrades to."""
    return limit.action == "alert" or (limit.action == "degrade" and limit.degrade_to == call.model)


def _limited(wait: Wait, need: int) -> RateLimited:
    limit = wait.limit
    per = "at a time" if limit.measure == "concurrency" else f"{limit.measure} per minute"
    if need > limit.amount:
        return RateLimited(
            f"the call counts as {need} {limit.measure} and {limit.whose} may use {limit.amount:.0f} {per}: it can "
            "never pass; make it smaller, or have the limit raised"
        )
    error = RateLimited(f"{limit.whose} may make {limit.amount:.0f} {per}: try again in {wait.seconds:.3f} s")
    # The name under which surfaces look for it, as for what a provider asks for.
    vars(error)["retry_after_s"] = float(wait.seconds)
    return error
