"""Prompt files: two parts, languages, variables from `with`, and nothing that could run away."""

from __future__ import annotations

import pytest

from metier.calls import JSON, Message
from metier.errors import Invalid
from metier.workflow import prompts
from metier.workflow.definition import parse
from metier.workflow.prompt_language import WORK_MAX

PROMPT = """Tu es {{ role }}.
---
{% for doc in docs %}[{{ doc.id }}] {{ doc.text }}
{% endfor %}{% if critique %}Critique : {{ critique }}{% endif %}
"""


def test_a_prompt_has_a_system_and_a_user_part() -> None:
    given = prompts.prompt(PROMPT, "p.md", {"role": "conseiller", "docs": [{"id": "a", "text": "b"}], "critique": ""})
    assert given == prompts.Prompt("Tu es conseiller.", "[a] b")


def test_without_a_line_of_dashes_everything_is_for_the_user() -> None:
    assert prompts.prompt("a {{ b }}", "p.md", {"b": 1}) == prompts.Prompt(None, "a 1")


def test_variables_are_known_before_a_run() -> None:
    assert prompts.variables(PROMPT, "p.md") == {"role", "docs", "critique"}


def test_a_missing_variable_is_an_error_and_never_an_empty_text() -> None:
    with pytest.raises(Invalid, match="'b' is undefined"):
        prompts.prompt("a {{ b }}", "p.md", {})
    with pytest.raises(Invalid, match="has no attribute 'titel'"):
        prompts.prompt("{{ d.titel }}", "p.md", {"d": {"title": 1}})


def test_fields_are_data_even_when_they_are_named_like_methods() -> None:
    given = prompts.prompt("{{ d.items }}{{ d.keys }}{{ d['get'] }}", "p.md", {"d": {"items": 1, "keys": 2, "get": 3}})
    assert given.user == "123"


def test_what_a_value_says_is_never_run() -> None:
    evil = "{{ 7 * 7 }} {% for x in y %}"
    assert prompts.prompt("{{ text }}", "p.md", {"text": evil}).user == evil


@pytest.mark.parametrize(
    "text",
    [
        "{{ x.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ x.format('a') }}",
        "{{ range(10) }}",
        "{{ 9 * 'x' }}",
        "{{ 9 ** 9 }}",
        "{{ '%099999999d' % 1 }}",
        "{% set a = 1 %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% extends 'x' %}",
        "{{ x | center(99999999) }}",
        "{{ x | attr('__class__') }}",
        "{% for a in x recursive %}{% endfor %}",
        "{% for a in x %}{% for b in x %}{% for c in x %}{% endfor %}{% endfor %}{% endfor %}",
        "{{ cycler }}",
        "{{ self }}",
        "{% if x %}" * 200 + "{% endif %}" * 200,
        "{{ " + "not " * 400 + "x }}",
        "{{ x",
        "{% if %}",
    ],
)
def test_nothing_but_reading_is_allowed(text: str) -> None:
    with pytest.raises(Invalid):
        prompts.prompt(text, "p.md", {"x": "y"})


def test_a_prompt_that_grows_too_long_is_refused() -> None:
    with pytest.raises(Invalid, match="more than 1000000 characters"):
        prompts.prompt(
            "{% for a in x %}{% for b in x %}{{ t }}{% endfor %}{% endfor %}", "p.md", {"x": [1] * 100, "t": "x" * 1000}
        )


def test_useful_filters_work() -> None:
    text = (
        "{{ a | tojson }} {{ l | join(', ') }} {{ l | length }} {{ n | default('-') }} {{ d | items | first | last }}"
    )
    given = prompts.prompt(text, "p.md", {"a": {"é": [1]}, "l": ["x", 1], "d": {"k": "v"}})
    assert given.user == '{"é": [1]} x, 1 2 - v'


def test_the_variant_of_the_language_is_chosen() -> None:
    files = ["prompts/draft.md", "prompts/draft.fr.md", "prompts/other.fr.md"]
    assert prompts.choose(files, "prompts/draft.md", "fr") == "prompts/draft.fr.md"
    assert prompts.choose(files, "prompts/draft.md", "de") == "prompts/draft.md"
    assert prompts.choose(["p/a.de.md", "p/a.en.md"], "p/a.md", "other") == "p/a.en.md"
    with pytest.raises(Invalid, match="cannot find the prompt"):
        prompts.choose(files, "prompts/nope.md", "fr")


