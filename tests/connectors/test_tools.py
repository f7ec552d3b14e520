"""The tools that workflows name: what they need, what they refuse, and the e-mail they write."""

from __future__ import annotations

import email
import email.policy
import json
import pathlib
from typing import Any

import pytest

from metier.calls import JSON
from metier.connectors.customers import Customers
from metier.connectors.tools import NAMES, compose, tools
from metier.errors import ConfigError, Invalid
from tests.connectors.place import Place

SENDER = "Service client <sav@exemple.example>"


def test_every_name_has_its_tool() -> None:
    assert set(tools(None, None, None)) == set(NAMES)


@pytest.mark.parametrize(
    ("name", "said", "given"),
    [
        ("crm.find_contact", "customers:", {"email": "a@b.example"}),
        ("email.send", "METIER_SMTP_URL", {"to": "a@b.example", "subject": "s", "body": "b"}),
    ],
)
async def test_a_tool_that_is_not_configured_says_what_is_missing(name: str, said: str, given: dict[str, JSON]) -> None:
    with pytest.raises(ConfigError, match=said):
        await tools(None, None, None)[name](Place(), given)


async def test_a_contact_is_found_through_the_tool(tmp_path: pathlib.Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"email": "a@b.example", "tier": "pro", "orders": []}))
    find = tools(None, Customers(tmp_path / "c.jsonl"), None)["crm.find_contact"]
    assert await find(Place(), {"email": "A@B.example"}) == {"tier": "pro", "orders": []}
    wrong: list[dict[str, JSON]] = [{}, {"email": 3}, {"email": None}]
    for with_ in wrong:
        with pytest.raises(Invalid, match="does not fit its schema"):
            await find(Place(), with_)


def test_an_email_is_plain_text_in_utf8_with_its_headers() -> None:
    message: Any = compose(SENDER, "Élodie <elodie@exemple.example>", "Été à la côte", "Bonjour,\n\nÀ bientôt\n")
    assert (message["From"], message["Subject"]) == (SENDER, "Été à la côte")
    assert message["To"].addresses[0].addr_spec == "elodie@exemple.example"
    assert message["Auto-Submitted"] == "auto-replied", "so that two machines never answer each other for ever"
    assert message["Date"] and message.get_content_type() == "text/plain"
    assert message.get_content().replace("\r\n", "\n") == "Bonjour,\n\nÀ bientôt\n"
    assert all(len(line) <= 998 for line in message.as_bytes().split(b"\r\n"))


@pytest.mark.parametrize(
    "to", ["", "nobody", "a@b.example\r\nBcc: all@exemple.example", "a@b.example\nX: y", "@", "a@"]
)
def test_a_recipient_that_is_none_is_refused(to: str) -> None:
    with pytest.raises(Invalid):
        compose(SENDER, to, "Bonjour", "Texte")


@pytest.mark.parametrize(
    "to", ["a@b.example, c@d.example", "a@b.example; c@d.example", "groupe: a@b.example, c@d.example;"]
)
def test_one_answer_goes_to_one_person(to: str) -> None:
    with pytest.raises(Invalid):
        compose(SENDER, to, "Bonjour", "Texte")


@pytest.mark.parametrize("subject", ["Bonjour\nBcc: all@exemple.example", "Bonjour\rX: y"])
def test_a_subject_with_a_line_break_is_refused(subject: str) -> None:
    with pytest.raises(Invalid, match="line break"):
        compose(SENDER, "a@b.example", subject, "Texte")


def test_a_body_cannot_add_headers_or_end_the_message() -> None:
    message: Any = compose(SENDER, "a@b.example", "Bonjour", "Texte\r\n.\r\nBcc: all@exemple.example\r\n")
    assert message["Bcc"] is None
    assert "Bcc: all@exemple.example" in message.get_content()


def test_very_long_lines_and_odd_characters_survive() -> None:
    body = "é" * 5_000 + "\n🙂 \u2028 fin\n"
    message: Any = compose(SENDER, "a@b.example", "x" * 900, body)
    assert message.get_content().replace("\r\n", "\n") == body
    assert message["Subject"] == "x" * 900


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x85", "\x1c", "\x00", "\ud800", "\t"])
def test_what_ends_a_line_in_python_alone_is_a_space_in_a_subject_and_refused_in_an_address(odd: str) -> None:
    message = compose(SENDER, "a@b.example", f"Votre{odd}commande 👨‍👩‍👧", f"Texte{odd}")
    assert message["Subject"] == "Votre commande 👨‍👩‍👧"
    assert message.as_bytes()
    with pytest.raises(Invalid):
        compose(SENDER, f"a{odd}@b.example", "Bonjour", "Texte")


@pytest.mark.parametrize(
    ("to", "written"),
    [
        ("lea@exemplé.example", "lea@xn--exempl-gva.example"),
        ("Léa\u00a0M <lea@exemplé.example>", "lea@xn--exempl-gva.example"),
        ("léa@b.example", None),
        ("a@" + "é" * 300 + ".example", None),
    ],
)
def test_an_address_is_written_as_servers_take_it_or_refused(to: str, written: str | None) -> None:
    if written is None:
        with pytest.raises(Invalid, match="no address that mail servers take"):
            compose(SENDER, to, "Bonjour", "Texte")
        return
    message: Any = compose(SENDER, to, "Bonjour", "Texte")
    assert message["To"].addresses[0].addr_spec == written


@pytest.mark.parametrize(
    "hidden",
    [
        "=?utf-8?q?Commande=0ACc:_spy@exemple.example?=",
        "Re: =?utf-8?q?a=0D=0ACc:_spy@exemple.example=0D=0A=0D=0AAutre?= b",
        "é =?utf-8?b?YQpDYzogc3B5QGV4ZW1wbGUuZXhhbXBsZQ==?=",
        "=?utf-8?q?a=C2=85Cc:_spy@exemple.example?=",
    ],
)
def test_what_a_subject_hides_in_encoded_words_is_text_and_no_header(hidden: str) -> None:
    kept = email.message_from_bytes(compose(SENDER, "a@b.example", hidden, "Texte").as_bytes())
    assert [name for name in kept if name in ("Cc", "Bcc")] == [] and str(kept.get_payload()).strip() == "Texte"


@pytest.mark.parametrize(
    "name",
    [
        '"é\\" <spy@exemple.example>, "',
        "=?utf-8?q?a=2C_spy=40exemple.example=2C?=",
        "é =?utf-8?q?=22_=3Cspy=40exemple.example=3E=2C_=22?=",
        "é =?utf-8?b?YQpDYzogc3B5QGV4ZW1wbGUuZXhhbXBsZQ==?=",
        "(spy@exemple.example)",
        "Léa [spy@exemple.example]:",
    ],
)
def test_a_name_adds_nobody_to_those_who_get_a_letter(name: str) -> None:
    try:
        message = compose(SENDER, f"{name} <a@b.example>", "Bonjour", "Texte")
    except Invalid:
        return
    kept: Any = email.message_from_bytes(message.as_bytes(), policy=email.policy.SMTP)
    assert [one.addr_spec for one in kept["To"].addresses] == ["a@b.example"] and kept["Cc"] is None
