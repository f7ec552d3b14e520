"""Branches of a walk that go on side by side: generators that are woken by the journal or by each other's end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from metier.workflow.commands import Finish, Park, WaitUntil, Work

__all__ = ["Block", "Nursery", "Open", "Strand", "Strands", "Way"]

Open: TypeAlias = Work | Park | WaitUntil


@dataclass(slots=True)
class Nursery:
    """Strands that one strand has begun and waits for."""

    strands: Strands
    children: dict[int, Strand] = field(default_factory=dict)
    """Those still under way, by their number among the siblings."""
    mother: Strand | None = None
    """The strand that waits, while it does."""
    ended: list[tuple[int, Finish | None]] = field(default_factory=list)
    """Those that ended since the mother last looked, with what they ended in."""

    def begin(self, number: int, way: Way) -> None:
        """Let one more go on beside the others."""
        strand = Strand(way, self, number)
        self.children[number] = strand
        self.strands.ready.append(strand)

    def collect(self) -> list[tuple[int, Finish | None]]:
        """Give those that ended since the last time."""
        ended, self.ended = self.ended, []
        return ended

    def drop(self, number: int) -> None:
        """Forget one that is no longer wanted, and all it has begun."""
        strand = self.children.pop(number, None)
        if strand is not None:
            self.strands.forget(strand)


Block: TypeAlias = "Open | Nursery"
Way: TypeAlias = "Generator[Block, None, Finish | None]"
"""One branch of a walk: gives what it waits for, and in the end what it stopped with, or None to go on after it."""


@dataclass(slots=True, eq=False)
class Strand:
    """One way under way."""

    way: Way
    nursery: Nursery | None = None
    number: int = 0
    block: Block | None = None
    over: bool = False


class Strands:
    """All strands of one walk: who waits for which path of the journal, and who may go on."""

    def __init__(self) -> None:
        self.ready: deque[Strand] = deque()
        self._waiting: dict[str, Strand] = {}

    def open(self) -> Iterable[Open]:
        """Give what the strands wait for, one command each."""
        return (strand.block for strand in self._waiting.values() if not isinstance(strand.block, Nursery | None))

    def wake(self, path: str) -> bool:
        """Let the strand that waits for a path look again; say whether there is one."""
        strand = self._waiting.get(path)
        if strand is None:
            return False
        self.ready.append(strand)
        return True

    def run(self, done: Callable[[Strand, Finish | None], None]) -> None:
        """Let every strand go on as far as it can; `done` hears of those that belong to no nursery."""
        while self.ready:
            strand = self.ready.popleft()
            if strand.over:
                continue
            try:
                block = next(strand.way)
            except StopIteration as stop:
                self._end(strand, stop.value, done)
                continue
            self._wait(strand, block)

    def forget(self, strand: Strand) -> None:
        """Take a strand and all it has begun out of the walk."""
        left = [strand]
        while left:
            one = left.pop()
            one.over = True
            if isinstance(one.block, Nursery):
                left.extend(one.block.children.values())
            self._unwait(one)
            one.way.close()

    def _wait(self, strand: Strand, block: Block) -> None:
        self._unwait(strand)
        strand.block = block
        if not isinstance(block, Nursery):
            self._waiting[block.path] = strand
        elif block.ended:
            self.ready.append(strand)
        else:
            block.mother = strand

    def _unwait(self, strand: Strand) -> None:
        block = strand.block
        if block is not None and not isinstance(block, Nursery) and self._waiting.get(block.path) is strand:
            del self._waiting[block.path]
        strand.block = None

    def _end(self, strand: Strand, end: Finish | None, done: Callable[[Strand, Finish | None], None]) -> None:
        strand.over = True
        self._unwait(strand)
        nursery = strand.nursery
        if nursery is None:
            done(strand, end)
            return
        nursery.children.pop(strand.number, None)
        nursery.ended.append((strand.number, end))
        if nursery.mother is not None:
            mother, nursery.mother = nursery.mother, None
            self.ready.append(mother)
