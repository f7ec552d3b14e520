"""Runs that failed below a run that is resumed: they go on where they failed, under the next attempt of their step."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from decimal import Decimal
from typing import Any

from metier.calls import JSON, RunId
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import ASK_BUDGET, ASK_HUMAN, Failure, Key
from metier.workflow.context import utc
from metier.workflow.definition import RunBudget
from metier.workflow.dispatch import Dispatch
from metier.workflow.journal import Journal, Line, opened

__all__ = ["Reviving", "once_more"]

_CHUNK = 500
"""Items taken up in one transaction."""


class Reviving:
    """Takes up what failed below a run, with all that was paid for and done; nothing of it is bought or done again."""

    def __init__(self, store: Store, vault: Vault, dispatch: Dispatch, journal: Journal) -> None:
        self._store = store
        self._vault = vault
        self._dispatch = dispatch
        self._journal = journal
        self._queries = store.queries("engine")

    async def called(self, tx: Tx, place: Row, budget: RunBudget | None, left: Decimal | None) -> RunId | None:
        """Let the run of a called flow that failed under the attempt before go on under this one; None where none did.

        `budget` is that of the flow itself, `left` what its caller may still spend, in euros.
        """
        for row in await self._queries.all("failed_call", place, tx):
            over = budget is not None and row["cost_eur"] >= budget.per_run_eur
            await self._take_up(tx, [row], place, status="pending", left=left, lend=over)
            await self._dispatch.defer(tx, RunId(row["id"]))
            return RunId(row["id"])
        return None

    async def items(self, place: Row, numbers: Sequence[int]) -> None:
        """Let the items that failed under the attempt before stand in line again under this one."""
        for first in range(0, len(numbers), _CHUNK):
            async with self._store.transaction() as tx:
                asked = {**place, "items": [*numbers[first : first + _CHUNK]]}
                rows = await self._queries.all("failed_items", asked, tx)
                if rows:
                    await self._take_up(tx, rows, place, status="queued", left=None, lend=False)

    async def below(self, tx: Tx, runs: Sequence[RunId]) -> None:
        """Let the runs go on that were cancelled only because these, which are taken up, had come to an end."""
        for row in await self._queries.all("left_behind", {"ids": [*runs]}, tx):
            await self._queries.run("forget_questions", {"run": row["id"]}, tx)
            if row["status"] == "pending":
                await self._dispatch.defer(tx, RunId(row["id"]))

    async def _take_up(
        self, tx: Tx, rows: Sequence[Row], place: Row, *, status: str, left: Decimal | None, lend: bool
    ) -> None:
        ids = [RunId(row["id"]) for row in rows]
        moved = {"ids": ids, "attempt": place["attempt"], "status": status, "left_eur": left}
        await self._queries.run("take_up", moved, tx)
        for run, row in zip(ids, rows, strict=True):
            failure = None
            if row["error"] is not None:
                told: dict[str, Any] = opened(self._vault, run, "error", row["error"])
                failure = Failure(**told)
            if failure is None or not failure.path:
                continue
            entries = await self._journal.load(run) if failure.code == "run_budget_exceeded" else {}
            # Without lending it may spend what its caller has left by now.
            for key, decision in once_more(failure, entries, spent=lend):
                # Whoever settled something below has said more than that: their decision stays.
                await self._journal.tell(tx, run, Line(key[0], key[1], "decision", decision, utc(), name=key[2]))
        await self.below(tx, ids)


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
