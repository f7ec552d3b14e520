"""Chunks stay inside their section, keep to their size, repeat table headers, and lose nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metier.knowledge.blocks import Outline, Parsed
from metier.knowledge.chunk import Piece, Sizes, cut, estimate_tokens

SIZES = Sizes()


def document(*parts: tuple[int, str]) -> Parsed:
    """Headings by level, paragraphs at level 0."""
    outline = Outline()
    for level, text in parts:
        if level:
            outline.heading(level, text)
        else:
            outline.text(text)
    return outline.done()


def sentences(words: int, of: str = "mot") -> str:
    return " ".join(f"{of.capitalize()} {'x ' * 8}fin." for _ in range(words // 10))


def test_a_chunk_never_crosses_a_section() -> None:
    parsed = document(
        (1, "Un"), (0, "Texte de un."), (2, "Deux"), (0, "Texte de deux."), (1, "Trois"), (0, "De trois.")
    )
    pieces = cut(parsed, SIZES)
    assert [(piece.text, piece.anchor.headings) for piece in pieces] == [
        ("Texte de un.", ("Un",)),
        ("Texte de deux.", ("Un", "Deux")),
        ("De trois.", ("Trois",)),
    ]
    assert pieces[1].indexed("Guide") == "Guide › Un › Deux\nTexte de deux."
    assert pieces[1].indexed("Un") == "Un › Deux\nTexte de deux."
    assert parsed.text[slice(*pieces[1].parent)] == "Deux\n\nTexte de deux."


def test_a_long_section_is_shared_out_between_the_limits() -> None:
    parsed = document((1, "Un"), *[(0, sentences(60)) for _ in range(12)])
    sizes = [estimate_tokens(piece.text) for piece in cut(parsed, SIZES)]
    assert len(sizes) > 2
    assert all(200 <= size <= 350 for size in sizes), sizes


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    pieces = cut(document((1, "Un"), (0, sentences(900))), SIZES)
    assert len(pieces) > 2
    assert all(piece.text.startswith("Mot") and piece.text.endswith("fin.") for piece in pieces)


def test_text_without_spaces_is_cut_all_the_same() -> None:
    pieces = cut(document((0, "x" * 20_000)), SIZES)
    assert "".join(piece.text for piece in pieces) == "x" * 20_000
    assert all(estimate_tokens(piece.text) <= SIZES.most for piece in pieces)


def test_a_table_repeats_its_header_and_knows_its_rows() -> None:
    outline = Outline()
    outline.heading(1, "Tarifs", sheet="Tarifs")
    rows = [
        ["Référence", "Désignation", "Prix"],
        *([f"AF-{n:05d}", f"Pièce numéro {n}", f"{n},90 €"] for n in range(90)),
    ]
    outline.table(rows, first_row=3, sheet="Tarifs")
    pieces = cut(outline.done(), SIZES)
    assert len(pieces) > 2
    assert all(piece.text.startswith("| Référence | Désignation | Prix |\n| AF-") for piece in pieces)
    assert pieces[0].anchor.rows is not None
    assert pieces[0].anchor.rows[0] == 3
    for piece in pieces:
        assert piece.anchor.rows is not None
        first, last = piece.anchor.rows
        references = [line.split(" | ")[0] for line in piece.text.split("\n")[1:]]
        assert references[-1] == f"| AF-{last - 4:05d}"
        assert references[0] == f"| AF-{max(first, 4) - 4:05d}"


def test_a_heading_with_nothing_below_it_is_still_found() -> None:
    parsed = document((1, "Un"), (2, "Service fermé en août"), (1, "Trois"), (2, "Quatre"), (0, "Texte."))
    assert [piece.text for piece in cut(parsed, SIZES)] == ["Service fermé en août", "Texte."]


_PARTS = st.lists(
    st.tuples(st.integers(0, 3), st.text(st.sampled_from("ab é.;!?\n|1"), min_size=1, max_size=400)), max_size=12
)


@given(parts=_PARTS, most=st.integers(5, 60))
def test_nothing_is_lost_and_every_piece_stands_at_its_anchor(parts: list[tuple[int, str]], most: int) -> None:
    parsed = document(*parts)
    pieces = cut(parsed, Sizes(most // 2, most))
    covered = bytearray(len(parsed.text))
    for piece in pieces:
        assert parsed.text[piece.anchor.start : piece.anchor.end] == piece.text
        assert inside(piece)
        assert estimate_tokens(piece.text) <= most + 60, "one unit more at most, when it cannot be cut"
        covered[piece.anchor.start : piece.anchor.end] = b"\x01" * len(piece.text)
    carried = "\n".join(" ".join(piece.anchor.headings) for piece in pieces)
    for block in parsed.blocks:
        if block.kind == "heading":
            assert block.text in carried
            continue
        for at in range(block.anchor.start, block.anchor.end):
            assert covered[at] or parsed.text[at].isspace()


def inside(piece: Piece) -> bool:
    return piece.parent[0] <= piece.anchor.start and piece.anchor.end <= piece.parent[1]
