"""Cuts a parsed document into chunks that stay inside one section and can be found again at their anchor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from metier.knowledge.blocks import Anchor, Block, Parsed

__all__ = ["CountTokens", "Piece", "Sizes", "cut", "estimate_tokens"]

CountTokens = Callable[[str], int]
"""Counts the tokens of a text for the model that will embed it."""

_SENTENCE = re.compile(r"(?<=[.!?…;])\s+(?=[\w«\"'(\[-])|\n+")


def estimate_tokens(text: str) -> int:
    """Estimate tokens as 1.4 for each word, or one for 8 characters where words are longer than words are."""
    return max(-(-len(text.split()) * 14 // 10), len(text) // 8)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long chunks should be, in tokens."""

    least: int = 200
    """A chunk is closed at the next border once it holds this much."""
    most: int = 350
    """No chunk is longer, heading path and repeated table header apart."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of a document before it is stored."""

    text: str
    """What a reader is shown and citations are checked against."""
    anchor: Anchor
    parent: tuple[int, int]
    """First character of the whole section and the one after its last."""

    def indexed(self, title: str | None) -> str:
        """Give the text that is searched: title and heading path above the text itself."""
        path = [*([title] if title and title not in self.anchor.headings else []), *self.anchor.headings]
        return f"{' › '.join(path)}\n{self.text}" if path else self.text


@dataclass(frozen=True, slots=True)
class _Unit:
    """The smallest part that is not cut: a sentence, a short paragraph, a table row."""

    anchor: Anchor
    tokens: int
    header: str | None = None
    """The header to repeat when a chunk begins with this row."""


def cut(parsed: Parsed, sizes: Sizes, count: CountTokens = estimate_tokens) -> tuple[Piece, ...]:
    """Cut every section into pieces of the wanted size, table headers repeated, nothing left out."""
    pieces: list[Piece] = []
    sections = list(_sections(parsed.blocks))
    for at, section in enumerate(sections):
        below = sections[at + 1][0].anchor.headings if at + 1 < len(sections) else ()
        path = section[0].anchor.headings
        body = [block for block in section if block.kind != "heading"]
        if not body:
            # A heading with nothing under it but deeper headings is carried by their path.
            if len(below) > len(path) and below[: len(path)] == path:
                continue
            body = section
        parent = (section[0].anchor.start, section[-1].anchor.end)
        units = [unit for block in body for unit in _units(parsed.text, block, sizes.most, count)]
        pieces.extend(_piece(parsed.text, group, parent) for group in _groups(units, sizes))
    return tuple(pieces)


def _sections(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    held: list[Block] = []
    for block in blocks:
        if held and (block.kind == "heading" or block.anchor.headings != held[0].anchor.headings):
            yield held
            held = []
        held.append(block)
    if held:
        yield held


def _units(text: str, block: Block, most: int, count: CountTokens) -> Iterator[_Unit]:
    if block.kind != "table":
        for start, end in _spans(text, block.anchor.start, block.anchor.end, most, count):
            yield _Unit(replace(block.anchor, start=start, end=end), count(text[start:end]))
        return
    header, at = block.rows[0], block.anchor.start
    lines = [f"{header}\n{block.rows[1]}", *block.rows[2:]] if len(block.rows) > 1 else [header]
    numbers = [(block.numbers[0], block.numbers[min(1, len(block.numbers) - 1)])]
    numbers += [(number, number) for number in block.numbers[2:]]
    for line, rows in zip(lines, numbers, strict=True):
        for start, end in _spans(text, at, at + len(line), most, count, whole_lines=True):
            repeated = None if start == block.anchor.start else header
            yield _Unit(replace(block.anchor, start=start, end=end, rows=rows), count(text[start:end]), repeated)
        at += len(line) + 1


def _spans(
    text: str, start: int, end: int, most: int, count: CountTokens, whole_lines: bool = False
) -> Iterator[tuple[int, int]]:
    """Give the part as it is when it fits, else its sentences, else runs of words."""
    if count(text[start:end]) <= most:
        yield start, end
        return
    borders = [] if whole_lines else [start + found.start() for found in _SENTENCE.finditer(text[start:end])]
    for first, last in zip([start, *borders], [*borders, end], strict=True):
        first += len(text[first:last]) - len(text[first:last].lstrip())
        if count(text[first:last]) <= most:
            if first < last:
                yield first, last
            continue
        words = [(first + found.start(), first + found.end()) for found in re.finditer(r"\S{1,200}", text[first:last])]
        step = max(1, len(words) * most // max(1, count(text[first:last])))
        for run in range(0, len(words), step):
            yield words[run][0], words[min(run + step, len(words)) - 1][1]


def _groups(units: Sequence[_Unit], sizes: Sizes) -> Iterator[list[_Unit]]:
    """Share the units of a section out evenly, so that no short rest is left alone at its end."""
    total = sum(unit.tokens for unit in units)
    parts = max(1, round(total / ((sizes.least + sizes.most) / 2)), -(-total // sizes.most))
    held, tokens = list[_Unit](), 0
    for unit in units:
        if held and (tokens + unit.tokens > sizes.most or tokens + unit.tokens / 2 > total / parts):
            yield held
            held, tokens = [], 0
        held.append(unit)
        tokens += unit.tokens
    if held:
        yield held


def _piece(text: str, units: Sequence[_Unit], parent: tuple[int, int]) -> Piece:
    first, last = units[0], units[-1]
    body = text[first.anchor.start : last.anchor.end]
    rows = [unit.anchor.rows for unit in units if unit.anchor.rows]
    anchor = replace(first.anchor, end=last.anchor.end, rows=(rows[0][0], rows[-1][1]) if rows else None)
    return Piece(f"{first.header}\n{body}" if first.header else body, anchor, parent)
