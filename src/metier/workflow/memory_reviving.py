"""What failed or was cancelled below a run in memory goes on with it, and what it cost; without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from metier.calls import JSON, RunId
from metier.workflow.commands import GATHERED, Entry
from metier.workflow.ground import Purse
from metier.workflow.memory_records import Origin, Record
from metier.workflow.reviving import once_more, same

if TYPE_CHECKING:
    from metier.workflow.memory_book import Book

__all__ = ["again", "failed", "spent", "take_up"]


def again(book: Book, record: Record, *, told: Mapping[str, JSON] | None = None, lend: bool = True) -> None:
    """Let a run that failed go on, with what it had begun below it; due is for its caller to say."""
    failure = record.run.failure
    if failure is not None and failure.path:
        spent = lend and Purse(record.workflow.budget, record.lines.values()).empty
        for key, decision in once_more(failure, record.lines, spent=spent, told=told):
            if told is not None or key not in record.lines or not same(record.lines[key], decision):
                book.write(record, Entry(*key, "decision", decision, book.clock()))
    record.run = replace(record.run, failure=None, finished_at=None)
    book.become(record, "pending")
    _wake_below(book, record.run.id)


def failed(book: Book, origin: Origin) -> list[Record]:
    """Give the run that failed under an attempt of a step, or that somebody has cancelled, if there is one."""
    place = (origin.path, origin.attempt, origin.item)
    return [
        one
        for one in book.below.get(origin.run, ())
        if one.origin is not None
        and (one.origin.path, one.origin.attempt, one.origin.item) == place
        and (one.run.status == "failed" or (one.run.status == "cancelled" and not one.left_behind))
    ]


def take_up(book: Book, record: Record, origin: Origin, *, lend: bool) -> None:
    """Let a run that failed go on under another attempt of its step; its parent has counted what it has cost."""
    record.origin, record.told_eur = origin, record.run.cost_eur
    again(book, record, lend=lend)


def spent(book: Book, record: Record) -> Decimal:
    """Count what a run has cost, with what runs below it have spent that no line of it tells."""
    ended = {(line.path, line.attempt) for line in record.lines.values() if not line.name}
    found = Decimal(0)
    for line in record.lines.values():
        if line.name in ("", GATHERED) or (line.kind == "answer" and (line.path, line.attempt) not in ended):
            found += line.cost_eur
    for one in book.below.get(record.run.id, ()):
        assert one.origin is not None
        told = (one.origin.path, one.origin.attempt, GATHERED) in record.lines
        if one.left_behind if one.origin.item is None else not told:
            found += spent(book, one) - one.told_eur
    return found


def _wake_below(book: Book, run: RunId) -> None:
    for record in book.below.get(run, ()):
        if record.left_behind:
            record.left_behind = False
            waits = record.origin is not None and record.origin.item is not None and not record.epoch
            record.run = replace(record.run, finished_at=None)
            book.become(record, "queued" if waits else "pending")
            if not waits:
                book.due[record.run.id] = None
            _wake_below(book, record.run.id)
