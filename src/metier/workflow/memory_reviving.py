"""What failed below a run of the engine in memory goes on with it; like `reviving`, without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from metier.calls import JSON, RunId
from metier.workflow.commands import Entry
from metier.workflow.ground import Purse
from metier.workflow.memory_records import Origin, Record
from metier.workflow.reviving import once_more, same

if TYPE_CHECKING:
    from metier.workflow.memory_book import Book

__all__ = ["again", "failed", "take_up"]


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
    """Give the run that failed under an attempt of a step, if one did."""
    place = (origin.path, origin.attempt, origin.item)
    return [
        one
        for one in book.below.get(origin.run, ())
        if one.origin is not None
        and (one.origin.path, one.origin.attempt, one.origin.item) == place
        and one.run.status == "failed"
    ]


def take_up(book: Book, record: Record, origin: Origin, *, lend: bool) -> None:
    """Let a run that failed go on under another attempt of its step; its parent has counted what it has cost."""
    record.origin, record.told_eur = origin, record.run.cost_eur
    again(book, record, lend=lend)


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
