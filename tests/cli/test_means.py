"""`metier means`: rules and code measured on labelled rows of one's own, without any model."""

from __future__ import annotations

import json
import pathlib

from tests.cli.house import House

FLOW = """
flow: triage
schema: 1
inputs: {text: string}
steps:
  - id: speaks
    code: text.language
    with: {text: "{{ inputs.text }}"}
    output: {language: {enum: [fr, en, other]}, empty: boolean}
"""
TABLE = """
rules: hello
version: 1
inputs: {text: string}
outputs: {language: {enum: [fr, en, other]}}
rows:
  - when: text.startsWith('Bonjour')
    then: {language: fr}
  - then: {language: en}
"""


def prepared(folder: pathlib.Path) -> tuple[str, ...]:
    (folder / "means" / "rules").mkdir(parents=True)
    (folder / "flow.yaml").write_text(FLOW, encoding="utf-8")
    (folder / "means" / "speaks.yaml").write_text("means: {rules: hello@1}", encoding="utf-8")
    (folder / "means" / "rules" / "hello@1.yaml").write_text(TABLE, encoding="utf-8")
    rows = [{"text": f"Bonjour, je veux rendre ma commande {n}", "label": "fr"} for n in range(20)]
    rows += [{"text": f"Hello, I want to return my order {n}", "label": "en"} for n in range(20)]
    rows += [{"text": f"Je veux être remboursé de la commande {n}", "label": "fr"} for n in range(20)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return "means", str(folder), "speaks", "--data", str(folder / "data.jsonl")


def test_means_are_measured_and_the_cheapest_adequate_recommended(house: House, tmp_path: pathlib.Path) -> None:
    measure = prepared(tmp_path)
    dry = house.data(*measure, "--dry-run")
    assert dry["rows"] == 60 and dry["bill"]["most_calls"] == 0 and dry["candidates"] == ["code", "rules"]
    found = house.data(*measure)["ranking"]
    by = {one["name"]: one for one in found["measured"]}
    assert (by["code"]["quality"], by["rules"]["right"], found["recommended"]) == (1.0, 40, "code")
    assert by["rules"]["adequate"] is False and by["rules"]["mcnemar_p"] < 0.001
    told = house.run(*measure)
    assert (
        "code *" in told
        and "60 of 60 were answered before" in told
        and "shown to be more than the margin of 2.0% behind" in told
    )


def test_rows_of_a_spreadsheet_are_measured_as_json_lines_are(house: House, tmp_path: pathlib.Path) -> None:
    *measure, data = prepared(tmp_path)
    rows = [json.loads(line) for line in pathlib.Path(data).read_text(encoding="utf-8").splitlines()]
    sheet = tmp_path / "data.csv"
    cells = "".join(f'"{one["text"]}";{one["label"]}\r\n' for one in rows)
    sheet.write_bytes(f"Courrier;Langue\r\n{cells}".encode("cp1252"))
    named = ("--label", "Langue", "--column", "text=Courrier")
    told = house.run(*measure, str(sheet), *named, "--dry-run")
    assert "60 rows, semicolons between columns, Windows-1252; label from 'Langue', text from 'Courrier'" in told
    assert house.data(*measure, str(sheet), *named)["ranking"]["recommended"] == "code"
    assert "60 of 60 were answered before" in house.run(*measure, data), "a row is the same in either file"
    assert "has no column 'label'" in house.run(*measure, str(sheet), code=2)
    assert "as text=Mail" in house.run(*measure, str(sheet), "--column", "Courrier", code=2)


def test_what_is_missing_is_told(house: House, tmp_path: pathlib.Path) -> None:
    measure = prepared(tmp_path)
    assert "no step 'other'" in house.run(measure[0], measure[1], "other", *measure[3:], code=2)
    assert "no such file" in house.run(*measure, "--means", str(tmp_path / "none.yaml"), code=2)
    assert "--label" in house.run(*measure, "--label", "intent", code=2)
    assert "has no 'kind'" in house.run(*measure, "--answer", "output.kind", code=2)
    (tmp_path / "means" / "speaks.yaml").write_text("means: {model: untrained@3}", encoding="utf-8")
    assert "metier train" in house.run(*measure, "--dry-run", code=2)
