"""Means: measured on the same data, with intervals; interrupted and gone on with; the cheapest adequate one taken."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import pytest

from metier.calls import JSON
from metier.errors import Invalid, NotFound, ProviderUnavailable
from metier.workflow.definition import Workflow, parse
from metier.workflow.means import Outcome, Runner, judge, measure
from metier.workflow.means_data import Candidate, Given, How, Item, Kept, answer_of, candidates, rows, unheard
from metier.workflow.steps.model import named

FLOW = """
flow: triage
schema: 1
inputs: {text: string}
steps:
  - id: classify
    model: intent@1
    with: {text: "{{ inputs.text }}"}
    output: {category: {enum: [refund, other]}, confidence: number}
"""
TABLE = """
rules: words
version: 1
inputs: {text: string}
outputs: {category: {enum: [refund, other]}}
rows:
  - when: text.contains('rembours')
    then: {category: refund}
  - then: {category: other}
"""
ANSWER = "output.category"


def workflow() -> Workflow:
    return parse(FLOW, {})


def means(folder: pathlib.Path, text: str) -> tuple[Candidate, ...]:
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "rules" / "words@1.yaml").write_text(TABLE, encoding="utf-8")
    (folder / "intent.md").write_text("Classe : {{ text }}", encoding="utf-8")
    (folder / "classify.yaml").write_text(text, encoding="utf-8")
    flow = workflow()
    return candidates(flow, flow.steps[0], folder / "classify.yaml")


def items(count: int) -> list[Item]:
    return [Item({"text": f"message {n}"}, "refund" if n % 2 else "other", f"d{n}") for n in range(count)]


def plain(name: str, kind: str = "code") -> Candidate:
    return Candidate(name, kind, f"{name}.function", {}, None)  # type: ignore[arg-type]  # terse tests


def runner(wrong: int, cost: float = 0.0, tried: list[str] | None = None) -> Runner:
    """Answer rightly but for the first so many messages."""

    async def run(with_: Mapping[str, JSON]) -> Outcome:
        number = int(str(with_["text"]).split()[1])
        if tried is not None:
            tried.append(str(with_["text"]))
        right = (number % 2 == 1) == (number >= wrong)
        return Outcome({"category": "refund" if right else "other"}, 1 if cost else 0, cost, 0.0)

    return run


def test_the_candidates_are_the_step_as_it_is_and_those_of_the_file(tmp_path: pathlib.Path) -> None:
    found = means(tmp_path, "means:\n  rules: words@1\n  small: {llm: {model: writer, prompt: intent.md}}\n")
    assert [(one.name, one.kind) for one in found] == [("model", "model"), ("rules", "rules"), ("small", "llm")]
    assert "rules/words@1.yaml" in found[1].files and found[2].files["intent.md"].startswith("Classe")
    assert len({one.fingerprint for one in found}) == 3
    (tmp_path / "intent.md").write_text("Range : {{ text }}", encoding="utf-8")
    again = means(
        tmp_path, "means:\n  rules: words@1\n  small: {llm: {model: writer, prompt: intent.md, temperature: 0}}\n"
    )
    assert again[1].fingerprint == found[1].fingerprint and again[2].fingerprint != found[2].fingerprint
    alone = candidates(workflow(), workflow().steps[0], None)
    assert [one.name for one in alone] == ["model"]
    for wrong in ("means: {tool: email.send}", "means: {llm: writer}", "means: {a: {llm: {model: m}}}", "other: 1"):
        with pytest.raises(Invalid, match=r"classify.yaml:1"):
            means(tmp_path, wrong)
    with pytest.raises(NotFound, match="no such file"):
        candidates(workflow(), workflow().steps[0], tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("llm: {model: writer, prompt: intent.md, temprature: 0}", "1:49: unknown key 'temprature'"),
        ("llm: {model: writer, prompt: 5}", "prompt must be a text, not 5"),
        ("a: {llm: {model: writer, prompt: intent.md, temperature: hot}}", "a number between 0 and 2, not 'hot'"),
        ("rules: words", "write it like refund-policy@2026-10"),
    ],
)
def test_a_candidate_is_read_as_the_step_it_stands_for(tmp_path: pathlib.Path, wrong: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        means(tmp_path, f"means: {{{wrong}}}")
    assert caught.value.message.startswith("classify.yaml:1:") and said in caught.value.message


def test_rows_of_no_test_split_are_not_measured_unasked(tmp_path: pathlib.Path) -> None:
    step, path = workflow().steps[0], tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "refund", "split": "train"}\n{"text": "b", "label": "other"}\n')
    with pytest.raises(Invalid, match="rows of the split train and none of test"):
        rows(path, step, "label", None, None)
    assert len(rows(path, step, "label", "train", None)) == 1


@pytest.mark.parametrize("label", ["null", "[]", '" "', '{"a": 1}'])
def test_a_label_is_an_answer(tmp_path: pathlib.Path, label: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"text": "a", "label": {label}}}\n')
    with pytest.raises(Invalid, match=r"data\.jsonl:1: the label under 'label' is .*: give the right answer"):
        rows(path, workflow().steps[0], "label", None, None)


def test_rows_that_are_there_again_are_told(tmp_path: pathlib.Path) -> None:
    path, told = tmp_path / "data.jsonl", list[str]()
    path.write_text('{"text": "a", "label": "refund"}\n' * 3)
    assert len(rows(path, workflow().steps[0], "label", None, None, How(tell=told.append))) == 1
    assert told == ["data.jsonl: 2 rows are there again with the same label, and count once"]


def test_rows_are_those_of_the_test_split_and_say_what_they_lack(tmp_path: pathlib.Path) -> None:
    step, path = workflow().steps[0], tmp_path / "data.jsonl"
    lines = [{"text": f"m{n}", "label": "refund", "split": "test" if n < 3 else "train"} for n in range(9)]
    path.write_text("\n".join(json.dumps(one) for one in [*lines, lines[0]]), encoding="utf-8")
    assert [one.with_["text"] for one in rows(path, step, "label", None, None)] == ["m0", "m1", "m2"]
    assert len(rows(path, step, "label", "train", 4)) == 4
    with pytest.raises(Invalid, match="--label"):
        rows(path, step, "category", None, None)
    with pytest.raises(Invalid, match="'validation'"):
        rows(path, step, "label", "validation", None)
    path.write_text('{"label": "refund"}', encoding="utf-8")
    with pytest.raises(Invalid, match="no 'text'"):
        rows(path, step, "label", None, None)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(Invalid, match=r"data.jsonl:1: this row is not JSON"):
        rows(path, step, "label", None, None)
    assert answer_of(step) == "output.category"


async def test_the_cheapest_means_not_significantly_worse_is_recommended(tmp_path: pathlib.Path) -> None:
    kept, cases = Kept(tmp_path / "kept.jsonl", ANSWER), items(200)
    model, rules, llm = plain("model", "model"), plain("rules", "rules"), plain("llm", "llm")
    todo = [(model, runner(12)), (rules, runner(70)), (llm, runner(10, 0.002))]
    await measure(todo, cases, ANSWER, kept)
    found = judge([model, rules, llm], cases, kept)
    assert (found.best, found.recommended) == ("llm", "model")
    by = {one.name: one for one in found.measured}
    assert by["llm"].quality == 0.95 and by["llm"].low == pytest.approx(0.9104, abs=1e-3)
    assert (by["rules"].adequate, by["model"].adequate) == (False, True)
    assert by["rules"].mcnemar_p < 1e-10 and by["model"].mcnemar_p == 0.5
    assert by["model"].behind == pytest.approx(0.01) and by["model"].certain is False
    assert by["llm"].cost_eur == 0.002 and by["llm"].calls == 200
    assert any("label more" in reason for reason in found.reasons)
    assert judge([model, rules, llm], cases, kept, margin=0.5).recommended in ("model", "rules")
    assert judge([rules, llm], cases, kept).recommended == "llm"
    with pytest.raises(Invalid, match="margin"):
        judge([rules], cases, kept, margin=2)
    with pytest.raises(Invalid, match="nothing to compare"):
        judge([], cases, kept)


async def test_an_interrupted_measure_pays_for_no_answer_twice(tmp_path: pathlib.Path) -> None:
    cases, llm, path, tried = items(20), plain("llm", "llm"), tmp_path / "in" / "kept.jsonl", list[str]()
    whole = runner(0, 0.01, tried)

    async def breaking(with_: Mapping[str, JSON]) -> Outcome:
        if len(tried) == 12:
            raise ProviderUnavailable("the provider is away")
        return await whole(with_)

    with pytest.raises(ProviderUnavailable):
        await measure([(llm, breaking)], cases, ANSWER, Kept(path, ANSWER))
    assert len(tried) == 12
    with path.open("a", encoding="utf-8") as file:
        file.write('{"candidate": "cut')
    kept, told = Kept(path, ANSWER), list[str]()
    await measure([(llm, whole)], cases, ANSWER, kept, told.append)
    assert len(tried) == 20 == len(set(tried)) and told[0] == "llm: 12 of 20 were answered before"
    assert judge([llm], cases, Kept(path, ANSWER)).measured[0].calls == 20
    text = path.read_text(encoding="utf-8")
    assert "message" not in text
    assert not Kept(path, "output.other").has(llm, cases[0])


async def test_what_fails_counts_as_wrong_and_is_said(tmp_path: pathlib.Path) -> None:
    cases, kept = items(10), Kept(tmp_path / "kept.jsonl", ANSWER)

    async def broken(with_: Mapping[str, JSON]) -> Outcome:
        raise Invalid("cannot")

    async def paid(with_: Mapping[str, JSON]) -> Outcome:
        return Outcome(None, 2, 0.5, None, failed="step_failed")

    await measure([(plain("a"), broken), (plain("b", "llm"), paid), (plain("c"), runner(0))], cases, ANSWER, kept)
    found = {one.name: one for one in judge([plain("a"), plain("b", "llm"), plain("c")], cases, kept).measured}
    assert (found["a"].failed, found["a"].quality, found["b"].failed, found["b"].wh) == (10, 0.0, 10, None)
    assert found["b"].calls == 20 and found["b"].cost_eur == 0.5 and found["c"].quality == 1.0
    assert kept.get(plain("a"), cases[0]).failed == "invalid"
    assert isinstance(kept.get(plain("c"), cases[0]), Given)


async def test_where_no_means_was_ever_right_none_is_recommended_and_why_is_said(tmp_path: pathlib.Path) -> None:
    kept, cases, said = Kept(tmp_path / "kept.jsonl", ANSWER), items(20), list[str]()

    async def failing(with_: Mapping[str, JSON]) -> Outcome:
        raise Invalid("it lacks its table")

    rules, llm = plain("rules", "rules"), plain("llm", "llm")
    await measure([(rules, failing), (llm, runner(20))], cases, ANSWER, kept, said.append)
    assert said.count("rules gives no answer: invalid: it lacks its table") == 1
    found = judge([rules], cases, kept)
    assert found.recommended is None and "rules gave no answer to 20 of 20" in found.reasons
    found = judge([rules, llm], cases, kept)
    assert found.recommended is None or found.recommended == "llm"
    again = Kept(tmp_path / "kept.jsonl", ANSWER)
    assert not again.has(rules, cases[0]), "what failed and cost nothing is tried again once its cause is mended"
    assert again.has(llm, cases[0])


def test_labels_the_step_never_gives_and_answers_it_does_not_have_are_told(tmp_path: pathlib.Path) -> None:
    step, path = workflow().steps[0], tmp_path / "data.jsonl"
    path.write_text('\ufeff{"text": "m1", "label": "refund"}\n\n{"text": "m2", "label": "refunds"}\n', encoding="utf-8")
    told = unheard(step, "output.category", rows(path, step, "label", None, None))
    assert told is not None and told.startswith("1 of 2 rows have a label that the step never gives, 'refunds'")
    assert unheard(step, "output.category + ''", rows(path, step, "label", None, None)) is None
    with pytest.raises(Invalid, match="has no 'kind': it has category"):
        answer_of(step, "output.kind")
    assert answer_of(step, "lower(output.category)") == "lower(output.category)"
    path.write_text("text,label\nm1,refund\n", encoding="utf-8")
    with pytest.raises(Invalid, match="write a row a line, such as"):
        rows(path, step, "label", None, None)
    path.write_text("", encoding="utf-8")
    with pytest.raises(Invalid, match="is empty"):
        rows(path, step, "label", None, None)


def test_a_label_is_given_under_the_names_the_output_declares() -> None:
    assert named(None, "panne", 0.9) == {"category": "panne", "confidence": 0.9}
    schema: dict[str, JSON] = {"properties": {"categorie": {"enum": ["panne"]}}}
    assert named(schema, "panne", 0.9) == {"categorie": "panne"}
    schema = {"properties": {"sorte": {"type": "string"}, "certitude": {"type": "number"}}}
    assert named(schema, "panne", 0.9) == {"sorte": "panne", "certitude": 0.9}
    schema = {
        "properties": {"category": {"type": "string"}, "lang": {"enum": ["fr"]}, "confidence": {"type": "number"}}
    }
    assert named(schema, "panne", 0.9) == {"category": "panne", "confidence": 0.9}
