"""Runs that failed, or were cancelled, below one that is resumed: they go on there, under the next attempt."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from decimal import ROUND_DOWN, Decimal
from typing import Any

from metier.calls import JSON, RunId
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import ASK_BUDGET, ASK_HUMAN, Entry, Failure, Key
from metier.workflow.context import utc
from metier.workflow.definition import RunBudget
from metier.workflow.dispatch import Dispatch
from metier.workflow.ground import Purse
from metier.workflow.journal import Hold, Journal, Line, LostRun, opened

__all__ = ["Reviving", "failed_for", "lasting", "once_more", "same"]

_CHUNK = 500
"""Items taken up in one transaction."""
_SMALLEST = Decimal("1e-9")


class Reviving:
    """Takes up what failed below a run, with all that was paid for and done; nothing of it is bought or done again."""

    def __init__(self, store: Store, vault: Vault, dispatch: Dispatch, journal: Journal) -> None:
        self._store = store
        self._vault = vault
        self._dispatch = dispatch
        self._journal = journal
        self._queries = store.queries("engine")

    async def called(self, tx: Tx, place: Row, budget: RunBudget | None, left: Decimal | None) -> RunId | None:
        """Let the run of a called flow that failed, or was cancelled, under the attempt before go on; None without one.

        `budget` is that of the flow itself, `left` what its caller may still spend, in euros.
        """
        row = await self._queries.one("failed_call", place, tx)
        if row is None:
            return None
        run = RunId(row["id"])
        entries = await self._journal.load(run, tx=tx)
        await self._decide(tx, run, row, entries, lend=Purse(budget, entries.values()).empty)
        lent = Purse(None, entries.values()).lent
        allowance = None if left is None else lasting(row["cost_eur"] + left, lent)
        await self._take_up(tx, [run], place, status="pending", allowance=allowance)
        await self._dispatch.defer(tx, run)
        return run

    async def items(self, hold: Hold, place: Row, numbers: Sequence[int]) -> None:
        """Let the items that failed, or were cancelled, under the attempt before stand in line again under this one."""
        for first in range(0, len(numbers), _CHUNK):
            async with self._store.transaction() as tx:
                asked = {**place, "items": [*numbers[first : first + _CHUNK]]}
                rows = await self._queries.all("failed_items", asked, tx)
                # A worker that stood still and lost the run would take up what nobody goes on with.
                if await self._queries.one("holds", {"id": hold.run, "epoch": hold.epoch}, tx) is None:
                    raise LostRun(f"run {hold.run!r} is held by another worker than that of epoch {hold.epoch}")
                for row in rows:
                    await self._decide(tx, RunId(row["id"]), row, lend=False)
                if rows:
                    await self._take_up(tx, [RunId(row["id"]) for row in rows], place, status="queued", allowance=None)

    async def below(self, tx: Tx, runs: Sequence[RunId]) -> None:
        """Let the runs go on that were cancelled only because these, which are taken up, had come to an end."""
        for row in await self._queries.all("left_behind", {"ids": [*runs]}, tx):
            await self._queries.run("forget_questions", {"run": row["id"]}, tx)
            if row["status"] == "pending":
                await self._dispatch.defer(tx, RunId(row["id"]))

    async def _take_up(
        self, tx: Tx, runs: Sequence[RunId], place: Row, *, status: str, allowance: Decimal | None
    ) -> None:
        moved = {"ids": [*runs], "attempt": place["attempt"], "status": status, "allowance_eur": allowance}
        await self._queries.run("take_up", moved, tx)
        await self.below(tx, runs)

    async def _decide(
        self, tx: Tx, run: RunId, row: Row, entries: dict[Key, Entry] | None = None, *, lend: bool
    ) -> None:
        """Write into the journal of a run that failed, and into `entries` where they are known, that it goes on."""
        if row["error"] is None:
            return
        told: dict[str, Any] = opened(self._vault, run, "error", row["error"])
        failure = Failure(**told)
        if not failure.path:
            return
        if entries is None and failure.code == "run_budget_exceeded":
            entries = await self._journal.load(run, tx=tx)
        # Without lending it may spend what its caller has left by now.
        for key, decision in once_more(failure, entries or {}, spent=lend):
            line = Line(key[0], key[1], "decision", decision, utc(), name=key[2])
            if not await self._journal.tell(tx, run, line):
                entries = await self._journal.load(run, tx=tx) if entries is None else entries
                # Whoever settled something below has said more: their decision stays, where it lets it go on.
                if same(entries[key], decision):
                    continue
                await self._journal.tell(tx, run, line, replace=True)
            if entries is not None:
                entries[key] = line.entry()


def failed_for(above: Failure, path: str, attempt: int, item: int | None) -> bool:
    """Say whether a run failed because of what a step of it had started: a called flow, or an item of it."""
    return above.attempt == attempt and (above.path == path or (item is not None and above.path.startswith(f"{path}[")))


def same(known: Entry, decision: Mapping[str, JSON]) -> bool:
    """Say whether somebody has decided this already, whatever else they have said."""
    return isinstance(known.value, dict) and known.value.get("decision") == decision["decision"]


def lasting(limit: Decimal, lent: int) -> Decimal:
    """Give the budget that comes to a limit with what was lent on it already: each time as much again."""
    return (limit / (1 + lent)).quantize(_SMALLEST, ROUND_DOWN)


def once_more(
    failure: Failure, entries: Container[Key], *, spent: bool, told: Mapping[str, JSON] | None = None
) -> list[tuple[Key, dict[str, JSON]]]:
    """Give the decisions that let a run go on after a failure, and where each belongs.

    `spent` says whether it needs money lent again; `told` is what else is said about what failed.
    """
    again = ((failure.path, failure.attempt, ASK_HUMAN), {"decision": "retry", **(told or {})})
    if failure.code != "run_budget_exceeded":
        return [again]
    item = failure.path.endswith("]")
    below = item or (failure.path, failure.attempt, "") in entries
    place = failure.path[: failure.path.rindex("[")] if item else failure.path
    more: dict[str, JSON] = {"decision": "continue", **({} if below else told or {})}
    lent = ((place, failure.attempt + below, ASK_BUDGET), more)
    return [*([again] if below else []), *([lent] if spent else [])]
