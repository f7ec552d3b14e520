"""What single numbers in an office file would take of memory, looked at before the file is read."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from xml.parsers import expat

from metier.errors import Invalid

__all__ = ["check_bounds"]

_CELLS = 1_000_000
"""Cells of one table or sheet, the empty ones between others included."""
_MOST = {"gridSpan": 1_000, "gridBefore": 1_000, "gridAfter": 1_000, "ilvl": 100, "outlineLvl": 100}
_DEEPEST = 1_000
"""Elements inside one another; readers go down into them by recursion."""
_NUMBER = re.compile(r"\s*\+?0*([0-9]+)\s*")
_PLACE = re.compile(r"([A-Z]{1,4})([0-9]{1,9})")


def check_bounds(name: str, archive: zipfile.ZipFile, known: Mapping[str, str]) -> None:
    """Refuse a file in which a few bytes ask for more cells or levels than memory holds.

    `known` says what people call some of its parts.
    """
    for entry in archive.infolist():
        data = archive.read(entry)
        is_xml = entry.filename.lower().endswith((".xml", ".rels"))
        if not is_xml and not data[:4].strip(b"\xef\xbb\xbf\xfe\xff\x00 \r\n\t").startswith(b"<"):
            continue
        try:
            _Part(name).read(data)
        except expat.ExpatError as error:
            if is_xml:
                part = known.get(entry.filename) or f"its part {entry.filename!r}"
                raise Invalid(f"Reading {name!r} failed: {part} is broken; save it again.") from error


class _Part:
    """Counts what one part of the file makes of rows, columns and levels."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._deep = 0
        self._rows = 0
        self._widest = 0
        self._wide: list[int] = []
        """Columns of the table rows that are open, one inside the other."""
        self._first: tuple[int, int] | None = None
        self._last = (0, 0)

    def read(self, data: bytes) -> None:
        """Read a part to its end, or raise Invalid where it goes beyond."""
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.EntityDeclHandler = self._entity
        parser.Parse(data, True)

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._deep += 1
        if self._deep > _DEEPEST:
            raise self._beyond(f"{_DEEPEST} elements stand inside one another")
        element = tag.rpartition(":")[2]
        if element in _MOST:
            number = max((self._number(value) for value in attributes.values()), default=0)
            if number > _MOST[element]:
                raise self._beyond(f"{element} is {number}")
            if self._wide:
                self._wide[-1] += number
        elif element == "tr":
            self._rows += 1
            self._wide.append(0)
        elif element == "tc" and self._wide:
            self._wide[-1] += 1
        elif element == "c" and (found := _PLACE.fullmatch(attributes.get("r", "").strip().upper())):
            self._cell(int(found[2]), found[1])

    def _end(self, tag: str) -> None:
        self._deep -= 1
        if tag.rpartition(":")[2] == "tr" and self._wide:
            self._widest = max(self._widest, self._wide.pop())
            self._within(self._rows * self._widest)

    def _cell(self, row: int, letters: str) -> None:
        column = 0
        for letter in letters:
            column = column * 26 + ord(letter) - 64
        first, last = self._first or (row, column), self._last
        self._first = first = (min(first[0], row), min(first[1], column))
        self._last = last = (max(last[0], row), max(last[1], column))
        self._within((last[0] - first[0] + 1) * (last[1] - first[1] + 1))

    def _entity(self, *_: object) -> None:
        raise self._beyond("it declares entities")

    def _within(self, cells: int) -> None:
        if cells > _CELLS:
            raise self._beyond(f"a table spreads over {cells:,} cells")

    def _number(self, text: str) -> int:
        found = _NUMBER.fullmatch(text)
        return 0 if found is None else int(found[1][:9])

    def _beyond(self, what: str) -> Invalid:
        return Invalid(f"Reading {self._name!r} failed: {what}, more than is read; split the document.")
