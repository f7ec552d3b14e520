"""The pure functions of `code:` steps, one ordinary and several awkward cases each."""

from __future__ import annotations

from typing import Any

import pytest

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.steps.citations import check_draft
from metier.workflow.steps.functions import FUNCTIONS, brief, compose, language, named_order, questions

HITS: list[JSON] = [
    {"id": "retours-1", "document": "retours.md", "title": "Retours", "text": "Vous avez 14 jours pour renvoyer."},
    {"id": "frais-1", "document": "frais.md", "title": "Frais", "text": "Le retour coûte 5,90 €, déduits du total."},
]
ORDERS: list[JSON] = [
    {
        "number": "CMD-2026-10412", "date": "2026-11-03", "amount_eur": 249.0, "delivery_eur": 0.0, "status": "livrée",
        "items": [{"name": "Robot pâtissier", "quantity": 1, "unit_eur": 249.0}],
    },
    {"number": "CMD-2026-10500", "date": "2026-11-04", "amount_eur": 12.5, "items": [], "status": "expédiée"},
]  # fmt: skip


def given(value: JSON) -> Any:
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bonjour, je souhaite renvoyer mon robot, est-ce possible ?", "fr"),
        ("Hello, where is my parcel? I have been waiting for a week.", "en"),
        ("remboursez-moi", "fr"),
        ("ÇA SUFFIT !!! MON COLIS N'EST TOUJOURS PAS LÀ", "fr"),
        ("Guten Tag, wann kommt mein Paket an, bitte schnell antworten, danke sehr", "other"),
        ("Hola buenos dias quiero devolver mi pedido por favor gracias", "other"),
    ],
)
def test_the_language_of_a_message_is_told(text: str, expected: str) -> None:
    assert language(text) == {"language": expected, "empty": False}


@pytest.mark.parametrize("text", ["", "  \n\t", "!!! 12 34 … 🙂"])
def test_a_message_without_words_is_empty(text: str) -> None:
    assert language(text) == {"language": "fr", "empty": True}


def test_questions_are_cut_out_of_a_message() -> None:
    found = given(questions(
        "Bonjour,\nj'ai reçu mon robot hier. Puis-je le renvoyer ? Combien coûte le retour et qui le paie, vous ou "
        "moi ?\nCordialement,\nClaire",
        "Retour CMD-2026-10412", "retour et remboursement",
    ))  # fmt: skip
    assert found["questions"] == ["Puis-je le renvoyer ?", "Combien coûte le retour ?", "qui le paie, vous ou moi ?"]
    topic, subject = "retour et remboursement", "Retour CMD-2026-10412"
    assert found["queries"] == [
        f"{topic} : {subject} : j'ai reçu mon robot hier. : Puis-je le renvoyer ?",
        f"{topic} : {subject} : j'ai reçu mon robot hier. : Combien coûte le retour ?",
        f"{topic} : {subject} : Combien coûte le retour ? : qui le paie, vous ou moi ?",
        f"{topic} {subject}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Où est la notice, combien coûte-t-elle chez vous ?",
            ["Où est la notice ?", "combien coûte-t-elle chez vous ?"],
        ),
        ("Si vous le reprenez, comment ça se passe ?", ["Si vous le reprenez, comment ça se passe ?"]),
        ("How long does it take, and what does it cost?", ["How long does it take ?", "what does it cost?"]),
        ("Do you sell the box I saw and the cover?", ["Do you sell the box I saw and the cover?"]),
        ("Avez-vous le joint, quel prix ?", ["Avez-vous le joint, quel prix ?"]),
        ("Bonjour Madame,\nMerci beaucoup ?\nPouvez-vous m'aider ?", ["Pouvez-vous m'aider ?"]),
    ],
)
def test_a_sentence_that_asks_twice_is_two_questions(text: str, expected: list[str]) -> None:
    assert given(questions(text))["questions"] == expected


def test_a_list_after_a_request_is_a_list_of_questions() -> None:
    found = given(questions("Merci de me dire :\n- le délai de livraison ;\n- les moyens de paiement ;\nBien à vous"))
    assert found["questions"] == ["le délai de livraison", "les moyens de paiement"]


