"""Turn one written source into the office formats a company really has: Word, PDF, web page, spreadsheet."""

from __future__ import annotations

import datetime
import html
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import docx
import fpdf
import openpyxl
from openpyxl.styles import Font

__all__ = ["blocks", "invoice", "price_sheets", "render", "workbook"]

MADE = datetime.datetime(2026, 11, 2, 9, 0, tzinfo=datetime.UTC)
PLAIN = fpdf.FontFace(fill_color=230)
COMPANY = "Tournevelle SAS - 18 rue du Champ-Malo, 49000 Angers"
Block = tuple[str, Any]
Row = Sequence[str | float | int]


def blocks(text: str) -> Iterator[Block]:
    """Split a source into headings (h1…h4), paragraphs (p), list items (li, ol) and tables."""
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = part.split("\n")
        if match := re.fullmatch(r"(#{1,4}) (.+)", lines[0]):
            yield f"h{len(match[1])}", match[2]
            lines = lines[1:]
        if not lines:
            continue
        if lines[0].startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            yield "table", [row for row in rows if not all(set(cell) <= set("-: ") for cell in row)]
        elif re.match(r"- |\d+\. ", lines[0]):
            for item in re.split(r"\n(?=- |\d+\. )", "\n".join(lines)):
                kind, said = re.fullmatch(r"(-|\d+\.) (.+)", item, re.DOTALL).groups()  # type: ignore[union-attr]  # split on it
                yield ("li" if kind == "-" else "ol"), " ".join(said.split())
        else:
            yield "p", " ".join(" ".join(lines).split())


def typeset(text: str, language: str) -> str:
    """Put the no-break spaces French typography wants, as word processors do."""
    if language != "fr":
        return text
    text = re.sub(r" (?=[;:!?»€%])", "\u00a0", text)
    return re.sub(r"(?<=«) ", "\u00a0", text)


def render(entry: Mapping[str, Any], text: str, kind: str) -> bytes:
    """Make the document in the wanted format: md, html, docx or pdf."""
    if kind == "md":
        return text.encode()
    if kind == "html":
        return page(entry, text).encode()
    if kind == "docx":
        return word(entry, text)
    if kind == "pdf":
        return pdf(entry, text)
    raise ValueError(f"document {entry['file']!r}: cannot make the format {kind!r}; write md, html, docx or pdf")


def page(entry: Mapping[str, Any], text: str) -> str:
    """Make a page as the company's site serves it, with its menu and footer around the text."""
    language = entry["language"]
    out: list[str] = []
    listed = ""
    for kind, content in blocks(text):
        wanted = {"li": "ul", "ol": "ol"}.get(kind, "")
        if wanted != listed:
            out.extend(([f"</{listed}>"] if listed else []) + ([f"<{wanted}>"] if wanted else []))
            listed = wanted
        if kind == "table":
            out.append("<table>")
            for number, row in enumerate(content):
                tag = "td" if number else "th"
                out.append("<tr>" + "".join(f"<{tag}>{strong(cell, language)}</{tag}>" for cell in row) + "</tr>")
            out.append("</table>")
        elif kind.startswith("h"):
            anchor = re.sub(r"[^a-z0-9]+", "-", str(content).lower()).strip("-")
            out.append(f'<{kind} id="{anchor}">{strong(content, language)}</{kind}>')
        else:
            tag = "li" if wanted else "p"
            out.append(f"<{tag}>{strong(content, language)}</{tag}>")
    if listed:
        out.append(f"</{listed}>")
    body = "\n".join(out)
    return f"""<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<title>{html.escape(entry["title"])} – Tournevelle</title>
<meta name="last-modified" content="{entry["updated"]}">
<style>body {{ font-family: sans-serif; max-width: 46em; margin: auto }} nav a {{ margin-right: 1em }}</style>
</head>
<body>
<header><nav><a href="/outillage">Outillage</a><a href="/cuisine">Cuisine</a><a href="/panier">Panier</a></nav></header>
<main>
{body}
</main>
<footer><p>© 2026 {COMPANY}</p></footer>
<script>window.mesure = window.mesure || [];</script>
</body>
</html>
"""


def strong(text: str, language: str) -> str:
    """Escape a text for HTML, keeping its bold words and showing no-break spaces by name."""
    safe = html.escape(typeset(text, language), quote=False).replace("\u00a0", "&nbsp;")
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)


def word(entry: Mapping[str, Any], text: str) -> bytes:
    """Make a Word document with real heading styles, lists and tables."""
    file = docx.Document()
    language = entry["language"]
    styles = {"li": "List Bullet", "ol": "List Number"}
    for kind, content in blocks(text):
        if kind == "table":
            table = file.add_table(rows=0, cols=len(content[0]), style="Table Grid")
            for row in content:
                for cell, said in zip(table.add_row().cells, row, strict=True):
                    bold(cell.paragraphs[0], typeset(said, language))
        elif kind.startswith("h"):
            file.add_heading(typeset(content, language), level=0 if kind == "h1" else int(kind[1]) - 1)
        else:
            bold(file.add_paragraph(style=styles.get(kind)), typeset(content, language))
    about = file.core_properties
    about.title, about.author, about.language = entry["title"], "Tournevelle", language
    about.created = about.modified = MADE.replace(tzinfo=None)
    about.last_modified_by, about.comments = "Tournevelle", ""
    out = io.BytesIO()
    file.save(out)
    return packed(out.getvalue())


def bold(paragraph: Any, text: str) -> None:
    """Write a text into a Word paragraph, the words between double stars in bold."""
    for number, piece in enumerate(text.split("**")):
        if piece:
            paragraph.add_run(piece).bold = bool(number % 2)


