"""DOCX, PDF and XLSX to blocks through kreuzberg, with our own checks of what it leaves out."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from types import ModuleType
from typing import Any

from metier.errors import ConfigError, Invalid
from metier.knowledge.blocks import Outline, Parsed
from metier.knowledge.office_bounds import check_bounds
from metier.knowledge.parse import Limits

__all__ = ["Office"]

_OOXML = "application/vnd.openxmlformats-officedocument."
_MEDIA = {
    ".docx": _OOXML + "wordprocessingml.document",
    ".pdf": "application/pdf",
    ".xlsx": _OOXML + "spreadsheetml.sheet",
}
_ENTRIES = 10_000
_COVERED = 0.97
"""Share of the letters of a PDF page that the structure must hold, else the raw text of the page is taken."""


class Office:
    """Reads DOCX, PDF and XLSX files; needs the extra `parse`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def accepts(self, name: str, data: bytes) -> bool:
        """Say yes to .docx, .pdf and .xlsx files, and to any file that begins like a PDF."""
        return PurePath(name).suffix.lower() in _MEDIA or data.startswith(b"%PDF-")

    def parse(self, name: str, data: bytes) -> Parsed:
        """Give the blocks of the file, its headings found by style or by size of type."""
        suffix = ".pdf" if data.startswith(b"%PDF-") else PurePath(name).suffix.lower()
        if suffix == ".pdf":
            return self._pdf(name, data)
        with _unpacked(name, data, self._limits) as archive:
            if suffix == ".docx":
                check_bounds(name, archive, {})
                return self._docx(name, data, archive)
            check_bounds(
                name, archive, {part: f"sheet {sheet!r}" for sheet, (part, _) in _sheets(name, archive).items()}
            )
            return self._xlsx(name, data, archive)

    def _docx(self, name: str, data: bytes, archive: zipfile.ZipFile) -> Parsed:
        outline = Outline()
        body = _part(name, archive, "word/document.xml")
        if re.search(rb"<w:vanish(\s*/>|\s+w:val=\"(1|true|on)\")", body):
            outline.warn("the document holds text formatted as hidden; it was read like the rest")
        if re.search(rb"<w:del[ >]", body):
            outline.warn("the document holds tracked deletions; check that the text read is the accepted one")
        result = self._extract(name, data, ".docx")
        for node in _nodes(result):
            if node.get("content_layer") in ("header", "footer"):
                outline.warn(f"page {node['content_layer']} left out: {_text(node)[:80]!r}")
            else:
                _place(node, outline)
        for warning in result.processing_warnings or ():
            outline.warn(str(warning))
        return outline.done(_title(result))

    def _xlsx(self, name: str, data: bytes, archive: zipfile.ZipFile) -> Parsed:
        outline = Outline()
        sheets = _sheets(name, archive)
        read = dict[str, list[list[str]]]()
        current = ""
        for node in _nodes(self._extract(name, data, ".xlsx")):
            kind = node["content"].get("node_type")
            if kind == "heading":
                current = _text(node)
            elif kind == "table":
                read[current] = _grid(node)
        for sheet, (part, hidden) in sheets.items():
            if hidden:
                outline.warn(f"sheet {sheet!r} is hidden and was left out")
                continue
            markup = _part(name, archive, part)
            first = re.search(rb"<row[^>]*?\sr=\"(\d+)\"[^>]*>\s*<c", markup)
            if sheet not in read:
                if first is not None:
                    raise Invalid(f"Reading {name!r} failed: sheet {sheet!r} cannot be read; save the workbook again.")
                if not re.search(rb"<sheetData\s*/?>", markup):
                    raise Invalid(f"Reading {name!r} failed: sheet {sheet!r} is broken; save the workbook again.")
                outline.warn(f"sheet {sheet!r} is empty")
                continue
            if uncomputed := len(re.findall(rb"</f>\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>", markup)):
                outline.warn(
                    f"sheet {sheet!r}: {uncomputed} formulas have no computed value; open and save it in a spreadsheet"
                )
            outline.heading(1, sheet, sheet=sheet)
            outline.table(read[sheet], first_row=int(first[1]) if first else 1, sheet=sheet)
        return outline.done(PurePath(name).stem)

    def _pdf(self, name: str, data: bytes) -> Parsed:
        outline = Outline()
        result = self._extract(name, data, ".pdf")
        raw = {int(page["page_number"]): str(page["content"]) for page in result.pages or ()}
        by_page: dict[int, list[Mapping[str, Any]]] = {page: [] for page in sorted(raw)}
        for node in _nodes(result):
            if node.get("page") is not None:
                by_page.setdefault(int(node["page"]), []).append(node)
        running = _running(raw)
        for line in sorted(running):
            outline.warn(f"line repeated on most pages left out: {line!r}")
        for page, nodes in by_page.items():
            if not raw.get(page, "").strip() and not nodes:
                outline.warn(f"page {page} holds no text; if it is a scan, it must go through OCR first")
            elif _letters("".join(map(_all_text, nodes))) < _COVERED * _letters(raw.get(page, "")):
                outline.warn(f"page {page}: the layout could not be followed; its text was read line by line")
                outline.text(
                    "\n".join(line for line in raw[page].splitlines() if _mark(line) not in running), page=page
                )
            else:
                for node in nodes:
                    if _mark(_text(node)) not in running:
                        _place(node, outline, page)
        return outline.done(_title(result))

    def _extract(self, name: str, data: bytes, suffix: str) -> Any:
        library = _kreuzberg()
        config = library.ExtractionConfig(
            output_format="markdown",
            use_cache=False,
            include_document_structure=True,
            disable_ocr=True,
            extraction_timeout_secs=self._limits.seconds,
            pages=library.PageConfig(extract_pages=True),
            content_filter=library.ContentFilterConfig(
                include_headers=True, include_footers=True, include_watermarks=True, strip_repeating_text=False
            ),
        )
        try:
            return library.extract_bytes_sync(data, _MEDIA[suffix], config)
        except library.KreuzbergError as error:
            reason = " ".join(str(error).split())[:200]
            raise Invalid(
                f"Reading {name!r} failed: {reason}; check that it opens without a password, then send it again."
            ) from error


