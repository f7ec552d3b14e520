"""What a parser gives: blocks of a document, each with the anchor that says where it stands."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Anchor", "Block", "Outline", "Parsed", "visible"]

_INVISIBLE = re.compile(
    "[\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e0fff]"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a block or a chunk stands in its document, so that a reader can be led to the exact place."""

    start: int
    """First character in the text of the document."""
    end: int
    """Character after the last one."""
    headings: tuple[str, ...] = ()
    """Headings above it, from the widest to the nearest."""
    page: int | None = None
    """Page number from 1, where the format has pages."""
    sheet: str | None = None
    """Name of the sheet of a workbook."""
    rows: tuple[int, int] | None = None
    """First and last row of the sheet or table, counted from 1 as the reader sees them."""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading, a paragraph or a table of a document, in reading order."""

    kind: Literal["heading", "text", "table"]
    text: str
    anchor: Anchor
    rows: tuple[str, ...] = ()
    """For a table: its lines as they stand in the text, the header first."""
    numbers: tuple[int, ...] = ()
    """For a table: the number of each line, since empty rows are counted but not written."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document as text with anchored blocks, and everything that was left out of it."""

    text: str
    """The whole text; anchors count its characters."""
    blocks: tuple[Block, ...]
    title: str | None = None
    language: str | None = None
    version: str | None = None
    warnings: tuple[str, ...] = ()
    """What was left out, replaced or doubtful; empty when nothing was."""


def visible(text: str) -> tuple[str, int]:
    """Give the text in composed form without characters nobody sees, and how many of those there were."""
    clean, hidden = _INVISIBLE.subn("", _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")))
    return unicodedata.normalize("NFC", clean), hidden


class Outline:
    """Collects blocks in reading order and keeps the headings above them and the character count."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._headings: list[tuple[int, str]] = []
        self._length = 0
        self._hidden = 0
        self._warnings: list[str] = []

    def heading(self, level: int, text: str, page: int | None = None, sheet: str | None = None) -> None:
        """Open a section of that level, closing those as deep or deeper."""
        text = " ".join(self._visible(text).split())
        if text:
            self._headings = [(deep, title) for deep, title in self._headings if deep < level]
            self._headings.append((level, text))
            self._place("heading", text, page=page, sheet=sheet)

    def text(self, text: str, page: int | None = None) -> None:
        """Add a paragraph or a list item to the section that is open."""
        if text := self._visible(text).strip():
            self._place("text", text, page=page)

    def table(
        self, rows: Sequence[Sequence[str]], *, first_row: int = 1, page: int | None = None, sheet: str | None = None
    ) -> None:
        """Add a table, its first row being the header; rows without any content are counted but not written."""
        lines: list[str] = []
        numbers: list[int] = []
        for number, row in enumerate(rows, first_row):
            cells = [" ".join(self._visible(cell).split()).replace("|", "¦") for cell in row]
            if any(cells):
                lines.append("| " + " | ".join(cells) + " |")
                numbers.append(number)
        if lines:
            self._place("table", "\n".join(lines), page=page, sheet=sheet, rows=tuple(lines), numbers=tuple(numbers))

    def warn(self, warning: str) -> None:
        """Note something that was left out or is doubtful."""
        if warning not in self._warnings:
            self._warnings.append(warning)

    def done(self, title: str | None = None, language: str | None = None, version: str | None = None) -> Parsed:
        """Give the document as collected."""
        if self._hidden:
            self.warn(f"{self._hidden} invisible characters were removed from the text")
        first = next((block.text for block in self._blocks if block.kind == "heading"), None)
        return Parsed(
            "\n\n".join(self._parts), tuple(self._blocks), title or first, language, version, tuple(self._warnings)
        )

    def _visible(self, text: str) -> str:
        clean, hidden = visible(text)
        self._hidden += hidden
        return clean

    def _place(
        self,
        kind: Literal["heading", "text", "table"],
        text: str,
        *,
        page: int | None = None,
        sheet: str | None = None,
        rows: tuple[str, ...] = (),
        numbers: tuple[int, ...] = (),
    ) -> None:
        start = self._length
        self._length += len(text) + 2
        self._parts.append(text)
        span = (numbers[0], numbers[-1]) if numbers else None
        above = tuple(title for _, title in self._headings)
        anchor = Anchor(start, start + len(text), above, page, sheet, span)
        self._blocks.append(Block(kind, text, anchor, rows, numbers))