def test_a_message_that_asks_nothing_is_searched_whole() -> None:
    assert questions("Mon colis est cassé.", "Colis cassé", "livraison") == {
        "questions": ["Colis cassé"], "queries": ["livraison Colis cassé"]
    }  # fmt: skip
    assert questions("", "", "") == {"questions": [""], "queries": [""]}


def test_no_more_than_five_questions_are_taken() -> None:
    found = given(questions(" ".join(f"Comment faire la chose numéro {n} ?" for n in range(30))))
    assert (len(found["questions"]), len(found["queries"])) == (5, 6)


def test_a_question_stands_beside_the_sentences_found_for_it() -> None:
    hits: list[JSON] = [
        {"id": "a-1", "text": "Vous avez 14 jours. Le délai court dès la réception du colis.", "query": 0},
        {"id": "b-1", "text": "Le retour coûte 5,90 € au client.", "query": 2},
        {"id": "c-1", "text": "Les frais de retour sont déduits.", "query": 1},
    ]
    found = given(brief(["Délai ?", "Frais ?"], hits))
    assert [(part["question"], [s["number"] for s in part["sentences"]]) for part in found["parts"]] == [
        ("Délai ?", [1, 2]), ("Frais ?", [3]), (None, [4])
    ]  # fmt: skip
    assert [(s["number"], s["source"]) for s in found["sentences"]] == [(1, "a-1"), (2, "a-1"), (3, "c-1"), (4, "b-1")]
    assert found["count"] == 2
    assert given(brief(["Délai ?"], [])) == {"parts": [], "sentences": [], "count": 0, "open": ["Délai ?"]}


def near(question: int, text: str, score: float, shared: float = 0.5) -> JSON:
    return {"question": question, "text": text, "score": score, "shared": shared}


def test_only_what_is_near_a_question_is_offered_and_the_rest_is_left_open() -> None:
    hits: list[JSON] = [
        {
            "id": "a-1", "title": "Retours › 1. Délai", "text": "-", "query": 0,
            "near": [near(0, "Vous avez 14 jours.", 1.1), near(0, "Le délai est long.", 0.8), near(1, "Rien.", 0.7)],
        },
        {
            "id": "b-1", "title": "Frais", "text": "-", "query": 2,
            "near": [near(0, "C'est en mai.", 1.2), near(2, "Rien.", 2, 0)],
        },
    ]  # fmt: skip
    found = given(brief(["Délai ?", "Couleur ?", "Poids ?"], hits))
    assert found["open"] == ["Couleur ?", "Poids ?"], "too far, and without a word in common"
    assert found["count"] == 1
    assert found["parts"] == [{"question": "Délai ?", "sentences": found["sentences"]}]
    assert [(s["number"], s["source"], s["about"], s["text"]) for s in found["sentences"]] == [
        (1, "b-1", "Frais", "C'est en mai."), (2, "a-1", "1. Délai", "Vous avez 14 jours.")
    ], "what is far behind the nearest is not offered"  # fmt: skip


def answered(answer: str, sentence: str, spoken: str = "fr", **changes: JSON) -> Any:
    sentences: list[JSON] = [{"number": 1, "source": "a-1", "text": sentence}]
    answers: list[JSON] = [{"question": 1, "sentences": [1], "answer": answer, **changes}]
    letter = given(compose(answers, sentences, "S", spoken, "S", [{"question": "Quand ?", "sentences": []}], []))
    return letter["body"].split("\n\n")[2]


@pytest.mark.parametrize(
    ("answer", "sentence", "said"),
    [
        ("Oui, le magasin ouvre le mardi.", "Le magasin ouvre le mardi.", "Le magasin ouvre le mardi."),
        ("Non, le lundi n'est pas ouvert.", "Le magasin n'est pas ouvert le lundi.", "Non, le lundi n'est pas ouvert."),
        ("Le magasin ouvre le lundi.", "Le magasin n'ouvre pas le lundi.", "Le magasin n'ouvre pas le lundi."),
        ("Vous le recevrez demain matin.", "Le colis part sous 3 jours.", "Le colis part sous 3 jours."),
        (
            "Le colis part sous 3 jours. Il est bleu et beau.",
            "Le colis part sous 3 jours.",
            "Le colis part sous 3 jours.",
        ),
        ("Le colis part lundi.", "The parcel is sent with the carrier of your choice.", "Le colis part lundi."),
    ],
)
def test_an_answer_says_what_its_sentence_says(answer: str, sentence: str, said: str) -> None:
    assert answered(answer, sentence) == said


