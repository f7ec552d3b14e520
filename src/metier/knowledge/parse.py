"""Bytes of a document to anchored blocks, or a clear refusal: nothing is guessed and nothing left out in silence."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

import yaml

from metier.errors import Invalid
from metier.knowledge.blocks import Outline, Parsed
from metier.knowledge.html import declared_charset, parse_html

__all__ = ["Html", "Limits", "Markdown", "Parser", "PlainText", "decode", "parse"]


_NO_CHARSETS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})
"""What Python reads as a character set although no page is written in it; some take hours for a few megabytes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a document may be before it is refused."""

    file_bytes: int = 50_000_000
    """Size of the file as it came."""
    text_characters: int = 5_000_000
    """Length of the text found in it."""
    unpacked_bytes: int = 300_000_000
    """Size of the parts of an office file once unpacked."""
    seconds: int = 60
    """Time the parser may take."""


class Parser(Protocol):
    """Reads one family of file formats."""

    def accepts(self, name: str, data: bytes) -> bool:
        """Say whether this parser reads such a file, by its name and its first bytes."""
        ...

    def parse(self, name: str, data: bytes) -> Parsed:
        """Give the blocks of the file, or raise Invalid with the reason it cannot be read."""
        ...


class PlainText:
    """Reads .txt files: paragraphs parted by empty lines, headings underlined with = or -."""

    def accepts(self, name: str, data: bytes) -> bool:
        """Say yes to .txt, .text and .log files."""
        return PurePath(name).suffix.lower() in (".txt", ".text", ".log")

    def parse(self, name: str, data: bytes) -> Parsed:
        """Give the paragraphs of the text."""
        outline = Outline()
        for lines in _paragraphs(decode(name, data)):
            underlined = len(lines) > 1 and re.fullmatch(r"\s*(={3,}|-{3,})\s*", lines[1])
            if underlined:
                outline.heading(1 if "=" in lines[1] else 2, lines[0])
            outline.text("\n".join(lines[2:] if underlined else lines))
        return outline.done()


class Markdown:
    """Reads Markdown: headings, paragraphs, fenced code, pipe tables and a front matter with the title."""

    def accepts(self, name: str, data: bytes) -> bool:
        """Say yes to .md and .markdown files."""
        return PurePath(name).suffix.lower() in (".md", ".markdown")

    def parse(self, name: str, data: bytes) -> Parsed:
        """Give the blocks of the text; comments, which no reader of the page sees, are left out with a warning."""
        outline = Outline()
        front, text = _front_matter(decode(name, data), outline)
        shown = re.sub(r"<!--.*?(-->|\Z)", "", text, flags=re.DOTALL)
        if shown != text:
            outline.warn(f"{len(text) - len(shown)} characters of comments, hidden from readers, were left out")
        _markdown(shown.split("\n"), outline)
        return outline.done(front.get("title"), front.get("language") or front.get("lang"), front.get("version"))


class Html:
    """Reads HTML pages in the character set they declare."""

    def accepts(self, name: str, data: bytes) -> bool:
        """Say yes to .html, .htm and .xhtml files."""
        return PurePath(name).suffix.lower() in (".html", ".htm", ".xhtml")

    def parse(self, name: str, data: bytes) -> Parsed:
        """Give what a reader of the page sees."""
        return parse_html(name, decode(name, data, declared_charset(data)))


def parse(name: str, data: bytes, parsers: Sequence[Parser], limits: Limits) -> Parsed:
    """Read a document with the first parser that accepts it; an unreadable or empty one is Invalid with the reason."""
    if not data:
        raise Invalid(f"Reading {name!r} failed: the file is empty; send it again.", param="data")
    if len(data) > limits.file_bytes:
        raise Invalid(
            f"Reading {name!r} failed: {len(data)!r} bytes where {limits.file_bytes!r} are read; split the document.",
            param="data",
        )
    reader = next((parser for parser in parsers if parser.accepts(name, data)), None)
    if reader is None:
        raise Invalid(
            f"Reading {name!r} failed: no parser for this kind of file; "
            "send text, Markdown, HTML, DOCX, PDF or XLSX under its usual extension.",
            param="name",
        )
    parsed = reader.parse(name, data)
    if not any(character.isalnum() for character in parsed.text):
        raise Invalid(
            f"Reading {name!r} failed: no text was found in it; a scanned document must go through OCR first.",
            param="data",
        )
    if len(parsed.text) > limits.text_characters:
        raise Invalid(
            f"Reading {name!r} failed: {len(parsed.text)!r} characters of text, at most "
            f"{limits.text_characters!r} are read; split the document.",
            param="data",
        )
    return parsed


def decode(name: str, data: bytes, declared: str | None = None) -> str:
    """Read bytes as text in the declared character set, else by byte order mark, else UTF-8; never by guessing."""
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    charset = next((charset for mark, charset in marks if data.startswith(mark)), declared or "utf-8")
    try:
        if codecs.lookup(charset).name.replace("_", "-") in _NO_CHARSETS:
            raise LookupError(charset)
        text = data.decode(charset)
    except LookupError as error:
        raise Invalid(f"Reading {name!r} failed: unknown character set {charset!r}; save it as UTF-8.") from error
    except UnicodeError as error:
        where = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise Invalid(
            f"Reading {name!r} failed: byte {where!r} is not {charset} text; save the file as UTF-8 and send it again."
        ) from error
    if "\x00" in text:
        raise Invalid(f"Reading {name!r} failed: it holds binary data, not text; check the file and its extension.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _paragraphs(text: str) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip():
            groups[-1].append(line)
        elif groups[-1]:
            groups.append([])
    return [group for group in groups if group]


def _front_matter(text: str, outline: Outline) -> tuple[dict[str, str], str]:
    """Part the YAML between the two --- lines at the top from the text below it."""
    found = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", text, flags=re.DOTALL)
    if found is None:
        return {}, text
    try:
        values = yaml.safe_load(found.group(1))
    except yaml.YAMLError:
        outline.warn("the front matter is not readable YAML; it was kept as text")
        return {}, text
    if not isinstance(values, dict):
        return {}, text
    known = ("title", "language", "lang", "version")
    if unused := sorted(str(key) for key in values if key not in known):
        outline.warn(f"front matter not used: {', '.join(unused)}")
    return {key: str(values[key]) for key in known if values.get(key) is not None}, text[found.end() :]


def _markdown(lines: Sequence[str], outline: Outline) -> None:
    """Walk the lines once; what is no heading, fence or table is a paragraph."""
    at, held = 0, list[str]()

    def release() -> None:
        outline.text("\n".join(held))
        held.clear()

    while at < len(lines):
        line = lines[at]
        heading = re.fullmatch(r" {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*", line)
        underline = re.fullmatch(r" {0,3}(=+|-{2,})\s*", line)
        fence = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if heading:
            release()
            outline.heading(len(heading[1]), heading[2])
        elif underline and len(held) == 1:
            outline.heading(1 if "=" in underline[1] else 2, held.pop())
        elif fence:
            release()
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip().startswith(fence[1])), len(lines))
            outline.text("\n".join(lines[at + 1 : end]))
            at = end
        elif _is_table(lines, at):
            release()
            end = next((n for n in range(at, len(lines)) if "|" not in lines[n]), len(lines))
            outline.table([_cells(row) for n, row in enumerate(lines[at:end]) if n != 1])
            at = end - 1
        elif line.strip():
            held.append(line)
        else:
            release()
        at += 1
    release()


def _is_table(lines: Sequence[str], at: int) -> bool:
    rule = lines[at + 1] if at + 1 < len(lines) else ""
    return "|" in lines[at] and bool(re.fullmatch(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*", rule)) and "|" in rule


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|"))]
