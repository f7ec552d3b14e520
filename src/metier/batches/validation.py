"""Reads the file of a batch line by line and notes what can be called, and why the rest cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from metier.batches.files import StoredFile
from metier.batches.lines import LINE_LIMIT, Cut, Cutter, Fault, Surface, prepare, read
from metier.batches.progress import Held, Noted
from metier.batches.results import unanswered
from metier.calls import Principal

__all__ = ["Reading"]

_MOST_TOLD = 50


@dataclass(slots=True)
class Reading:
    """The file of one batch while it is read; says in the end whether anything of it can be called."""

    held: Held
    surface: Surface
    principal: Principal
    most: int
    """Requests a batch may have."""
    lines: int = 0
    good: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)
    """The first faults, for a client who gets no error file."""
    _seen: set[str] = field(default_factory=set)
    _cutter: Cutter = field(default_factory=Cutter)

    async def feed(self, data: bytes) -> list[Noted]:
        """Take some more of the file and give the lines that end in it, checked."""
        return await asyncio.to_thread(lambda: self._checked(self._cutter.feed(data)))

    async def end(self) -> list[Noted]:
        """Give the last line, where no line end stands behind it."""
        return await asyncio.to_thread(lambda: self._checked(self._cutter.end()))

    @property
    def too_many(self) -> bool:
        """Whether there are more lines than a batch may have."""
        return self.lines > self.most

    def faults(self, file: StoredFile) -> Sequence[dict[str, Any]]:
        """Say why the file as a whole cannot be used; empty when it can."""
        if self.too_many:
            told = f"the file has more than {self.most} requests: send them in several batches"
            return [{"code": "too_many_lines", "message": told, "param": "input_file_id", "line": None}]
        if self.lines == 0:
            told = f"the file {file.id!r} holds no request: write one JSON object per line"
            return [{"code": "empty_file", "message": told, "param": "input_file_id", "line": None}]
        return self.told if self.good == 0 else ()

    def _checked(self, cuts: Sequence[Cut]) -> list[Noted]:
        found = []
        for cut in cuts:
            self.lines += 1
            if self.too_many:
                break
            custom_id, fault = self._look(cut)
            error = None
            if fault is None:
                self.good += 1
            else:
                error = unanswered(self.held.id, cut.number, custom_id, fault)
                if len(self.told) < _MOST_TOLD:
                    told = {"code": fault.code, "message": fault.message, "param": fault.param, "line": cut.number}
                    self.told.append(told)
            found.append(Noted(cut.number, cut.start, min(cut.size, 2**31 - 1), custom_id, error))
        return found

    def _look(self, cut: Cut) -> tuple[str | None, Fault | None]:
        if cut.data is None:
            told = f"the line has {cut.size} bytes: a request may have {LINE_LIMIT}"
            return None, Fault("line_too_long", told)
        custom_id, asked = read(cut.data, self.held.endpoint)
        if custom_id is not None and custom_id in self._seen:
            told = f"custom_id {custom_id[:80]!r} stands in an earlier line: give each line its own"
            return custom_id, Fault("duplicate_custom_id", told, "custom_id")
        if custom_id is not None:
            self._seen.add(custom_id)
        if isinstance(asked, Fault):
            return custom_id, asked
        prepared = prepare(asked, self.surface, self.principal)
        return custom_id, prepared if isinstance(prepared, Fault) else None