@pytest.mark.parametrize(("answer", "pointed"), [("SANS RÉPONSE", [1]), ("Le colis part.", [])])
def test_a_question_without_answer_is_named_in_the_letter(answer: str, pointed: list[JSON]) -> None:
    assert answered(answer, "Le colis part.", sentences=pointed).endswith("sur ce point : « Quand ? »")
    letter = given(compose([], [], "S", "en", "S", [], ["Where is it?"]))
    assert letter["open"] == ["Where is it?"] and "“Where is it?”" in letter["body"] and letter["citations"] == []


def test_an_answer_copied_from_another_sentence_of_its_question_means_that_one() -> None:
    first: JSON = {"number": 1, "source": "a-1", "text": "Elle coupe le bois massif."}
    other: JSON = {"number": 2, "source": "a-2", "text": "La scie ne convient ni au métal, ni à la pierre."}
    answers: list[JSON] = [
        {"question": 1, "sentences": [1], "answer": "La scie ne convient ni au métal, ni à la pierre."}
    ]
    own: list[JSON] = [{"question": "Et l'acier ?", "sentences": [first, other]}]
    letter = given(compose(answers, [first, other], "S", "fr", "S", own))
    assert [one["id"] for one in letter["citations"]] == ["a-2"] and "métal" in letter["body"]
    answers = [{"question": 1, "sentences": [2], "answer": "Vous recevrez le colis demain matin."}]
    letter = given(compose(answers, [first, other], "S", "fr", "S", own))
    assert letter["open"] == ["Et l'acier ?"], "words and number disagree, and it is not the nearest sentence"
    answers = [{"question": 1, "sentences": [1], "answer": "La scie ne convient ni au métal, ni à la pierre."}]
    apart: list[JSON] = [{"question": "Et l'acier ?", "sentences": [first]}]
    letter = given(compose(answers, [first, other], "S", "fr", "S", apart))
    assert [one["id"] for one in letter["citations"]] == ["a-1"] and "métal" not in letter["body"]


def test_two_sentences_under_different_headings_are_not_mixed() -> None:
    sentences: list[JSON] = [
        {"number": 1, "source": "a-1", "text": "La carte dure 24 mois."},
        {"number": 2, "source": "a-2", "text": "Un crédit vaut 12 mois."},
    ]
    answers: list[JSON] = [
        {"question": 1, "sentences": [1, 2], "answer": "La carte dure 24 mois. Son crédit vaut 12 mois."}
    ]
    letter = given(compose(answers, sentences, "S", "fr", "S", [{"question": "Durée ?", "sentences": []}]))
    assert "24 mois" in letter["body"] and "12 mois" not in letter["body"]
    assert [one["id"] for one in letter["citations"]] == ["a-1"]


@pytest.mark.parametrize(
    ("spoken", "signature", "subject", "opening"),
    [("fr", "Le service client", "Retour", "Bonjour,"), ("en", "Customer service", "Return", "Hello,")],
)
def test_answers_become_a_letter_with_citations(spoken: str, signature: str, subject: str, opening: str) -> None:
    sentences: list[JSON] = [{"number": 1, "source": "a-1", "text": "Vous avez 14 jours."}]
    answers: list[JSON] = [
        {"question": 1, "sentences": [1, 7], "answer": " Vous avez 14 jours. "},
        {"question": 2, "sentences": [1], "answer": "Vous avez 14 jours."},
    ]
    letter = given(compose(answers, sentences, subject, spoken, signature))
    assert letter["subject"] == f"Re: {subject}"
    assert letter["body"].startswith(opening) and letter["body"].endswith(signature)
    assert letter["body"].count("14 jours") == 1, "the same answer is said once"
    assert letter["citations"] == [
        {"id": "a-1", "quote": "Vous avez 14 jours."},
        {"id": "sentence 7", "quote": ""},
    ], "a sentence that does not exist stays visible to the check"


