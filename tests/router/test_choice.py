from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, time

import pytest

from metier.calls import ConversationId, Media, Message, OutputSchema, Text, Tool
from metier.deployment import Condition, Model, Rule, Share
from metier.errors import NoDeployment
from metier.router import Chooser, Label, arm, shadows
from metier.router.choice import language_of
from tests.router.world import CALL, deployment

SMALL, LARGE = Model("small", (deployment("s"),)), Model("large", (deployment("l"),))
MODELS = {"small": SMALL, "large": LARGE}
MONDAY_20H = datetime(2026, 11, 23, 19, 0, tzinfo=UTC)


def choose(when: Condition, call=CALL, sensitivity=None, now=MONDAY_20H, label=None) -> str:  # type: ignore[no-untyped-def]  # shorthand of these tests
    model = Model("auto", (), rules=(Rule("small", when), Rule("large")))
    said = (lambda _, __: None) if label is None else (lambda _, __: label)
    chosen, route = Chooser(lambda: now, said).choose(call, model, MODELS.__getitem__, sensitivity)
    assert (route.model, route.label) == (chosen.name, label if when.labels else None)
    return chosen.name


LONG = replace(CALL, messages=(Message("user", "mot " * 1_000),))
IMAGE = replace(CALL, messages=(Message("user", parts=(Text("?"), Media("image/png", "AA"))),))


@pytest.mark.parametrize(
    ("when", "call", "chosen"),
    [
        (Condition(), CALL, "small"),
        (Condition(max_tokens=400), CALL, "small"),
        (Condition(max_tokens=400), LONG, "large"),
        (Condition(min_tokens=400), LONG, "small"),
        (Condition(has_tools=True), CALL, "large"),
        (Condition(has_tools=True), replace(CALL, tools=(Tool("t", "", {}),)), "small"),
        (Condition(has_media=True), IMAGE, "small"),
        (Condition(has_media=False), IMAGE, "large"),
        (Condition(structured=True), replace(CALL, output=OutputSchema("o", {})), "small"),
        (Condition(efforts=frozenset({"high"})), CALL, "large"),
        (Condition(groups=frozenset({"legal"})), CALL, "large"),
        (Condition(languages=frozenset({"fr"})), replace(CALL, language="fr"), "small"),
        (Condition(labels=frozenset({"easy"}), classifier="c@1"), CALL, "large"),
    ],
)
def test_the_first_rule_that_fits_decides(when: Condition, call: object, chosen: str) -> None:
    assert choose(when, call) == chosen


@pytest.mark.parametrize(
    ("label", "chosen"),
    [(Label("easy", 0.9), "small"), (Label("easy", 0.7), "small"), (Label("easy", 0.69), "large"),
     (Label("hard", 0.9), "large")],
)  # fmt: skip
def test_a_label_decides_where_the_classifier_is_sure_enough(label: Label, chosen: str) -> None:
    assert choose(Condition(labels=frozenset({"easy"}), classifier="c@1"), label=label) == chosen


def test_a_classifier_is_asked_once_a_call_however_many_rules_name_it() -> None:
    asked: list[str] = []

    def label(classifier: str, _: object) -> Label:
        asked.append(classifier)
        return Label("c", 1.0)

    rules = [Rule("small", Condition(labels=frozenset({name}), classifier="c@1")) for name in "ab"]
    model = Model("auto", (), rules=(*rules, Rule("large")))
    _, route = Chooser(label=label).choose(CALL, model, MODELS.__getitem__)
    assert (asked, str(route)) == (["c@1"], "large; label=c; confidence=1.00")


def test_sensitivity_is_a_threshold() -> None:
    when = Condition(sensitivity="confidential")
    assert [choose(when, sensitivity=s) for s in (None, "internal", "confidential", "secret")] == [
        "large", "large", "small", "small",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        (Condition(after=time(19), before=time(21), zone="Europe/Paris"), True),
        (Condition(after=time(21), zone="Europe/Paris"), False),
        (Condition(after=time(18, 30), before=time(7)), True),
        (Condition(after=time(22), before=time(7)), False),
        (Condition(weekdays=frozenset({0})), True),
        (Condition(weekdays=frozenset({5, 6})), False),
    ],
)
def test_the_time_of_day_is_that_of_the_rule_s_zone(when: Condition, fits: bool) -> None:
    assert choose(when) == ("small" if fits else "large")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Bonjour, je voudrais savoir où est ma commande, merci", "fr"),
        ("Hello, could you please tell me what the status of this order is", "en"),
        ("Guten Tag, ich habe eine Frage zu der Rechnung, bitte", "de"),
        ("Hola, gracias por la respuesta, pero no está en el paquete", "es"),
        ("42", None),
        ("", None),
    ],
)
def test_the_language_is_guessed_from_common_words_or_not_at_all(text: str, language: str | None) -> None:
    assert language_of(replace(CALL, messages=(Message("user", text),))) == language


def test_no_fitting_rule_is_said() -> None:
    model = Model("auto", (), rules=(Rule("small", Condition(has_tools=True)),))
    with pytest.raises(NoDeployment, match="no rule of model 'auto' fits"):
        Chooser().choose(CALL, model, MODELS.__getitem__)


def test_shares_are_kept_and_a_conversation_stays_in_its_arm() -> None:
    model = Model("m", (), split=(Share("new", 10), Share("other", 30)))
    calls = [replace(CALL, conversation=ConversationId(f"c{number}")) for number in range(4_000)]
    arms = [arm(call, model) for call in calls]
    assert arms == [arm(replace(call, messages=LONG.messages), model) for call in calls]
    counts = Counter(arms)
    assert 300 < counts["new"] < 500 and 1_080 < counts["other"] < 1_320


def test_without_anybody_to_stay_with_each_call_is_drawn_alone() -> None:
    model = Model("m", (), split=(Share("new", 50),))
    arms = Counter(arm(replace(CALL, id=f"call_{number}"), model) for number in range(400))  # type: ignore[arg-type]  # an id is a text
    assert 140 < arms["new"] < 260


def test_shadows_are_drawn_apart_from_splits() -> None:
    model = Model("m", (), shadow=(Share("a", 100), Share("b", 0.001)))
    assert shadows(CALL, model) == ("a",) and shadows(CALL, SMALL) == ()
