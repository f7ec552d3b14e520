"""Does many runs again: chosen by flow, status, failure and dates, foreseen first, with the most they can cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, Protocol, TypeAlias

from metier.calls import RunId, new_id
from metier.catalog import Catalog
from metier.errors import BudgetExceeded, Invalid, MetierError
from metier.store import Store
from metier.window import Window
from metier.workflow.commands import ASK_BUDGET, GATHERED, Entry
from metier.workflow.cutting import with_models
from metier.workflow.definition import Workflow
from metier.workflow.engine import Engine, Run
from metier.workflow.foresee import Foresight, Resolver
from metier.workflow.looking import Chosen
from metier.workflow.operations import Operations

__all__ = ["Again", "Asks", "Foreseen", "How", "Many", "Platform", "Rerun"]

How: TypeAlias = Literal["resume", "retry", "fork", "afresh"]

Asks: TypeAlias = Callable[[str, str, str], Awaitable[None]]
"""Writes down, by project, workflow and cause, who asks for a run: they do not approve it."""

_Place: TypeAlias = tuple[str, str, frozenset[str], int]
"""Definition, project, steps that are done, and how often people have lent the money of the run again."""

_STANDING = ("failed", "dead")
_ENDED = ("done", "failed", "dead", "cancelled")


class Platform(Protocol):
    """What doing runs again needs of the platform."""

    @property
    def store(self) -> Store:
        """Where runs are."""
        ...

    @property
    def catalog(self) -> Catalog:
        """The models there are now."""
        ...

    @property
    def roles(self) -> Mapping[str, str]:
        """Which of them a role means."""
        ...

    @property
    def releases(self) -> Resolver:
        """Finds released flows."""
        ...

    @property
    def engine(self) -> Engine:
        """Moves runs."""
        ...

    @property
    def operations(self) -> Operations:
        """Looks after single runs."""
        ...


@dataclass(frozen=True, slots=True)
class Again:
    """In which way runs are done again."""

    how: How
    """From where they stopped; from a step; as other runs that keep what holds; or as other runs that keep nothing."""
    step: str | None = None
    """Path of the step, for `retry`."""
    workflow: Workflow | None = None
    """Another definition, for other runs; None keeps the one each has."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Other models or roles in the place of some, for other runs."""
    label: str | None = None
    """Names the batch: with the same one, a run has one other run and no more, however often this is asked."""
    window: str | None = None
    """Hours in which other runs begin; None keeps those each was asked for with."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What doing one run again means, or has come to."""

    run: RunId
    workflow: str
    status: str
    why_not: str = ""
    """Why nothing is done for this one; empty where something is."""
    first: tuple[str, ...] = ()
    """What is done first, by path."""
    outward: tuple[str, ...] = ()
    """What is done again and may do something outside, by path."""
    most_eur: Decimal | None = Decimal(0)
    """The most it can cost from here; None where the price of a model is not known."""
    made: RunId | None = None
    """The run that goes on for it: itself, or another one; None in a dry run."""


@dataclass(frozen=True, slots=True)
class Many:
    """What doing many runs again means, or has come to."""

    label: str
    runs: tuple[Foreseen, ...]
    more: bool
    """Whether there are more such runs than were asked for."""

    @property
    def able(self) -> tuple[Foreseen, ...]:
        """Those for which something is done."""
        return tuple(one for one in self.runs if not one.why_not)

    @property
    def most_eur(self) -> Decimal:
        """The most they can cost together, as far as prices are known."""
        return sum((one.most_eur or Decimal(0) for one in self.able), start=Decimal(0))

    @property
    def unpriced(self) -> int:
        """Runs of which the price is not known, so that they may cost more."""
        return sum(one.most_eur is None for one in self.able)


