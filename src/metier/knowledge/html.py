"""HTML pages to blocks with the standard library: what a reader sees, without scripts and hidden text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from metier.errors import Invalid
from metier.knowledge.blocks import Outline, Parsed

__all__ = ["declared_charset", "parse_html"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VOID = _names("area base br col embed hr img input link meta param source track wbr")
_UNSEEN = _names("script style template noscript svg math object iframe canvas select datalist audio video head")
_BREAKS = _names(
    "p div section article header footer main aside nav ul ol li dl dt dd blockquote pre form fieldset figure "
    "figcaption address details summary body hr"
)
_CLOSED_BY = {
    "li": frozenset(["li"]),
    "dt": frozenset(["dt", "dd"]),
    "dd": frozenset(["dt", "dd"]),
    "tr": frozenset(["tr", "td", "th"]),
    "td": frozenset(["td", "th"]),
    "th": frozenset(["td", "th"]),
    "option": frozenset(["option"]),
}
_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(hidden|collapse)|font-size\s*:\s*0(?![.\d]*[1-9])"
    r"|opacity\s*:\s*0(?![.\d]*[1-9])|clip\s*:\s*rect\(\s*0|(left|top|text-indent)\s*:\s*-\d{3,}",
    re.IGNORECASE,
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_ENDLESS = re.compile(r"&#[0-9]{100,}")
_UNFINISHED = 10_000_000
"""Steps beyond which what stands behind a tag without an end is taken for text."""
_DEEP = 2_000
"""Open elements beyond which a page is made to break readers, not to be read."""


def declared_charset(data: bytes) -> str | None:
    """Read the character set an HTML page declares for itself, if it does."""
    found = _CHARSET.search(data[:4096])
    return found.group(1).decode("ascii") if found else None


def parse_html(name: str, markup: str) -> Parsed:
    """Turn a page into blocks; scripts go silently, text hidden from readers goes with a warning."""
    page = _Page(name)
    # Numbers longer than Python reads are no characters.
    page.feed(_ENDLESS.sub("&#65533", markup))
    page.close()
    return page.finish()


class _Page(HTMLParser):
    """Follows the open elements of a page and fills an outline with what is seen."""

    def __init__(self, name: str) -> None:
        super().__init__(convert_charrefs=True)
        self._name = name
        self.outline = Outline()
        self._open: list[tuple[str, bool]] = []
        """Open elements, each with whether it and all inside it is unseen."""
        self._words: list[str] = []
        self._heading = 0
        self._table: list[list[str]] | None = None
        self._title: list[str] = []
        self._language: str | None = None
        self._hidden = 0

    def close(self) -> None:
        """Read what is left; the parser looks for the end of an unfinished tag again from every `<` behind it."""
        if self.rawdata.count("<") * len(self.rawdata) > _UNFINISHED:
            rest, self.rawdata = self.rawdata, ""
            self.handle_data(rest)
        super().close()

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Pass over a section as browsers do, also one that Python does not know."""
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:
            return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name: value or "" for name, value in attrs}
        self._close_implied(tag)
        if tag == "html":
            self._language = names.get("lang") or None
        if tag == "br":
            self._words.append("\n")
        if tag == "img" and names.get("alt") and not self._unseen:
            self._words.append(names["alt"])
        if tag in _VOID:
            return
        hidden = "hidden" in names or bool(_HIDING.search(names.get("style", "")))
        if len(self._open) >= _DEEP:
            raise Invalid(f"Reading {self._name!r} failed: {_DEEP!r} elements stand inside one another; simplify it.")
        if not self._unseen and not hidden and tag not in _UNSEEN:
            self._enter(tag)
        self._open.append((tag, self._unseen or hidden or tag in _UNSEEN))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not any(name == tag for name, _ in self._open):
            return
        while self._open:
            name, unseen = self._open.pop()
            if not unseen:
                self._leave(name)
            if name == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._words.append(data if self._inside("pre") else re.sub(r"\s+", " ", data))
        elif self._open and self._open[-1][0] == "title":
            self._title.append(data)
        elif not any(tag in _UNSEEN for tag, _ in self._open):
            self._hidden += len("".join(data.split()))

    def finish(self) -> Parsed:
        """Close what is still open and give the page."""
        while self._open:
            name, unseen = self._open.pop()
            if not unseen:
                self._leave(name)
        self._flush()
        if self._hidden:
            self.outline.warn(f"{self._hidden} characters hidden from readers of the page were left out")
        return self.outline.done(" ".join("".join(self._title).split()) or None, self._language)

    @property
    def _unseen(self) -> bool:
        return bool(self._open) and self._open[-1][1]

    def _inside(self, tag: str) -> bool:
        return any(name == tag for name, _ in self._open)

    def _close_implied(self, tag: str) -> None:
        closes = _CLOSED_BY.get(tag, frozenset())
        if self._open and self._open[-1][0] == "p" and (tag in _BREAKS or re.fullmatch(r"h[1-6]|table", tag)):
            closes = frozenset(["p"])
        while self._open and self._open[-1][0] in closes:
            name, unseen = self._open.pop()
            if not unseen:
                self._leave(name)

    def _enter(self, tag: str) -> None:
        if re.fullmatch(r"h[1-6]", tag):
            self._flush()
            self._heading = int(tag[1])
        elif tag == "table" and self._table is None:
            self._flush()
            self._table = []
        elif self._table is not None and tag == "tr":
            self._cell()
            self._table.append([])
        elif self._table is not None and tag in ("td", "th"):
            self._cell()
        elif tag in _BREAKS:
            self._flush()
            if tag == "li":
                self._words.append("- ")

    def _leave(self, tag: str) -> None:
        if re.fullmatch(r"h[1-6]", tag):
            self._flush()
            self._heading = 0
        elif self._table is not None and tag in ("td", "th"):
            self._cell(even_empty=True)
        elif self._table is not None and tag == "caption":
            self.outline.text("".join(self._words))
            self._words.clear()
        elif self._table is not None and tag == "table":
            if not self._inside("table"):
                self._cell()
                table, self._table = self._table, None
                self.outline.table(table)
        elif tag in _BREAKS:
            self._flush()

    def _cell(self, even_empty: bool = False) -> None:
        """Put the words read so far into the row that is open, so that nothing between cells is lost."""
        text = "".join(self._words)
        self._words.clear()
        if self._table is not None and (even_empty or text.strip()):
            if not self._table:
                self._table.append([])
            self._table[-1].append(text)

    def _flush(self) -> None:
        if self._table is not None:
            self._words.append(" ")
            return
        text = "\n".join(" ".join(line.split()) for line in "".join(self._words).split("\n")).strip()
        self._words.clear()
        if self._heading and text:
            self.outline.heading(self._heading, text)
        elif text not in ("", "-"):
            self.outline.text(text)