def test_the_messages_of_a_step_are_system_examples_and_prompt() -> None:
    flow = """
flow: f
schema: 1
steps:
  - id: draft
    llm: {model: writer, prompt: p.md, system: s.md, examples: [{user: q, assistant: r}]}
    with: {language: fr, name: x}
"""
    workflow = parse(flow, {"p.fr.md": "above\n---\nhello {{ name }}", "p.en.md": "no", "s.md": "rules for {{ name }}"})
    step = workflow.steps[0]
    assert isinstance(step.config, dict)
    assert prompts.messages(workflow, step.config, {"language": "fr", "name": "x"}) == (
        Message("system", "rules for x\n\nabove"),
        Message("user", "q"),
        Message("assistant", "r"),
        Message("user", "hello x"),
    )


def test_an_error_in_a_prompt_tells_its_line() -> None:
    with pytest.raises(Invalid, match=r"p\.md:3:1: cannot read the prompt"):
        prompts.check("system\n---\n{% if %}", "p.md")


MANY: list[JSON] = [*range(100_000)]
LONG = "x " * 400_000


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}", {"x": MANY}),
        ("{% for a in x if false %}{% for b in x %}{% endfor %}{% endfor %}" * 4, {"x": MANY}),
        ("{% for a in t %}{% for b in t %}{% endfor %}{% endfor %}", {"t": LONG}),
        ("{% for a in x %}{% for b in x + x %}{% endfor %}{% endfor %}", {"x": MANY}),
        ("{% for a in x %}{% if x | sort == 1 %}{% endif %}{% endfor %}", {"x": MANY}),
        ("{% for a in x %}{% if x | unique | first == 1 %}{% endif %}{% endfor %}", {"x": MANY}),
        ("{% for a in x %}{% if x | join == 1 %}{% endif %}{% endfor %}", {"x": MANY}),
        ("{% for a in x %}{% if ['a', 'b'] | join(t) == 1 %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG[:400_000]}),
        ("{% for a in x %}{% if x | tojson == 1 %}{% endif %}{% endfor %}", {"x": MANY}),
        (
            "{% for a in x %}{% if d | items | length %}{% endif %}{% endfor %}",
            {"x": MANY, "d": {str(n): n for n in range(9)}},
        ),
        ("{% for a in x %}{% if (x,) | tojson | length %}{% endif %}{% endfor %}", {"x": MANY}),
        ("{% for a in x %}{% if [x, a] == [y, a] %}{% endif %}{% endfor %}", {"x": MANY, "y": [*MANY]}),
        ("{% for a in x %}{% if (x, a) == (y, a) %}{% endif %}{% endfor %}", {"x": MANY, "y": [*MANY]}),
        ("{% for a in x %}{% if d | tojson | length %}{% endif %}{% endfor %}", {"x": MANY, "d": {LONG: 1}}),
        ("{% for a in x %}{% if ['a'] | join(separator=t) | length %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG}),
        ("{% for a in x %}{% if ['a'] | join(*[t]) | length %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG}),
        ("{% for a in x %}{% if t | sort | length %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG}),
        (
            "{% for a in x %}{% if o | sort(attribute='k') | length %}{% endif %}{% endfor %}",
            {"x": MANY, "o": [{"k": LONG}]},
        ),
        ("{% for a in x %}{% if x | truncate(9, true, x, 0) | length %}{% endif %}{% endfor %}", {"x": MANY}),
        ("{% for a in x %}{% if x | truncate(90000, true, [], 0) | length %}{% endif %}{% endfor %}", {"x": MANY}),
        (
            "{% for a in x %}{% if o | unique(true, 'k,l') | first %}{% endif %}{% endfor %}",
            {"x": MANY, "o": [{"k,l": LONG}]},
        ),
        ("{% for a in x %}{% if t | truncate(700000) | length %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG}),
        ("{% for a in x %}{% if t | title | length %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG}),
        ("{% for a in x %}{% if t | wordcount %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG}),
        ("{% for a in x %}{% if (t ~ t) | length %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG}),
        ("{% for a in x %}{% if (t + t) | length %}{% endif %}{% endfor %}", {"x": MANY, "t": LONG}),
        ("{% for a in x %}{% if -1 in x %}{% endif %}{% endfor %}", {"x": MANY}),
        ("{% for a in x %}{% if -1 is in(x) %}{% endif %}{% endfor %}", {"x": MANY}),
        ("{% for a in x %}{% if x == y %}{% endif %}{% endfor %}", {"x": MANY, "y": [*MANY]}),
        ("{{ (" + " ~ ".join(["t"] * 40) + ") | length }}", {"t": LONG}),
        ("{{ [x, x, x, x, x, x, x, x, x, x] }}", {"x": MANY}),
    ],
)
def test_the_work_of_one_rendering_is_bounded(text: str, given: dict[str, JSON]) -> None:
    with pytest.raises(Invalid, match=f"cannot fill in the prompt 'p.md': it takes more than {WORK_MAX} units"):
        prompts.prompt(text, "p.md", given)


def test_all_parts_of_a_prompt_are_one_rendering() -> None:
    loop = "{% for a in x %}{% endfor %}{% for a in x %}{% endfor %}"
    assert prompts.prompt(f"{loop}a", "p.md", {"x": MANY}).user == "a"
    with pytest.raises(Invalid, match="units of work"):
        prompts.prompt(f"{loop}\n---\n{loop}a", "p.md", {"x": MANY})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ 15 | round(99999999, 'ceil') }}", "round takes a precision between -15 and 15"),
        ("{{ n | round(-99999999, 'floor') }}", "round takes a precision between -15 and 15"),
        ("{{ deep | tojson(8) | length }}", "tojson would give more than 1000000 characters"),
        ("{{ t | truncate(-5) }}", "expected length >= 3, got -5"),
        ("{{ t | trim(long) }}", "trim takes off at most 100 different characters"),
        ("{{ deep | sort(attribute='" + "a," * 8 + "a') }}", "an attribute of at most 8 fields"),
    ],
)
def test_a_filter_that_could_go_on_for_ever_is_refused(text: str, says: str) -> None:
    deep: JSON = [*MANY]
    for _ in range(200):
        deep = [deep]
    with pytest.raises(Invalid, match=says):
        prompts.prompt(text, "p.md", {"n": 15, "deep": deep, "t": "text", "long": LONG})


def test_a_long_table_is_no_too_much_work() -> None:
    cells = "{% for c in row.cells %} {{ c }}{% if c == 'e' %}!{% endif %}{% endfor %}"
    text = "{% for row in rows %}{{ row.id }}:" + cells + "\n{% endfor %}"
    rows: JSON = [{"id": number, "cells": ["a", "b", "c", "d", "e"]} for number in range(10_000)]
    assert prompts.prompt(text, "p.md", {"rows": rows}).user.count("!") == 10_000


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{% for d in docs %}{{ d.text | truncate(3, true, '') }}{% endfor %}", "abc" * 20),
        ("{% for d in docs %}{{ d.text | trim | truncate(3, true, '') }}{% endfor %}", "abc" * 20),
        ("{% for d in docs | sort(attribute='n', reverse=true) %}{{ d.n }}{% endfor %}", "99887766554433221100"),
        ("{% for d in docs | unique(attribute='n') %}{{ d.n }}{% endfor %}", "0123456789"),
        ("{% for name, d in named | items %}{{ name }}{% endfor %}", "one"),
        ("{% for d in docs %}{% if d.text != '' and d != none %}{{ d.n }}{% endif %}{% endfor %}", "0123456789" * 2),
        ("{{ 2.5 | round(none) }}", "2"),
    ],
)
def test_long_texts_of_which_little_is_looked_at_are_no_work(text: str, wanted: str) -> None:
    long = "abc " * 100_000
    docs: list[JSON] = [{"n": number % 10, "text": long} for number in range(20)]
    assert prompts.prompt(text, "p.md", {"docs": docs, "named": {"one": docs}}).user == wanted


def test_loops_go_over_objects_texts_and_what_filters_give() -> None:
    text = "{% for k in d %}{{ loop.index }}{{ k }}{% endfor %} {% for c in 'ab' %}{{ c }}{% endfor %}"
    text += " {% for u in x | unique %}{{ u }}{{ loop.last }}{% endfor %}"
    assert prompts.prompt(text, "p.md", {"d": {"k": 1}, "x": [1, 1]}).user == "1k ab 1True"
    with pytest.raises(Invalid, match="'y' is undefined"):
        prompts.prompt("{% for a in y %}{% endfor %}", "p.md", {})
    with pytest.raises(Invalid, match="'int' object is not iterable"):
        prompts.prompt("{% for a in y %}{% endfor %}", "p.md", {"y": 1})
    with pytest.raises(Invalid, match="there is no filter 'weighed'"):
        prompts.prompt("{{ y | weighed(1) }}", "p.md", {"y": 1})
