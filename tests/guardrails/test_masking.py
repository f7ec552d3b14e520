"""Masking of whole calls: who is who, what is left alone, what the model is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from metier.calls import Call, Chunk, KeyId, Message, OutputSchema, Principal, ProjectId, SystemId, Tool, ToolCall
from metier.guardrails import PersonalData, Verdict
from metier.guardrails.pii import Table, hide, mask
from metier.vault import Vault

PRINCIPAL = Principal(KeyId("key"), ProjectId("p"), SystemId("s"))


def call(*messages: Message) -> Call:
    return Call(PRINCIPAL, "model", messages=messages)


@pytest.fixture
def guardrail(vault: Vault) -> PersonalData:
    return PersonalData(None, vault)


def test_spellings_of_one_person_share_a_number() -> None:
    table = Table()
    text = "Hélène Lefèvre, Mme Lefèvre, LEFÈVRE Hélène, H. Lefèvre. M. Karim Haddad. Lefèvre encore."
    masked, counts = mask(text, table)
    assert masked == (
        "[[PERSONNE_1]], Mme [[PERSONNE_1b]], [[PERSONNE_1c]], [[PERSONNE_1d]]. "
        "M. [[PERSONNE_2]]. [[PERSONNE_1b]] encore."
    )
    assert counts == {"PERSONNE": 2}


def test_two_people_of_one_family_stay_two() -> None:
    masked, counts = mask("Hélène Lefèvre et Marc Lefèvre. Mme Lefèvre attend.", Table())
    assert masked == "[[PERSONNE_1]] et [[PERSONNE_2]]. Mme [[PERSONNE_3]] attend."
    assert counts == {"PERSONNE": 3}


def test_a_number_keeps_its_code_however_it_is_grouped() -> None:
    masked, counts = mask("06 12 34 56 78, soit +33 6 12 34 56 78 ou 0612345678", Table())
    assert masked == "[[TELEPHONE_1]], soit [[TELEPHONE_1b]] ou [[TELEPHONE_1c]]"
    assert counts == {"TELEPHONE": 1}


def test_a_known_value_is_masked_where_no_detector_would_see_it() -> None:
    table = Table()
    mask("Je suis Hélène Quéméneur, passeport 12AB34567, mot de passe : soleil42", table)
    masked, _ = mask("quéméneur (12AB34567) soleil42, Quéméneur.", table)
    assert masked == "[[PERSONNE_1b]] ([[PASSEPORT_1]]) [[SECRET_1]], [[PERSONNE_1c]]."


def test_a_name_that_is_a_word_is_masked_only_as_a_name() -> None:
    table = Table()
    mask("Je m'appelle Rose Petit.", table)
    assert mask("Une rose, un petit retard. Petit attend.", table)[0] == (
        "Une rose, un petit retard. [[PERSONNE_1b]] attend."
    )


def test_text_that_looks_like_a_code_is_escaped_as_a_value() -> None:
    table = Table()
    masked, counts = mask("[[PERSONNE_1]] est Hélène Lefèvre", table)
    assert masked == "[[LITTERAL_1]] est [[PERSONNE_1]]"
    assert counts == {"PERSONNE": 1}


async def test_every_text_of_a_call_is_masked_and_nothing_else(guardrail: PersonalData) -> None:
    arguments = json.dumps({"helene_lefevre": "Hélène Lefèvre", "n": [1, "06 12 34 56 78"], "siren": 732829320})
    asked = replace(
        call(
            Message("system", "Tu aides Hélène Lefèvre. Un code ressemble à [[PERSONNE_1]]."),
            Message("user", "Mon mail : h.lefevre@courriel.example", name="Helene_Lefevre"),
            Message("assistant", "", tool_calls=(ToolCall("call_1", "find_customer", arguments),)),
            Message(
                "tool", '{"lastName": "Lefèvre", "order": 4567891234}', tool_call_id="call_1", name="find_customer"
            ),
        ),
        tools=(Tool("find_customer", "Cherche Hélène Lefèvre", {"type": "object"}),),
    )
    checked = await guardrail.check_input(asked)
    assert checked.verdict is Verdict.MASK
    system, user, assistant, tool = checked.call.messages
    assert system.content.startswith(
        "Tu aides [[PERSONNE_1]]. Un code ressemble à [[PERSONNE_1]].\n\nLes codes [[TYPE_n]]"
    )
    assert user.content == "Mon mail : [[EMAIL_1]]"
    assert user.name is not None
    assert "efevre" not in user.name
    assert user.name.startswith("PERSONNE_1")
    assert json.loads(assistant.tool_calls[0].arguments) == {
        "helene_lefevre": "[[PERSONNE_1]]", "n": [1, "[[TELEPHONE_1]]"], "siren": "[[SIREN_1]]"
    }  # fmt: skip
    assert assistant.tool_calls[0].name == "find_customer"
    assert tool.name == "find_customer"
    assert json.loads(tool.content) == {"lastName": "[[PERSONNE_1c]]", "order": 4567891234}
    assert checked.call.tools == asked.tools
    assert checked.counts == {"EMAIL": 1, "PERSONNE": 1, "SIREN": 1, "TELEPHONE": 1}


async def test_a_call_without_personal_data_passes_untouched(guardrail: PersonalData) -> None:
    asked = call(Message("user", "Quel est le délai de livraison de la commande 4567891234 ?"))
    checked = await guardrail.check_input(asked)
    assert checked.call is asked
    assert checked.verdict is Verdict.PASS
    assert checked.output is None


async def test_the_instruction_speaks_the_language_of_the_user(guardrail: PersonalData) -> None:
    english = await guardrail.check_input(call(Message("user", "Hello, I am Karim Haddad and this is my order")))
    french = await guardrail.check_input(call(Message("user", "Bonjour, je suis Karim Haddad")))
    assert english.call.messages[0].role == french.call.messages[0].role == "system"
    assert english.call.messages[0].content.startswith("Codes like")
    assert french.call.messages[0].content.startswith("Les codes")


async def test_an_answer_may_only_bring_back_what_this_call_contains(guardrail: PersonalData) -> None:
    checked = await guardrail.check_input(call(Message("user", "Je suis Karim Haddad")))
    assert checked.output is not None
    shown = checked.output.feed(Chunk(text="[[PERSONNE_1]] [[PERSONNE_2]] [[EMAIL_1]] "))
    assert shown == Chunk(text="Karim Haddad [[PERSONNE_2]] [[EMAIL_1]] ")


async def test_an_answer_under_a_schema_is_escaped(guardrail: PersonalData) -> None:
    asked = replace(call(Message("user", 'mot de passe : a"b1')), output=OutputSchema("o", {}))
    text = 'Client : Karim Haddad, secret: mot de passe = "x\\1y"'
    checked = await guardrail.check_input(replace(asked, messages=(Message("user", text),)))
    assert checked.output is not None
    shown = checked.output.feed(Chunk(text='{"s": "[[SECRET_1]]"}'))
    assert shown is not None
    assert json.loads(shown.text) == {"s": "x\\1y"}


async def test_a_transcript_that_repeats_its_hint_shows_the_values_again(guardrail: PersonalData) -> None:
    asked = replace(call(), operation="transcribe", query="Karim Haddad appelle Hélène Lefèvre")
    checked = await guardrail.check_input(asked)
    assert checked.call.query == "[[PERSONNE_1]] appelle [[PERSONNE_2]]"
    assert checked.output is not None
    said = checked.output.feed(Chunk("Bonjour [[PERSONNE_2]], ici [[PERSONNE_1]].", finish="stop"))
    assert said is not None and said.text == "Bonjour Hélène Lefèvre, ici Karim Haddad."


async def test_texts_to_embed_do_not_depend_on_their_neighbours(guardrail: PersonalData) -> None:
    asked = replace(call(), operation="embed", inputs=("Karim Haddad attend", "rien", "Hélène Lefèvre attend"))
    checked = await guardrail.check_input(asked)
    assert checked.call.inputs == ("[[PERSONNE_1]] attend", "rien", "[[PERSONNE_1]] attend")
    assert checked.call.messages == ()
    assert checked.output is None
    assert checked.counts == {"PERSONNE": 2}


async def test_a_very_long_text_is_masked_all_the_same(guardrail: PersonalData) -> None:
    text = "Le colis est en route. " * 1_500 + "Je suis Karim Haddad."
    checked = await guardrail.check_input(call(Message("user", text)))
    assert checked.call.messages[1].content.endswith("Je suis [[PERSONNE_1]].")


def test_names_of_a_map_are_masked_too_where_they_are_no_names_of_fields() -> None:
    shown = hide({"jean@exemple.fr": {"open": 1}, "customer_name": "ask jean@exemple.fr"}, Table())
    assert shown == {"[[EMAIL_1]]": {"open": 1}, "customer_name": "ask [[EMAIL_1]]"}
