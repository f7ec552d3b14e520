"""Files become blocks with their headings and anchors; what cannot be read is refused with the reason."""

from __future__ import annotations

import io
import zipfile

import docx
import pytest
from docx.shared import Pt
from fpdf import FPDF

from metier.errors import Invalid
from metier.knowledge.blocks import Parsed
from metier.knowledge.ingest import parsers
from metier.knowledge.parse import Limits, parse
from tests.knowledge.world import blank_pdf, pdf, word, workbook

LIMITS = Limits(file_bytes=30_000_000, text_characters=1_000_000, unpacked_bytes=20_000_000, seconds=30)


def read(name: str, data: bytes | str) -> Parsed:
    data = data.encode() if isinstance(data, str) else data
    parsed = parse(name, data, parsers(LIMITS), LIMITS)
    for block in parsed.blocks:
        assert parsed.text[block.anchor.start : block.anchor.end] == block.text
    return parsed


def paths(parsed: Parsed) -> list[tuple[str, ...]]:
    return [block.anchor.headings for block in parsed.blocks if block.kind == "heading"]


def test_plain_text_has_paragraphs_and_underlined_headings() -> None:
    parsed = read("a.txt", "Livraison\n=========\nSous 14 jours.\n\nRetours\n-------\n\nSous 30 jours.\nFin.")
    assert paths(parsed) == [("Livraison",), ("Livraison", "Retours")]
    assert [b.text for b in parsed.blocks if b.kind == "text"] == ["Sous 14 jours.", "Sous 30 jours.\nFin."]


def test_markdown_has_headings_tables_fences_and_front_matter() -> None:
    parsed = read(
        "a.md",
        "---\ntitle: Guide\nlang: fr\nauthor: X\n---\n# Un\n\n## Deux ##\n\n"
        "| A | B |\n|---|--:|\n| 1 | 2 |\n| 3 | 4 |\n\n"
        "```\n# pas un titre\n```\n\nTrois\n-----\nfin <!-- instruction cachée -->\n",
    )
    assert (parsed.title, parsed.language) == ("Guide", "fr")
    assert paths(parsed) == [("Un",), ("Un", "Deux"), ("Un", "Trois")]
    (table,) = [block for block in parsed.blocks if block.kind == "table"]
    assert table.rows == ("| A | B |", "| 1 | 2 |", "| 3 | 4 |")
    assert "# pas un titre" in parsed.text
    assert "cachée" not in parsed.text
    assert parsed.warnings == (
        "front matter not used: author",
        "27 characters of comments, hidden from readers, were left out",
    )


@pytest.mark.parametrize("unfinished", ["<a href='", "<!--", "<br b='x' ", '<p style="', "<a/", "<a ="])
def test_a_page_of_tags_without_an_end_is_read_in_no_time(unfinished: str) -> None:
    parsed = read("a.html", "<p>Retours</p>" + unfinished * 90_000)
    assert parsed.text.startswith("Retours")


@pytest.mark.parametrize(
    "odd",
    ["<![foo]>", "<![", "<![endif foo", "<!x[", f"&#{'1' * 5_000};", f"&#{'1' * 5_000}", "&#x" + "f" * 5_000 + ";"],
)
def test_a_page_no_browser_would_refuse_is_read(odd: str) -> None:
    assert "Retours" in read("a.html", f"<p>Retours</p>{odd}").text
    assert "Livraison" in read("a.html", f"<p>Retours</p>{odd}<p>Livraison</p>").text


@pytest.mark.parametrize("charset", ["punycode", "PunyCode", "idna", "unicode_escape", "Raw-Unicode-Escape", "hex"])
def test_a_page_cannot_choose_how_long_its_bytes_take(charset: str) -> None:
    with pytest.raises(Invalid, match="unknown character set"):
        read("a.html", f"<meta charset={charset}>-" + "kajb" * 250_000)


def test_html_gives_what_a_reader_sees() -> None:
    parsed = read(
        "a.html",
        "<html lang='fr'><head><title>Aide &amp; contact</title><style>p {}</style></head><body>"
        "<script>alert('secret 1')</script><h1>Livraison</h1><p>Sous <b>14</b> jours.<p hidden>secret 2"
        "<div style='display : none'>secret <span>3</span></div><ul><li>un<li>deux</ul>"
        "<table><caption>Tarifs</caption><tr><th>Zone<th>Prix<tr><td>France<td>4,90&nbsp;€</table>"
        "<!-- secret 4 --><template>secret 5</template><p style='font-size:0'>secret 6</p>"
        "<p style='font-size:0.9em'>petit</p><h2>Ret\u200bours</h2>Sous 30 jours.</body></html>",
    )
    assert (parsed.title, parsed.language) == ("Aide & contact", "fr")
    assert [block.text for block in parsed.blocks] == [
        "Livraison",
        "Sous 14 jours.",
        "- un",
        "- deux",
        "Tarifs",
        "| Zone | Prix |\n| France | 4,90 € |",
        "petit",
        "Retours",
        "Sous 30 jours.",
    ]
    assert paths(parsed) == [("Livraison",), ("Livraison", "Retours")]
    assert parsed.warnings == (
        "21 characters hidden from readers of the page were left out",
        "1 invisible characters were removed from the text",
    )


