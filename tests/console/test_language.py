"""Both languages say everything, and a page is in the one its reader asked for."""

from __future__ import annotations

import pathlib
import re
from datetime import UTC, datetime, timedelta
from string import Formatter
from typing import get_args

import jinja2
import pytest
from jinja2 import nodes

import metier.console
from metier.console.highlight import highlight
from metier.console.language import LANGUAGES, Words, choose
from metier.console.run_move import MOVES
from metier.workflow.tasks import EventKind
from tests.console.desk import Office, approval

FOLDER = pathlib.Path(metier.console.__file__).parent
TEMPLATES = sorted((FOLDER / "templates").glob("*.html"))
BUILT = {
    "link.": ("used", "expired", "over", "done"),
    "bar.": ("self", "named", "reader"),
    "event.": (*get_args(EventKind), "to", "platform"),
    "move.": MOVES,
    "moved.": MOVES,
    "sign_in.": ("ended", "wrong", "slow"),
    "said.": ("decided", "handed_off", "claimed", "released", "settled", "commented", "absent", "back"),
}
"""Keys that templates put together, with what they may end with."""


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_both_languages_have_the_same_keys_and_the_same_places() -> None:
    french, english = LANGUAGES["fr"], LANGUAGES["en"]
    assert list(french) == list(english)
    for key, text in french.items():
        assert places(text) == places(english[key]), key
        assert text.strip() and english[key].strip(), key
        assert not re.search(r"\w [:;?!]", text), f"{key}: a space that may break stands before punctuation"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_says_nothing_that_is_not_translated(path: pathlib.Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = jinja2.Environment(autoescape=True).parse(source)
    for call in tree.find_all(nodes.Call):
        if not (isinstance(call.node, nodes.Name) and call.node.name == "t"):
            continue
        asked = call.args[0]
        either = [asked.expr1, asked.expr2] if isinstance(asked, nodes.CondExpr) else [asked]
        if all(isinstance(one, nodes.Const) for one in either):
            for one in either:
                assert isinstance(one, nodes.Const) and one.value in LANGUAGES["fr"], one
                assert {given.key for given in call.kwargs} == places(LANGUAGES["fr"][one.value]), one.value
        else:
            assert isinstance(asked, nodes.Add) and isinstance(asked.left, nodes.Const)
            assert all(asked.left.value + end in LANGUAGES["fr"] for end in BUILT[asked.left.value])
    plain = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|<[^>]*>", " ", re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", source, flags=re.DOTALL))
    assert not re.search(r"[^\W\d_]", plain), plain.split()
    assert "|safe" not in source and "autoescape" not in source and "style=" not in source


def test_every_string_is_used() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in [*FOLDER.glob("*.py"), *TEMPLATES])
    source = source.replace(FOLDER.joinpath("french.py").read_text(encoding="utf-8"), "")
    source = source.replace(FOLDER.joinpath("english.py").read_text(encoding="utf-8"), "")
    looked_up = (
        "decision.",
        "field.",
        "shown.",
        "priority.",
        "state.",
        "error.",
        "assignee.",
        "sign_in.",
        "said.",
        "settlement.",
        "done.",
        "tool.",
        "bar.",
        "link.",
        "event.",
        "problem.",
        "move.",
        "moved.",
        "status.",
        "line.",
    )
    unused = [key for key in LANGUAGES["fr"] if f'"{key}"' not in source and not key.startswith(looked_up)]
    assert unused == []


@pytest.mark.parametrize(
    ("chosen", "kept", "asked", "house", "given"),
    [
        ("en", "fr", "fr", "fr", "en"),
        ("xx", "en", "fr", "fr", "en"),
        (None, None, "de, en-GB;q=0.8, fr;q=0.7", "fr", "en"),
        (None, None, "en;q=0, fr;q=0.1", "en", "fr"),
        (None, "", "en;q=abc", "en", "en"),
        (None, None, "", "en", "en"),
        (None, None, "," * 500, "de", "fr"),
    ],
)
def test_the_language_is_the_one_asked_for(
    chosen: str | None, kept: str | None, asked: str, house: str, given: str
) -> None:
    assert choose(chosen, kept, asked, house) == given


async def test_a_chosen_language_is_kept(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe", Accept_Language="fr") as browser:
        page = await browser.get(f"/review/tasks/{task.id}")
        assert 'lang="fr"' in page.source and "Approuver" in page.text
        page = await browser.get(f"/review/tasks/{task.id}?lang=en")
        assert '<html lang="en">' in page.source and "Approve" in page.text and "'30' stands" in page.text
        assert "Waiting for you" in (await browser.get("/review")).text
        assert "does not exist" in (await browser.get("/review/tasks/none")).text


def test_moments_lengths_and_numbers_are_written_in_the_language() -> None:
    french, english, now = Words("fr"), Words("en"), datetime(2026, 11, 21, 9, 5, tzinfo=UTC)
    assert french.due(now + timedelta(days=2, hours=3), now) == "dans 2 j 3 h"
    assert english.due(now - timedelta(minutes=61), now) == "late by 1 h 1 min"
    assert french.due(now + timedelta(seconds=5), now) == "dans 1 min"
    assert [french.number(value) for value in (0.0, 7.0, 8.25, 0.0000214, 1234.5)] == [
        "0",
        "7",
        "8,2",
        "0,000021",
        "1234",
    ]
    assert english.number(0.5) == "0.5"
    midnight = datetime(2026, 11, 21).astimezone()
    assert (french.since(midnight), english.since(midnight)) == ("21/11/2026", "21 Nov 2026")
    assert (french.until(midnight), english.until(midnight)) == ("20/11/2026 compris", "the end of 20 Nov 2026")
    assert french.until(midnight + timedelta(hours=9)) == "21/11/2026 à 09:00" == french.since(midnight.replace(hour=9))
    assert french.named("decision", "send_later") == "send later"
    assert french.assignee("group:sav") == "groupe sav"


@pytest.mark.parametrize(
    ("text", "quotes", "marked"),
    [
        ("Le délai est de 14 jours.", ["DÉLAI est  de 14 jours"], ["délai est de 14 jours"]),
        ("Le «\u00a0délai\u00a0» d’envoi", ["le délai d'envoi"], ["Le «\u00a0délai\u00a0» d’envoi"]),
        ("un deux trois quatre", ["un … trois"], ["un", "trois"]),
        ("un deux trois", ["un … cinq"], []),
        ("un deux trois", ["un deux", "deux trois"], ["un deux", " trois"]),
        ("un deux", ["", "…", "  "], []),
        ("e\u0301te\u0301", ["\u00e9t\u00e9"], ["\u00e9t\u00e9"]),
        ("Straße ﬁn", ["STRASSE fin"], ["Straße ﬁn"]),
    ],
)
def test_quoted_words_are_found_however_they_are_written(text: str, quotes: list[str], marked: list[str]) -> None:
    passages = highlight(text, quotes)
    assert [passage.text for passage in passages if passage.quoted] == marked
    assert len("".join(passage.text for passage in passages)) <= len(text)