def _kreuzberg() -> ModuleType:
    try:
        import kreuzberg
    except ImportError as error:
        raise ConfigError("Reading DOCX, PDF and XLSX needs the extra: pip install 'metier[parse]'.") from error
    return kreuzberg


def _unpacked(name: str, data: bytes, limits: Limits) -> zipfile.ZipFile:
    """Open an office file after unpacking it once under the limit, since declared sizes may lie."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
        if len(entries) > _ENTRIES or sum(entry.file_size for entry in entries) > limits.unpacked_bytes:
            raise _bomb(name, limits)
        total = 0
        for entry in entries:
            with archive.open(entry) as part:
                while piece := part.read(1 << 20):
                    total += len(piece)
                    if total > limits.unpacked_bytes:
                        raise _bomb(name, limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = "a protected or old format" if data.startswith(b"\xd0\xcf\x11\xe0") else "broken or cut short"
        raise Invalid(
            f"Reading {name!r} failed: the office file is {reason}; save it again without password."
        ) from error
    return archive


def _bomb(name: str, limits: Limits) -> Invalid:
    return Invalid(
        f"Reading {name!r} failed: unpacked it is larger than {limits.unpacked_bytes!r} bytes; split the document."
    )


def _part(name: str, archive: zipfile.ZipFile, part: str) -> bytes:
    try:
        return archive.read(part)
    except KeyError as error:
        raise Invalid(f"Reading {name!r} failed: its part {part!r} is missing; save it again.") from error


def _sheets(name: str, archive: zipfile.ZipFile) -> dict[str, tuple[str, bool]]:
    """Give for each sheet of a workbook its part in the archive and whether it is hidden, in order."""
    links = _part(name, archive, "xl/_rels/workbook.xml.rels").decode("utf-8", "replace")
    targets = dict[str, str]()
    for link in re.findall(r"<Relationship\s[^>]*>", links):
        targets[_attribute(link, "Id")] = _attribute(link, "Target")
    book = _part(name, archive, "xl/workbook.xml").decode("utf-8", "replace")
    found = dict[str, tuple[str, bool]]()
    for sheet in re.findall(r"<(?:\w+:)?sheet\s[^>]*>", book):
        target = targets.get(_attribute(sheet, "r:id"), "")
        part = target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
        found[_attribute(sheet, "name")] = (part, _attribute(sheet, "state") in ("hidden", "veryHidden"))
    return found


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf"\s{re.escape(name)}\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", tag)
    value = (found[1] or found[2] or "") if found else ""
    for code, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        value = value.replace(code, character)
    return value


def _nodes(result: Any) -> Sequence[Mapping[str, Any]]:
    return [node for node in (result.document or {}).get("nodes", ()) if node["content"].get("node_type") != "group"]


def _text(node: Mapping[str, Any]) -> str:
    return str(node["content"].get("text") or "")


def _grid(node: Mapping[str, Any]) -> list[list[str]]:
    grid = node["content"]["grid"]
    rows = [[""] * int(grid["cols"]) for _ in range(int(grid["rows"]))]
    for cell in grid["cells"]:
        rows[int(cell["row"])][int(cell["col"])] = str(cell["content"])
    return rows


def _all_text(node: Mapping[str, Any]) -> str:
    if node["content"].get("node_type") == "table":
        return " ".join(cell for row in _grid(node) for cell in row)
    return _text(node)


def _place(node: Mapping[str, Any], outline: Outline, page: int | None = None) -> None:
    kind = node["content"].get("node_type")
    if kind in ("heading", "title"):
        outline.heading(int(node["content"].get("level") or 1), _text(node), page)
    elif kind == "table":
        outline.table(_grid(node), page=page)
    elif kind == "list_item":
        outline.text("- " + _text(node), page)
    elif kind in ("image", "picture"):
        outline.warn("pictures are not read")
    else:
        outline.text(_text(node), page)


def _title(result: Any) -> str | None:
    title = result.metadata.get("title")
    return str(title).strip() or None if title else None


def _letters(text: str) -> int:
    return sum(character.isalnum() for character in text)


def _mark(line: str) -> str:
    """Make page numbers look alike from page to page; any other line stays as it is, numbered headings above all."""
    line = " ".join(line.split())
    return (
        re.sub(r"\d+", "#", line)
        if re.fullmatch(r"\W*(page|p\.)?\W*\d+(\W*(/|sur|of|de)\W*\d+)?\W*", line, re.I)
        else line
    )


def _running(pages: Mapping[int, str]) -> frozenset[str]:
    """Find the first and last lines that most pages of a long document share."""
    seen = Counter[str]()
    for text in pages.values():
        lines = [_mark(line) for line in text.splitlines() if line.strip()]
        seen.update(_edges(lines))
    return frozenset(line for line, count in seen.items() if count >= 3 and count > len(pages) / 2 and len(line) < 120)


def _edges(lines: Sequence[str]) -> Iterable[str]:
    return {*lines[:2], *lines[-2:]}