def test_html_is_read_in_the_character_set_it_declares() -> None:
    page = '<meta charset="iso-8859-1"><p>Délai dépassé</p>'
    assert read("a.html", page.encode("latin-1")).text == "Délai dépassé"
    with pytest.raises(Invalid, match="unknown character set 'klingon'"):
        read("a.html", b'<meta charset="klingon"><p>x</p>')


def test_docx_headings_and_tables_are_found() -> None:
    parsed = read("a.docx", word())
    assert parsed.title == "Conditions de livraison"
    assert paths(parsed) == [("Conditions de livraison",), ("Délais",), ("Délais", "Outre-mer"), ("Retours",)]
    (table,) = [block for block in parsed.blocks if block.kind == "table"]
    assert table.rows == ("| Zone | Prix |", "| France | 4,90 € |", "| Europe | 9,90 € |")
    assert table.anchor.headings == ("Délais", "Outre-mer")
    assert parsed.warnings == ()


def test_docx_hidden_text_and_page_headers_are_named() -> None:
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "Confidentiel"
    run = document.add_paragraph("Visible. ").add_run("Caché.")
    run.font.hidden = True
    run.font.size = Pt(11)
    held = io.BytesIO()
    document.save(held)
    parsed = read("a.docx", held.getvalue())
    assert parsed.warnings == (
        "the document holds text formatted as hidden; it was read like the rest",
        "page header left out: 'Confidentiel'",
    )


def test_pdf_headings_have_their_pages_even_at_the_top_of_one() -> None:
    parsed = read("a.pdf", pdf())
    assert [(block.text, block.anchor.page) for block in parsed.blocks if block.kind == "heading"] == [
        ("Guide du client", 1),
        ("1. Livraison", 1),
        ("1.1 Outre-mer", 1),
        ("2. Retours", 2),
    ]
    assert parsed.blocks[-1].anchor.headings == ("Guide du client", "2. Retours")
    assert read("wrong name.txt.pdf", pdf()).text == parsed.text


def test_pdf_running_lines_go_with_a_warning_and_numbered_chapters_stay() -> None:
    page = FPDF()
    page.set_auto_page_break(False)
    for number in range(1, 5):
        page.add_page()
        page.set_font("helvetica", "", 9)
        page.cell(0, 6, "ACME - conditions", new_x="LMARGIN", new_y="NEXT")
        page.ln(8)
        page.set_font("helvetica", "B", 16)
        page.cell(0, 10, f"Chapitre {number}", new_x="LMARGIN", new_y="NEXT")
        page.set_font("helvetica", "", 11)
        page.multi_cell(0, 6, f"La garantie numéro {number} couvre la réparation du produit. " * 6)
        page.set_y(-15)
        page.cell(0, 6, f"Page {number} / 4")
    parsed = read("a.pdf", bytes(page.output()))
    for number in range(1, 5):
        assert f"Chapitre {number}" in parsed.text
    assert "ACME" not in parsed.text
    assert "Page 2" not in parsed.text
    assert "line repeated on most pages left out: 'ACME - conditions'" in parsed.warnings


def test_xlsx_keeps_sheets_and_the_row_numbers_of_the_sheet() -> None:
    parsed = read("tarifs.xlsx", workbook(5))
    tables = [block for block in parsed.blocks if block.kind == "table"]
    assert [(t.anchor.sheet, t.anchor.rows) for t in tables] == [("Tarifs", (3, 8)), ("Stock", (1, 2))]
    assert tables[0].rows[1] == "| AF-00000 | Pièce numéro 0 | 0 |"
    assert parsed.warnings == ("sheet 'Marges' is hidden and was left out",)
    assert "secrète" not in parsed.text