class Sheet(fpdf.FPDF):
    """A4 page of the company with its running title and page number; core fonts only, nothing embedded."""

    def __init__(self, title: str) -> None:
        super().__init__(format="A4")
        self.core_fonts_encoding = "windows-1252"
        self.running = title
        self.set_compression(False)
        self.set_creation_date(MADE)
        self.set_title(title)
        self.set_author("Tournevelle")
        self.set_margins(22, 20, 22)
        self.set_auto_page_break(True, margin=22)
        self.add_page()

    def footer(self) -> None:
        """Write the running title at the foot of each page."""
        self.set_y(-15)
        self.set_font("Helvetica", "I", 8)
        self.cell(0, 6, f"{self.running} - page {self.page_no()}", align="C")


def pdf(entry: Mapping[str, Any], text: str) -> bytes:
    """Make a PDF with an outline, larger bold headings and ruled tables."""
    file = Sheet(entry["title"])
    file.set_lang(entry["language"])
    sizes = {"h1": 18, "h2": 14, "h3": 12, "h4": 11}
    number = 0
    for kind, content in blocks(text):
        number = number + 1 if kind == "ol" else 0
        if kind == "table":
            file.set_font("Helvetica", size=10)
            with file.table(line_height=6, headings_style=PLAIN) as table:
                for row in content:
                    table.row([cell.replace("**", "") for cell in row])
            file.ln(3)
        elif kind in sizes:
            if file.get_y() > file.h - 60:
                file.add_page()
            file.ln(0 if kind == "h1" else 3)
            file.start_section(content, level=int(kind[1]) - 1)
            file.set_font("Helvetica", "B", sizes[kind])
            file.multi_cell(0, sizes[kind] * 0.5, content, new_x="LMARGIN", new_y="NEXT", align="L")
            file.ln(2)
        else:
            sign = {"li": "\u2022 ", "ol": f"{number}. "}.get(kind, "")
            file.set_font("Helvetica", size=10.5)
            file.multi_cell(0, 5.4, sign + content, new_x="LMARGIN", new_y="NEXT", align="L", markdown=True)
            file.ln(1 if sign else 2.4)
    return bytes(file.output())


def invoice(spec: Mapping[str, str], person: Mapping[str, Any], bought: Mapping[str, Any]) -> bytes:
    """Make the one-page invoice of an order."""
    file = Sheet(f"Facture {spec['number']}")
    file.set_font("Helvetica", "B", 16)
    file.multi_cell(0, 9, f"Facture {spec['number']}", new_x="LMARGIN", new_y="NEXT")
    file.set_font("Helvetica", size=10.5)
    address = person["address"]
    for line in (
        COMPANY,
        f"Date : {spec['date']}",
        f"Commande : {bought['number']}",
        f"Client : {person['name']}",
        address,
    ):
        file.multi_cell(0, 6, line, new_x="LMARGIN", new_y="NEXT")
    file.ln(4)
    with file.table(line_height=7, headings_style=PLAIN) as table:
        table.row(["Désignation", "Quantité", "Prix TTC"])
        for item in bought["items"]:
            table.row([item["name"], str(item["quantity"]), euros(item["unit_eur"] * item["quantity"])])
        table.row(["Livraison standard à domicile", "1", euros(bought["delivery_eur"])])
        table.row(["Total TTC", "", euros(bought["amount_eur"])])
        table.row(["dont TVA 20 %", "", euros(bought["amount_eur"] / 6)])
    return bytes(file.output())


def euros(amount: float | Decimal) -> str:
    """Write an amount the French way."""
    exact = Decimal(str(amount)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return f"{exact:,.2f} €".replace(",", " ").replace(".", ",")


def price_sheets(
    entry: Mapping[str, Any],
    articles: Sequence[Mapping[str, Any]],
    discounts: Sequence[Mapping[str, int]],
    vat: int,
) -> dict[str, list[Row]]:
    """Compute the sheets of a price list: one per family of articles, then the notes written for it."""
    sheets: dict[str, list[Row]] = {}
    for article in articles:
        rows = sheets.setdefault(article["family"], [tuple(entry["columns"])])
        price: Decimal = article["price"]
        if entry["kind"] == "public":
            rows.append((article["ref"], article["name"], float(price), article["weight_kg"]))
        else:
            net = (price * 100 / (100 + vat)).quantize(Decimal("0.01"), ROUND_HALF_UP)
            cut = [(net * (100 - d["percent"]) / 100).quantize(Decimal("0.01"), ROUND_HALF_UP) for d in discounts]
            rows.append((article["ref"], article["name"], float(net), *[float(c) for c in cut]))
    for name, notes in entry["notes"].items():
        sheets[name] = [tuple(row) for row in notes]
    return sheets


def workbook(sheets: Mapping[str, Sequence[Row]], title: str) -> bytes:
    """Make a spreadsheet file with one bold header row per sheet."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
        for cell in sheet[1]:
            cell.font = Font(bold=True)
        sheet.column_dimensions["B"].width = 46
        sheet.freeze_panes = "A2"
    book.properties.title, book.properties.creator = title, "Tournevelle"
    book.properties.created = MADE.replace(tzinfo=None)
    out = io.BytesIO()
    book.save(out)
    return packed(out.getvalue())


def packed(data: bytes) -> bytes:
    """Rewrite an office file so that no clock shows in it: fixed dates, members in order."""
    out = io.BytesIO()
    stamp = MADE.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in sorted(old.namelist(), key=lambda n: (n != "[Content_Types].xml", n)):
            content = old.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>" + stamp, content)
            made = zipfile.ZipInfo(name, (2026, 11, 2, 9, 0, 0))
            made.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(made, content)
    return out.getvalue()
