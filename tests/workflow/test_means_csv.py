"""Labelled rows as spreadsheets save them: delimiters, character sets, types, and what is wrong on which line."""

from __future__ import annotations

import pathlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.means_csv import cell, kinds, read
from metier.workflow.means_data import How, rows
from tests.workflow.flows import flow, step

GIVEN = {"text": "{{ inputs.text }}", "amount": "{{ inputs.amount }}", "sure": "{{ steps.first.sure }}"}


def made(path: pathlib.Path, data: str | bytes, how: How | None = None, label: str = "label") -> list[tuple[JSON, str]]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    found = rows(path, step("classify", with_={"text": "{{ inputs.text }}"}), label, None, None, how or How())
    return [(one.with_["text"], one.label) for one in found]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_spreadsheet_is_read_as_it_was_saved(tmp_path: pathlib.Path, delimiter: str, charset: str, end: str) -> None:
    lines = [("id", "text", "label"), ("1", '"Colis, perdu ; où\n""est-il"" ? 12 €"', "livraison"), ("", "", "")]
    lines.append(("2", "Été\u00a0: remboursé", " remboursement "))
    told: list[str] = []
    text = end.join(delimiter.join(one) for one in lines) + end
    found = made(tmp_path / "d.CSV", text.encode(charset), How(tell=told.append))
    assert found == [
        ('Colis, perdu ; où\n"est-il" ? 12 €', "livraison"),
        ("Été\u00a0: remboursé", "remboursement"),
    ]
    assert told[-1].endswith("; label from 'label', text from 'text'; not used: 'id'") and "2 rows" in told[-1]
    assert ("was read as Windows-1252" in told[0]) == (charset == "cp1252") and len(told) == 1 + (charset == "cp1252")


def test_bytes_that_even_windows_does_not_know_are_latin_1_and_told(tmp_path: pathlib.Path) -> None:
    told: list[str] = []
    assert made(tmp_path / "d.csv", b"text,label\n\x81\xe9t\xe9,a\n", How(tell=told.append)) == [("\x81été", "a")]
    assert "(line 2): it was read as Latin-1" in told[0]


def test_a_delimiter_the_file_names_and_columns_of_other_names_are_followed(tmp_path: pathlib.Path) -> None:
    data = "sep=;\r\nMessage;Catégorie;split\r\nun, deux;a;test\r\ntrois;b;train\r\n"
    found = made(tmp_path / "d.csv", data, How({"text": "Message"}), "Catégorie")
    assert found == [("un, deux", "a")]
    # The header tells: one semicolon where three commas stand inside a name.
    assert made(tmp_path / "e.csv", '"text";"label"\n"a,b,c,d";x\n') == [("a,b,c,d", "x")]
    with pytest.raises(Invalid, match="which the step is not given; did you mean 'text'"):
        made(tmp_path / "d.csv", data, How({"texte": "Message"}))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("", "is empty: write a header"),
        ("\n \n", "is empty: write a header"),
        ("text,label\n", "is empty"),
        (
            "texte,label\na,b\n",
            "d.csv has no column 'text'; did you mean 'texte'?; the step is given 'text': say --column",
        ),
        ("text,category\na,b\n", "has no column 'label'; it can be category, text; the right answer: say --label"),
        ("text,label,text\na,b,c\n", "d.csv:1: two columns are named 'text'"),
        ("text,label\na,b\nc,d,e\n", "d.csv:3: this row has 3 cells and the header 2"),
        ("text,label\na\n", "d.csv:2: this row has 1 cells and the header 2"),
        ('text,label\n"a\nb",c\nd,\n', "d.csv:4: the label in the column 'label' is empty"),
        ('text,label\na,b\n"c" d,e\n', "d.csv:3: this row cannot be read as CSV"),
        ('text,label\na,b\n"c,d\ne,f\n', "d.csv:3: this row cannot be read as CSV"),
        ("sep=;\ntext;label\na;b;c\n", "d.csv:3: this row has 3 cells"),
        (b"text,label\n\x00,b\n", "zero bytes"),
        (b"\xff\xfea", "begins like UTF-16"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: pathlib.Path, data: str | bytes, told: str) -> None:
    with pytest.raises(Invalid) as raised:
        made(tmp_path / "d.csv", data)
    assert told in raised.value.message


def test_cells_have_the_types_that_the_flow_declares(tmp_path: pathlib.Path) -> None:
    first = step("first")
    first = replace(first, output={"type": "object", "properties": {"sure": {"type": "boolean"}}})
    second = step("second", with_={**GIVEN, "odd": "{{ inputs.amount + 1 }}", "set": 3, "none": "{{ steps.gone.a }}"})
    inputs: dict[str, JSON] = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "amount": {"type": "number"}},
    }
    known = kinds(replace(flow(first, second), inputs=inputs), second)
    assert known == {"amount": "number", "sure": "boolean"}
    path, given = tmp_path / "d.csv", step("s", with_={"amount": "", "sure": "", "text": ""})
    path.write_text("text;amount;sure;label\n007;1 250,5;oui;a\n", encoding="utf-8")
    (one,) = rows(path, given, "label", None, None, How(kinds=known))
    assert one.with_ == {"amount": 1250.5, "sure": True, "text": "007"}
    path.write_text("text;amount;sure;label\na;1;oui;a\nb;beaucoup;oui;a\n", encoding="utf-8")
    with pytest.raises(Invalid, match=r"d.csv:3: the column 'amount' has 'beaucoup' where the step takes a number"):
        rows(path, given, "label", None, None, How(kinds=known))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("12", "integer", 12),
        ("12,0", "integer", 12),
        ("-3", "number", -3),
        ("1\u202f250,75", "number", 1250.75),
        ("0,125", "number", 0.125),
        (" faux ", "boolean", False),
        ('["a"]', "array", ["a"]),
        ('{"a": 1}', "object", {"a": 1}),
        (" a ", None, " a "),
    ],
)
def test_a_cell_becomes_its_value(text: str, kind: str | None, value: JSON) -> None:
    assert cell(text, kind, "d.csv:2", "c") == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "number"), ("1,250", "number"), ("1,250,000", "number"), ("1.5", "integer"), ("nan", "number"),
     ("inf", "number"), ("9" * 99, "integer"), ("peut-être", "boolean"), ("{", "object"), ("[]", "object")],
)  # fmt: skip
def test_a_cell_that_may_mean_two_things_is_none(text: str, kind: str) -> None:
    with pytest.raises(Invalid, match=r"d.csv:2: the column 'c'"):
        cell(text, kind, "d.csv:2", "c")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200) | st.text(alphabet='a,;\t"\n\r=sep', max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        sheet = read(data, "d.csv", ("a", "label"))
    except Invalid:
        return
    assert all(set(row) == set(sheet.columns) for _, row in sheet.rows)


def test_csv_under_another_name_is_told_what_it_needs(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match=r"a file of CSV ends in .csv"):
        made(tmp_path / "d.txt", "text,label\na,b\n")
    assert made(tmp_path / "d.jsonl", '{"Mail": "a", "label": "b"}\n', How({"text": "Mail"})) == [("a", "b")]
