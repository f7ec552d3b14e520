"""What had been spent on lines that a retry sets aside: in them, and in runs they have started that told nobody yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from metier.calls import RunId
from metier.store import Queries, Tx
from metier.workflow.commands import BEGAN, CHILD, GATHERED, Entry

__all__ = ["began_at", "spent_below", "told_by"]

_NOTHING = Decimal(0)


def began_at(aside: Iterable[Entry]) -> set[str]:
    """Give where runs were started by lines that are set aside."""
    return {
        f"{entry.path}{entry.name.removeprefix(CHILD).removeprefix(BEGAN)}"
        for entry in aside
        if entry.name.startswith((CHILD, BEGAN))
    }


def told_by(aside: Sequence[Entry]) -> Decimal:
    """Add up what lines tell that are set aside, with answers of steps that had not ended."""
    ended = {(entry.path, entry.attempt) for entry in aside if not entry.name}
    return sum(
        (
            entry.cost_eur
            for entry in aside
            if entry.name in ("", GATHERED) or (entry.kind == "answer" and (entry.path, entry.attempt) not in ended)
        ),
        start=_NOTHING,
    )


async def spent_below(queries: Queries, tx: Tx, run: RunId, places: Iterable[str]) -> Decimal:
    """Add up what runs have spent that were started at some places of a run and have not told it."""
    every: list[str] = []
    level, paths, told = [str(run)], sorted(places), _NOTHING
    while level and (every or paths):
        rows = await queries.all("untold_at", {"ids": level, "paths": None if every else paths}, tx)
        level = [row["id"] for row in rows]
        told += sum((row["told_eur"] for row in rows), start=_NOTHING)
        every.extend(level)
    row = await queries.one("spent_by", {"ids": every}, tx) if every else None
    return _NOTHING if row is None else max(row["eur"] - told, _NOTHING)
