"""Small worlds for the tests of this room: files made in memory, and an embedding that needs no model."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import docx
import numpy as np
import openpyxl
from fpdf import FPDF

from metier.calls import Purpose
from metier.knowledge.analyser import Analyser
from metier.knowledge.embedding import Embedder, Vectors

PARAGRAPH = "La livraison prend quatorze jours ouvrés en France métropolitaine, et trente jours ailleurs. "


async def hashed(texts: Sequence[str], purpose: Purpose) -> Vectors:
    """Embed by hashing stems into 384 places: texts that share words are near, and nothing is learnt."""
    analyser = Analyser("fr")
    vectors = np.full((len(texts), 384), 1e-3, dtype=np.float32)
    for row, text in enumerate(texts):
        for term in analyser(text).terms:
            place = int.from_bytes(hashlib.sha256(term.encode()).digest()[:4], "big") % 384
            vectors[row, place] += 1.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths, dtype=np.float32)


class Counting:
    """An embedding that counts the texts it was given, to see what is paid twice."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def __call__(self, texts: Sequence[str], purpose: Purpose) -> Vectors:
        if purpose == "passage":
            self.texts.extend(texts)
        return await hashed(texts, purpose)


def embedder(model: str = "hashed") -> Embedder:
    """The hashing embedding with bounds that fit it: unrelated texts share nothing."""
    return Embedder(model, hashed, floor=0.0, ceiling=1.0)


def word(title: str = "Conditions de livraison") -> bytes:
    """A DOCX with a title, two levels of headings and a table."""
    document = docx.Document()
    document.add_heading(title, 0)
    document.add_paragraph("Ces conditions valent pour toutes les commandes.")
    document.add_heading("Délais", 1)
    document.add_paragraph(PARAGRAPH)
    document.add_heading("Outre-mer", 2)
    document.add_paragraph("Comptez trente jours.")
    table = document.add_table(rows=3, cols=2)
    for row, cells in enumerate([("Zone", "Prix"), ("France", "4,90 €"), ("Europe", "9,90 €")]):
        table.cell(row, 0).text, table.cell(row, 1).text = cells
    document.add_heading("Retours", 1)
    document.add_paragraph("Un retour est possible sous 30 jours.")
    return _saved(document)


def pdf(password: str | None = None) -> bytes:
    """A PDF of two pages with headings by size of type, the second page beginning with one."""
    page = FPDF()
    page.add_page()
    _line(page, 22, "Guide du client")
    _line(page, 16, "1. Livraison")
    _text(page, PARAGRAPH * 8)
    _line(page, 13, "1.1 Outre-mer")
    _text(page, "Comptez trente jours pour l'outre-mer. " * 6)
    page.add_page()
    _line(page, 16, "2. Retours")
    _text(page, "Un retour est possible sous 30 jours. " * 10)
    if password:
        page.set_encryption(owner_password="owner", user_password=password)
    return bytes(page.output())


def blank_pdf() -> bytes:
    """A PDF whose only page holds nothing, as a scan would."""
    page = FPDF()
    page.add_page()
    return bytes(page.output())


def workbook(rows: int = 40) -> bytes:
    """An XLSX with a price list that begins on row 3, a second sheet, and a hidden one."""
    book = openpyxl.Workbook()
    prices = book.active
    assert prices is not None
    prices.title = "Tarifs"
    for column, value in enumerate(("Référence", "Désignation", "Prix"), 1):
        prices.cell(3, column, value)
    for row in range(rows):
        for column, cell in enumerate((f"AF-{row:05d}", f"Pièce numéro {row}", row * 1.5), 1):
            prices.cell(4 + row, column, cell)
    stock = book.create_sheet("Stock")
    stock.append(["Référence", "Quantité"])
    stock.append(["AF-00012", 4])
    hidden = book.create_sheet("Marges")
    hidden.sheet_state = "hidden"
    hidden.append(["marge secrète"])
    return _saved(book)


def _saved(document: object) -> bytes:
    held = io.BytesIO()
    document.save(held)  # type: ignore[attr-defined]  # both libraries save to a file object
    return held.getvalue()


def _line(page: FPDF, size: int, text: str) -> None:
    page.set_font("helvetica", "B", size)
    page.cell(0, size * 0.6, text, new_x="LMARGIN", new_y="NEXT")


def _text(page: FPDF, text: str) -> None:
    page.set_font("helvetica", "", 11)
    page.multi_cell(0, 6, text)
    page.ln(4)
