"""The corpus of wrong definitions: each says in its head what is found in it, where, and what to do about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from metier.errors import Invalid
from metier.workflow import definition, editor
from metier.workflow.definition import load
from metier.workflow.lint import Known, lint, unread

TEMPLATES = Path(definition.__file__).parents[1] / "templates"
WRONG = Path(__file__).parent / "wrong"
CASES = sorted(path.stem for path in WRONG.glob("*.yaml"))
KNOWN = Known(
    models={"writer", "judge"},
    classifiers={"intent@3"},
    rules=set(),
    collections={"sav"},
    tools={"email.send", "crm.find_contact"},
    code={"reply"},
    agent_tools={"email.send", "crm.find_contact", "reply"},
    flows={"archive@3"},
)
CHECKER = jsonschema.Draft202012Validator(json.loads(json.dumps(editor.schema())))


def head(case: str) -> tuple[str, str]:
    says, schema, *_ = (WRONG / f"{case}.yaml").read_text(encoding="utf-8").splitlines()
    return says.removeprefix("# says: "), schema.removeprefix("# schema: ")


def found(case: str) -> list[str]:
    try:
        return [str(finding) for finding in lint(load(WRONG / f"{case}.yaml"), KNOWN)]
    except Invalid as wrong:
        return wrong.message.splitlines()


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_definition_is_found_wrong_at_its_place(case: str) -> None:
    says = found(case)
    assert says[0] == head(case)[0]
    assert len(says) <= 2, says
    assert all(
        re.match(r"((flows|prompts|rules)/)?[a-z_@1]+\.(yaml|md):[1-9][0-9]*:[1-9][0-9]*: ", line) for line in says
    )


@pytest.mark.parametrize("case", CASES)
def test_the_published_schema_refuses_what_it_can_see(case: str) -> None:
    try:
        structure = yaml.safe_load((WRONG / f"{case}.yaml").read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return
    assert ("cannot see" if CHECKER.is_valid(structure) else "refuses") == head(case)[1]


def test_what_cannot_be_read_is_found_like_anything_else() -> None:
    with pytest.raises(Invalid) as caught:
        load(WRONG / "unknown_kind.yaml")
    (finding,) = unread(caught.value)
    assert (finding.line, finding.column, finding.message) == (7, 13, "unknown kind 'tol'")
    assert finding.suggestion == "did you mean 'tool'?"
    assert unread(Invalid("cannot read it at all")) == ()


def test_a_file_that_cannot_be_read_is_found_wrong_at_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "p.md").write_bytes("Bonjour,\nécris".encode("latin-1"))
    flow = tmp_path / "my flow.yaml"
    flow.write_text(
        "flow: x\nschema: 1\nsteps: [{id: a, llm: {model: writer, prompt: prompts/p.md}}, {id: b, cod: x}]\n"
    )
    with pytest.raises(Invalid) as caught:
        load(flow)
    places = {(one.file, one.line, one.column, one.message.split(":")[0]) for one in unread(caught.value)}
    assert places == {("prompts/p.md", 2, 1, "cannot read the file"), ("my flow.yaml", 3, 70, "unknown kind 'cod'")}


def test_a_semicolon_that_is_quoted_begins_no_suggestion() -> None:
    with pytest.raises(Invalid) as caught:
        load(WRONG / "single_equals.yaml")
    (finding,) = unread(caught.value)
    assert finding.message.endswith("\"split(inputs.text, '; ') = 3\" at character 26: not CEL")
    assert finding.suggestion == "write == to compare"


def test_the_published_schema_is_that_of_this_version() -> None:
    published = Path(__file__).parents[2] / "docs" / "reference" / "workflow.schema.json"
    assert json.loads(published.read_text(encoding="utf-8")) == json.loads(json.dumps(editor.schema()))


def test_every_shipped_flow_and_every_good_part_of_the_corpus_fits_the_schema() -> None:
    flows = [*TEMPLATES.glob("*/flow.yaml"), *WRONG.glob("flows/*.yaml")]
    assert len(flows) >= 4
    for path in flows:
        assert CHECKER.is_valid(yaml.safe_load(path.read_text(encoding="utf-8"))), path
