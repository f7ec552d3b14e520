"""Placeholders and their way back, however the stream is cut and whatever the model did to them."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import Chunk, ToolCallDelta, Usage
from metier.guardrails.pii import Kind, Restore, Table, mask
from metier.guardrails.pii.placeholders import Code, Reading, find_literals, read
from metier.guardrails.pii.restore import Decoder

VALUES = {
    Code(Kind.PERSON, 1): "Hélène Lefèvre",
    Code(Kind.PERSON, 1, 1): 'Mme "L."',
    Code(Kind.PERSON, 10): "Karim\nBen",
    Code(Kind.EMAIL, 1): "h@courriel.example",
    Code(Kind.BIRTH_DATE, 2): "1er mai 1980",
}


def restored(*pieces: str, escape: bool = False) -> str:
    decoder = Decoder(VALUES, escape)
    return "".join([*(decoder.feed(piece) for piece in pieces), decoder.flush()])


@pytest.mark.parametrize(
    "written",
    [
        "[[PERSONNE_1]]", "[[personne_1]]", "[[Personne_1]]", "[[PERSONNE 1]]", "[[PERSONNE-1]]", "[[ PERSONNE_1 ]]",
        "[[PERSONNE_1]", "[PERSONNE_1]]", "[PERSONNE_1]", "[[PERSONNE_01]]", "[[PERSONNE_001]]", "[[**PERSONNE_1**]]",
        "[[PERSONNE\\_1]]", "[[PERSONNES_1]]", "［［PERSONNE_1］］", "[[PERSONNE_１]]", "[[PERSONNE1]]", "PERSONNE_1",
        "PERSONNE\\_1", "PERSONNE_1]]", "[[PERSONNE_ 1]]",
    ],
)  # fmt: skip
def test_what_models_do_to_a_code_is_forgiven(written: str) -> None:
    assert restored(f"Bonjour {written}, merci.") == "Bonjour Hélène Lefèvre, merci."


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("([[PERSONNE_1]])", "(Hélène Lefèvre)"),
        ("**[[PERSONNE_1]]**", "**Hélène Lefèvre**"),
        ("[[[PERSONNE_1]]]", "[Hélène Lefèvre]"),
        ("[[PERSONNE_10]]", "Karim\nBen"),
        ("[[PERSONNE_1b]] [[PERSONNE_1B]]", 'Mme "L." Mme "L."'),
        ("[[DATE NAISSANCE 2]] [[DATE_NAISSANCE_2]]", "1er mai 1980 1er mai 1980"),
        ("[[PERSONNE_7]] PERSONNE_7 [[CHOSE_1]]", "[[PERSONNE_7]] PERSONNE_7 [[CHOSE_1]]"),
        ("personne 1 et email_1", "personne 1 et email_1"),
        ("XPERSONNE_1 PERSONNE_1x PERSONNE_1_2", "XPERSONNE_1 PERSONNE_1x PERSONNE_1_2"),
        ("[[PERSONNE_1c]]", "[[PERSONNE_1c]]"),
        ("[voir PERSONNE_1]", "[voir Hélène Lefèvre]"),
        ("tableau[[1]] et [[", "tableau[[1]] et [["),
        ("fin [[PERSONNE_1", "fin Hélène Lefèvre"),
    ],
)
def test_what_is_around_a_code_stays(written: str, expected: str) -> None:
    assert restored(written) == expected


PIECES = st.lists(
    st.sampled_from(
        ["[[PERSONNE_1]]", "[[PERSONNE_10]]", "[[personne 1b]]", "[PERSONNE_1]", "PERSONNE_1", "[[EMAIL_1]",
         "[[", "]", "[",
         "PERSON", "PER", "_1", "1", "b", " ", "\\", "*", "é", "M", "a", "[[DATE",
         "_NAISSANCE_2", "]]", "[[PERSONNE_99]]", "\n", "．", "［"]
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(PIECES, st.data())
def test_every_split_gives_what_the_whole_gives(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    edges = [0, *cuts, len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert restored(*parts) == restored(text) == restored(*text)


def test_only_what_may_still_grow_is_held_back() -> None:
    decoder = Decoder(VALUES)
    assert decoder.feed("Bonjour [[PERS") == "Bonjour "
    assert decoder.feed("ONNE_1") == ""
    assert decoder.feed("]]") == "Hélène Lefèvre"
    assert decoder.feed(" [voi") == " [voi"
    assert decoder.feed("Merci") == "Merci"
    for size in range(1, 60):
        decoder = Decoder(VALUES)
        text = "[[" + " *" * 2 + "DATE_NAISSANCE" + " _" * size
        assert len(text) - len(decoder.feed(text)) <= 40


def test_unknown_codes_are_counted_and_left() -> None:
    decoder = Decoder(VALUES)
    assert decoder.feed("[[PERSONNE_5]] ") == "[[PERSONNE_5]] "
    assert decoder.unknown == 1


def test_the_filter_keeps_the_shape_of_the_stream() -> None:
    output = Restore(VALUES)
    plain = Chunk(text="Bonjour ")
    assert output.feed(plain) is plain
    assert output.feed(Chunk(text="[[PERSONNE")) is None
    usage = Usage(input_tokens=3)
    assert output.feed(Chunk(usage=usage)) == Chunk(usage=usage)
    assert output.feed(Chunk(text="_1", finish="stop", usage=usage)) == Chunk(
        text="Hélène Lefèvre", finish="stop", usage=usage
    )
    assert output.flush() is None


def test_arguments_of_each_tool_call_are_restored_as_json() -> None:
    output = Restore(VALUES)
    first = '{"a": "[[PERSONNE_1b]]", "b": "[[PERSON'
    second = '{"c": "[[PERSONNE_10]]"}'
    chunks = [
        Chunk(tool_calls=(ToolCallDelta(0, "x", "send", first),)),
        Chunk(tool_calls=(ToolCallDelta(1, "y", "note", second[:9]), ToolCallDelta(0, arguments='NE_10]]"}'))),
        Chunk(tool_calls=(ToolCallDelta(1, arguments=second[9:]),)),
        Chunk(finish="tool_calls"),
    ]
    written = {0: "", 1: ""}
    for chunk in chunks:
        shown = output.feed(chunk)
        for delta in shown.tool_calls if shown else ():
            written[delta.index] += delta.arguments
    assert json.loads(written[0]) == {"a": 'Mme "L."', "b": "Karim\nBen"}
    assert json.loads(written[1]) == {"c": "Karim\nBen"}


def test_text_that_must_be_json_is_escaped_and_a_broken_stream_is_flushed() -> None:
    output = Restore(VALUES, json_text=True)
    assert output.feed(Chunk(text='{"n": "[[PERSONNE_1b]]"')) == Chunk(text='{"n": "Mme \\"L.\\""')
    assert output.feed(Chunk(text="}[[PERSONNE_1")) == Chunk(text="}")
    assert output.flush() == Chunk(text="Hélène Lefèvre")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**6 - 1), st.integers(0, 60), st.sampled_from(Kind))
def test_a_code_reads_back_as_itself(ordinal: int, variant: int, kind: Kind) -> None:
    code = Code(kind, ordinal, variant)
    reading = read(str(code), 0)
    assert reading == Reading(code, len(str(code)))


WORDS = st.lists(
    st.sampled_from(
        ["Hélène Lefèvre", "Mme Lefèvre", "LEFÈVRE", "06 12 34 56 78", "0612345678", "h.l@courriel.example",
         "[[PERSONNE_1]]",
         "[[", "]]", "[", "]", "PERSONNE_1", "PERSONNE_", "(", ")", " ", ", ", "\n", "1", "b", "Bonjour", "é",
         "'", "[[EMAIL_2",
         "né le 12/03/1980", "12 rue de la Paix, 75002 Paris", "LITTERAL_1", "\\", "**"]
    ),
    max_size=10,
)  # fmt: skip


@settings(max_examples=800, deadline=None)
@given(WORDS)
def test_masking_then_restoring_gives_the_same_text(words: list[str]) -> None:
    text = "".join(words)
    table = Table()
    masked, _ = mask(text, table)
    decoder = Decoder({entry.code: entry.surface for entry in table.entries()})
    assert decoder.feed(masked) + decoder.flush() == text


def test_what_the_user_wrote_like_a_code_is_seen() -> None:
    for text in ("[[PERSONNE_1]]", "[email 2]", "PERSONNE_1"):
        assert _covered(f"Voir {text}.") == [text]
    assert _covered("rien [[ ici") == []


def _covered(text: str) -> list[str]:
    return [text[one.start : one.end] for one in find_literals(text)]