HOSTILE: list[tuple[str, bytes, str]] = [
    ("a.txt", b"", "the file is empty"),
    ("a.md", b" \n\n \t", "no text was found"),
    ("a.txt", "Délai dépassé".encode("latin-1"), "byte 1 is not utf-8 text"),
    ("a.txt", b"MZ\x00\x01\x02 binary", "binary data"),
    ("a.txt", b"\xff\xfea", "not utf-16 text"),
    ("a.exe", b"MZ", "no parser for this kind of file"),
    ("a", b"text", "no parser"),
    ("a.txt", b"mot " * 5_000_000, "characters of text"),
    ("a.txt", b"mot " * 8_000_000, "bytes where 30000000 are read"),
    ("a.html", b"<div>" * 5_000 + b"texte", "inside one another"),
    ("a.html", b"<p hidden>tout est cach\xc3\xa9", "no text was found"),
    ("a.docx", word()[: len(word()) // 2], "broken or cut short"),
    ("a.docx", b"not a zip", "broken or cut short"),
    ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600, "protected or old format"),
    ("a.docx", workbook(), "'word/document.xml' is missing"),
    ("a.xlsx", workbook()[:900], "broken or cut short"),
    ("a.xlsx", word(), "'xl/_rels/workbook.xml.rels' is missing"),
    ("a.pdf", pdf()[: len(pdf()) // 2], "PDF"),
    ("a.pdf", b"%PDF-1.7\n", "PDF"),
    ("a.pdf", pdf("motdepasse"), "password"),
    ("a.pdf", blank_pdf(), "must go through OCR"),
]


@pytest.mark.parametrize(("name", "data", "reason"), HOSTILE, ids=[f"{n}-{r[:12]}" for n, _, r in HOSTILE])
def test_what_cannot_be_read_is_refused_with_the_reason(name: str, data: bytes, reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(name, data)
    assert reason in str(refused.value)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("lie", [False, True], ids=["declared", "lying"])
def test_a_zip_bomb_is_refused_before_it_is_read(lie: bool) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook())) as source, zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as bomb:
        for part in source.namelist():
            content = source.read(part)
            bomb.writestr(part, b"<worksheet>" + b" " * 40_000_000 if "sheet1" in part else content)
    data = held.getvalue()
    assert len(data) < 100_000
    if lie:
        size = (40_000_011).to_bytes(4, "little")
        assert size in data
        data = data.replace(size, (1_000).to_bytes(4, "little"))
    with pytest.raises(Invalid, match=r"larger than|broken or cut short"):
        read("a.xlsx", data)


def test_a_sheet_the_library_skips_is_not_lost_in_silence() -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook())) as source, zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as broken:
        for part in source.namelist():
            content = source.read(part)
            broken.writestr(part, content[:300] if "sheet1" in part else content)
    with pytest.raises(Invalid, match="'Tarifs'"):
        read("a.xlsx", held.getvalue())


W = "xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'"
CELL = "<w:tc><w:tcPr><w:gridSpan w:val='{}'/></w:tcPr><w:p/></w:tc>"


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        (f"<w:tbl><w:tr>{CELL.format(999999999)}</w:tr></w:tbl>", "gridSpan is 999999999"),
        (f"<w:tbl><w:tr>{CELL.format('&#57;99999999')}</w:tr></w:tbl>", "gridSpan is 999999999"),
        ("<w:tbl>" + f"<w:tr>{CELL.format(900)}</w:tr>" * 1_200 + "</w:tbl>", "spreads over"),
        ("<w:p><w:pPr><w:numPr><w:ilvl w:val=' +0999999999'/></w:numPr></w:pPr></w:p>", "ilvl is 999999999"),
        ("<w:p/><w:p>", "is broken"),
        ("<w:sdt>" * 150_000 + "</w:sdt>" * 150_000, "inside one another"),
    ],
)
def test_a_document_cannot_ask_for_more_memory_than_there_is(inside: str, why: str) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(word())) as source, zipfile.ZipFile(held, "w") as made:
        for part in source.namelist():
            body = f"<w:document {W}><w:body>{inside}</w:body></w:document>"
            made.writestr(part, body if part == "word/document.xml" else source.read(part))
    with pytest.raises(Invalid, match=why):
        read("a.docx", held.getvalue())


@pytest.mark.parametrize("place", ["ZZ20000", "A2000000", "xfd1048576"])
def test_a_sheet_cannot_ask_for_more_memory_than_there_is(place: str) -> None:
    held = io.BytesIO()
    far = f"<row><c r='{place}'><v>1</v></c></row></sheetData>".encode()
    with zipfile.ZipFile(io.BytesIO(workbook())) as source, zipfile.ZipFile(held, "w") as made:
        for part in source.namelist():
            content = source.read(part)
            made.writestr(part, content.replace(b"</sheetData>", far) if "sheet1" in part else content)
    with pytest.raises(Invalid, match="spreads over"):
        read("a.xlsx", held.getvalue())