class Rerun:
    """Does runs again, one or many."""

    def __init__(self, engine: Engine, operations: Operations, foresight: Foresight) -> None:
        self._engine = engine
        self._operations = operations
        self.foresight = foresight
        """Says what runs may take."""

    @classmethod
    def on(cls, app: Platform) -> Rerun:
        """Make it on a platform; it holds nothing that must be closed."""
        catalog: Callable[[], Catalog] = lambda: app.catalog  # noqa: E731  # read again for every plan
        return cls(app.engine, app.operations, Foresight(app.store, catalog, app.roles, app.releases))

    async def foresee(self, chosen: Chosen, again: Again) -> Many:
        """Say which runs would be done again, from where, and what they can cost at most; nothing is done."""
        _check(again)
        # What failed below a run goes on with that one, and is none of those that are done again.
        asked = replace(chosen, limit=chosen.limit + 1, children=False)
        found = await self._engine.search(asked)
        known: dict[_Place, Decimal | None] = {}
        runs = [await self._one(run, again, known) for run in found[: chosen.limit]]
        return Many(again.label or new_id("batch"), tuple(runs), len(found) > chosen.limit)

    async def do(
        self, chosen: Chosen, again: Again, by: str, *, at_most_eur: Decimal | None = None, asks: Asks | None = None
    ) -> Many:
        """Do them again; nothing at all is done where they may cost more than `at_most_eur`.

        With `asks` it is written down who asks for each further run, before it is made.
        """
        seen = await self.foresee(chosen, again)
        if at_most_eur is not None and (seen.most_eur > at_most_eur or seen.unpriced):
            told = "more than is known, since a price is missing" if seen.unpriced else f"up to {seen.most_eur:f} €"
            raise BudgetExceeded(
                f"{len(seen.able)} runs may cost {told}, above {at_most_eur:f} €: choose fewer runs, or allow more"
            )
        done = [
            one if one.why_not else await self._go(one, replace(again, label=seen.label), by, asks) for one in seen.runs
        ]
        return replace(seen, runs=tuple(done))

    async def _one(self, run: Run, again: Again, known: dict[_Place, Decimal | None]) -> Foreseen:
        about = Foreseen(run.id, run.workflow, run.status)
        wanted = _STANDING if again.how == "resume" else _ENDED
        if run.status not in wanted:
            return replace(about, why_not=f"it is {run.status}")
        if run.parent is not None:
            return replace(about, why_not=f"it belongs to {run.parent}, and goes on with that one when it is resumed")
        try:
            workflow = await self._definition(run.id, again)
            kept, first, outward = await self._cut(run, workflow, again)
        except MetierError as error:
            return replace(about, why_not=error.message)
        if again.how == "fork" and not first:
            return replace(about, why_not="everything of it holds: there is nothing to do")
        lent = sum(entry.name == ASK_BUDGET for entry in kept)
        place = (workflow.hash, run.project, _done(kept), lent)
        if place not in known:
            known[place] = await self.foresight.left(workflow, place[2], run.project, lent)
        return replace(about, first=first, outward=outward, most_eur=known[place])

    async def _cut(
        self, run: Run, workflow: Workflow, again: Again
    ) -> tuple[Sequence[Entry], tuple[str, ...], tuple[str, ...]]:
        """Give what holds of a run, what is done first, and what is done again and may act outside."""
        if again.how == "resume":
            failed = run.failure.path if run.failure is not None else ""
            return await self._operations.lines(run.id), (failed,) if failed else (), ()
        if again.how == "retry":
            found = await self._operations.retry(run.id, again.step or "", "", dry_run=True)
        else:
            found = await self._operations.reuse(run.id, workflow, afresh=again.how == "afresh")
        return found.kept, found.first, found.outward

    async def _go(self, one: Foreseen, again: Again, by: str, asks: Asks | None) -> Foreseen:
        try:
            if again.how == "resume":
                await self._engine.resume(one.run)
            elif again.how == "retry":
                await self._operations.retry(one.run, again.step or "", by)
            else:
                workflow = await self._definition(one.run, again)
                dedupe = f"{again.label}/{one.run}"
                if asks is not None:
                    await asks((await self._engine.get(one.run)).project, workflow.name, dedupe)
                made, _ = await self._operations.fork(
                    one.run, workflow, afresh=again.how == "afresh", dedupe=dedupe, window=again.window
                )
                return replace(one, made=made)
        except MetierError as error:
            # One that changed meanwhile keeps none of the others from being done.
            return replace(one, why_not=error.message)
        return replace(one, made=one.run)

    async def _definition(self, run: RunId, again: Again) -> Workflow:
        workflow = again.workflow or await self._engine.definition(run)
        return with_models(workflow, again.models) if again.models else workflow


def _check(again: Again) -> None:
    if (again.how == "retry") != bool(again.step):
        raise Invalid("a step goes with retry, and retry with a step: say from which one runs are done again")
    if again.how in ("resume", "retry") and (again.workflow is not None or again.models):
        raise Invalid("a run keeps its definition for life: do it again as another run (fork, or afresh) to change it")
    if again.how in ("resume", "retry") and again.window is not None:
        raise Invalid("a run keeps its hours for life: do it again as another run (fork, or afresh) to change them")
    if again.window is not None:
        Window.parse(again.window)
    if again.how == "fork" and again.workflow is None and not again.models:
        raise Invalid("a fork of runs needs another definition or other models: else say afresh, or retry from a step")


def _done(kept: Sequence[Entry]) -> frozenset[str]:
    """Give the paths that have come to their end; those of outermost steps are their ids."""
    return frozenset(
        entry.path for entry in kept if entry.name in ("", GATHERED) and entry.kind in ("result", "decision")
    )