def test_a_letter_keeps_to_whole_sentences_and_one_line_subjects() -> None:
    cut = "Vous avez quatorze jours. " * 11 + "Et puis vous pouv"
    assert len(cut) > 280
    letter = given(compose([{"sentences": [1], "answer": cut}], [], "Re: deux\nlignes", "fr", "S"))
    assert "vous pouv" not in letter["body"] and "quatorze jours." in letter["body"]
    assert letter["subject"] == "Re: deux lignes"


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("Ma commande CMD-2026-10412 est abîmée", 249.0),
        ("CMD-2026-10500 et CMD-2026-99999", 12.5),
        ("Ma commande CMD-2020-00001", 0),
        ("Ma commande est abîmée", 0),
    ],
)
def test_the_order_a_message_names_is_found(text: str, amount: float) -> None:
    found = given(named_order(text, ORDERS))
    assert (found["amount_eur"], found["found"]) == (amount, amount > 0)


def test_the_only_order_is_meant_when_none_is_named_and_odd_orders_do_no_harm() -> None:
    found = given(named_order("abîmée", [ORDERS[0]]))
    assert found["summary"].startswith("CMD-2026-10412 du 2026-11-03 : 1 × Robot pâtissier (249.0 €)")
    assert given(named_order("CMD-2020-00001", [ORDERS[0]]))["found"] is False, "another order is named"
    odd: list[JSON] = ["x", None, {"number": "AB-2026-12345", "amount_eur": "much", "items": "many"}]
    assert given(named_order("AB-2026-12345", odd))["amount_eur"] == 0


def letter(body: str, *citations: tuple[str, str]) -> dict[str, JSON]:
    return {"body": body, "citations": [{"id": id, "quote": quote} for id, quote in citations]}


def test_a_draft_that_says_what_it_cites_passes() -> None:
    draft = letter("Vous avez 14 jours pour renvoyer.", ("retours-1", "Vous avez 14 jours"))
    assert check_draft(draft, HITS, [], "fr") == {
        "ok": True, "cited": 1, "verified": 1, "critique": "", "findings": []
    }  # fmt: skip


@pytest.mark.parametrize(
    ("draft", "verified", "kind"),
    [
        (letter("Vous avez 14 jours.", ("nulle-9", "Vous avez 14 jours")), 0, "citation unknown"),
        (letter("Vous avez 14 jours.", ("frais-1", "Vous avez 14 jours")), 0, "quote not found"),
        (letter("Vous avez 14 jours.", ("retours-1", "Vous avez 30 jours")), 0, "quote not found"),
        (letter("Vous avez 30 jours.", ("retours-1", "Vous avez 14 jours")), 1, "figure unsupported"),
        (letter("Vous avez 14 jours pour renvoyer votre article."), 0, "citation missing"),
    ],
)
def test_what_a_draft_cannot_show_is_found(draft: dict[str, JSON], verified: int, kind: str) -> None:
    found = given(check_draft(draft, HITS, [], "fr"))
    assert (found["ok"], found["verified"]) == (False, verified)
    assert kind in [finding["kind"] for finding in found["findings"]]
    assert found["critique"]


def test_a_figure_the_customer_gave_may_be_repeated() -> None:
    draft = letter("Votre commande de 249 € : vous avez 14 jours.", ("retours-1", "Vous avez 14 jours"))
    assert given(check_draft(draft, HITS, [], "fr"))["ok"] is False
    assert given(check_draft(draft, HITS, ["Ma commande de 249 €"], "fr"))["ok"] is True


def test_a_draft_that_cites_nothing_is_not_verified_even_without_a_claim() -> None:
    assert given(check_draft(letter("Bonjour,\nCordialement"), HITS, [], "fr"))["ok"] is False


def test_a_draft_without_a_text_is_refused() -> None:
    with pytest.raises(Invalid, match="body"):
        check_draft({"citations": []}, HITS, [], "fr")
    with pytest.raises(Invalid):
        check_draft({"body": "x", "citations": [3]}, HITS, [], "fr")


def test_the_table_of_functions_holds_exactly_what_is_public() -> None:
    assert sorted(FUNCTIONS) == [
        "citations.check", "criteria.check", "letter.brief", "letter.compose", "orders.named", "text.language",
        "text.questions",
    ]  # fmt: skip
