"""The pure functions `code:` steps may call: language of a text, the order it speaks of, verified citations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from metier.calls import JSON
from metier.workflow.steps.citations import check_draft
from metier.workflow.steps.code import Code

__all__ = ["FUNCTIONS", "brief", "compose", "language", "named_order", "questions"]

_WORD = re.compile(r"[^\W\d_]+")
_ORDER = re.compile(r"\b[A-Z]{2,4}-\d{4}-\d{4,6}\b")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_ASKING = re.compile(
    r"\W*(pouvez|pourriez|puis-je|est-ce|comment|combien|quand|quel|o[uù]|je (voudrais|souhaite|demande|veux)|merci de|"
    r"could|can|how|do|does|is|what|when|where|which|i would|i want|would|please)\b",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"(?<=[^\n]{50})\n(?=[^\s\-–—•*·\d])")
"""A line break that only ends a full line: the next line goes on with the sentence."""
_QUESTIONS = 4
_ANSWER_CUT = 280
"""Characters from which an answer that ends without punctuation is taken to have been cut by its longest length."""
_END = re.compile(r"[.!?…](?=\s)")
_VAGUE = 40
"""Characters below which a question is searched together with the subject: it rarely says what it is about."""
_STOP = re.compile(r"(?<=[.!?…])\s+(?=[A-ZÀ-ÖØ-Þ0-9«\"(])|\n+")
_FRAME: Mapping[str, tuple[str, str, str]] = {
    "fr": ("Bonjour,", "Merci pour votre message.", "Cordialement,"),
    "en": ("Hello,", "Thank you for your message.", "Kind regards,"),
}
_FRENCH = frozenset(
    "le la les un une des du de et est je vous nous mon ma mes ne pas pour que qui dans sur avec bonjour merci "
    "votre vos ce cette au aux en il elle sont ai suis c'est plus mais ou où être avoir fait sans".split()
)
_ENGLISH = frozenset(
    "the a an of and is i you we my not for that who in on with hello thanks your this to it are have has was "
    "be but or where can would do does from please will if".split()
)


def language(text: str) -> JSON:
    """Tell French, English or other by the frequent small words of each; an empty text has no language."""
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        return {"language": "fr", "empty": True}
    french = sum(word in _FRENCH for word in words) / len(words)
    english = sum(word in _ENGLISH for word in words) / len(words)
    accents = sum(word.isascii() is False for word in words) / len(words)
    if max(french, english) < 0.12 and accents == 0 and len(words) > 6:
        return {"language": "other", "empty": False}
    return {"language": "en" if english > french + accents / 2 else "fr", "empty": False}


def questions(text: str, subject: str = "", topic: str = "") -> JSON:
    """Cut a message into what it asks: the questions, and what to search for each of them."""
    asked: list[str] = []
    listing = False
    for part in (part.strip() for part in _SENTENCE.split(_WRAPPED.sub(" ", text))):
        item = part.lstrip("-–—•*·0123456789.) ").strip()
        if _ASKING.match(item) and item.endswith(":"):
            listing = True
        elif len(item) > 8 and ("?" in item or _ASKING.match(item) or (listing and item != part)):
            asked.append(item.rstrip(" ;,"))
        elif item:
            listing = False
    asked = asked[:_QUESTIONS]
    about = [topic, *([subject] if subject else [])]
    searched = [
        " : ".join([*(about if len(question) < _VAGUE else about[:1]), question]).strip(" :") for question in asked
    ]
    whole = f"{topic} {subject}".strip() or text[:500]
    if not asked:
        return {"questions": [subject or text[:200]], "queries": [whole]}
    return {"questions": [*asked], "queries": [*searched, whole]}


def brief(questions: list[JSON], hits: list[JSON]) -> JSON:
    """Put each question beside the sentences found for it, all numbered, so that a model points instead of copying."""
    known = [hit for hit in hits if isinstance(hit, dict)]
    sentences: list[JSON] = []
    parts: list[JSON] = []
    for number, question in enumerate([*questions, None]):
        own: list[JSON] = []
        for hit in known:
            found_for = hit.get("query")
            if found_for == number or (question is None and found_for not in range(len(questions))):
                for sentence in _sentences(str(hit.get("text", ""))):
                    sentences.append({"number": len(sentences) + 1, "source": hit.get("id"), "text": sentence})
                    own.append(sentences[-1])
        if question is not None or own:
            parts.append({"question": question, "sentences": own})
    return {"parts": parts, "sentences": sentences, "count": len(questions)}


def compose(answers: list[JSON], sentences: list[JSON], subject: str, language: str, signature: str) -> JSON:
    """Put the answers to each question into one polite letter; the words around them are fixed."""
    given = [one for one in answers if isinstance(one, dict)]
    numbered = {one.get("number"): one for one in sentences if isinstance(one, dict)}
    said = list(dict.fromkeys(_whole_sentences(str(one.get("answer", "")).strip()) for one in given))
    hello, thanks, bye = _FRAME["en" if language == "en" else "fr"]
    body = "\n\n".join([hello, thanks, *(one for one in said if one), f"{bye}\n{signature}"])
    citations: list[JSON] = []
    for one in given:
        pointed = one.get("sentences")
        for number in pointed if isinstance(pointed, list) else []:
            sentence = numbered.get(number, {"source": f"sentence {number}", "text": ""})
            citation: JSON = {"id": sentence.get("source"), "quote": sentence.get("text")}
            if citation not in citations:
                citations.append(citation)
    prefix = "" if subject.lower().startswith(("re:", "re :")) else "Re: "
    return {"subject": " ".join(f"{prefix}{subject}".split()), "body": body, "citations": citations}


def _whole_sentences(answer: str) -> str:
    """Drop a last sentence that was cut where the longest answer ends."""
    if len(answer) < _ANSWER_CUT or answer[-1] in '.!?…»")':
        return answer
    ends = [found.end() for found in _END.finditer(answer)]
    return answer[: ends[-1]].strip() if ends else answer


def _sentences(text: str) -> list[str]:
    """Cut an extract into sentences and table lines, each as it stands; bits without a claim are left out."""
    parts = (part.strip() for part in _STOP.split(_WRAPPED.sub(" ", text)))
    return [part for part in parts if len(part) > 15 and len(part.split()) > 2]


def named_order(text: str, orders: list[JSON]) -> JSON:
    """Find the order a message names, or the only one the customer has; its amount is 0 when none is found."""
    known = [order for order in orders if isinstance(order, dict)]
    named = set(_ORDER.findall(text))
    matches = [order for order in known if order.get("number") in named]
    if not matches and not named and len(known) == 1:
        matches = known
    if not matches:
        return {"found": False, "amount_eur": 0, "summary": ""}
    order = matches[0]
    amount = order.get("amount_eur")
    return {
        "found": True,
        "amount_eur": amount if isinstance(amount, int | float) else 0,
        "summary": _summary(order),
    }


def _summary(order: Mapping[str, JSON]) -> str:
    items = order.get("items")
    named = [
        f"{item.get('quantity', 1)} × {item.get('name')} ({item.get('unit_eur')} €)"
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict)
    ]
    return (
        f"{order.get('number')} du {order.get('date')} : {', '.join(named)} ; "
        f"livraison {order.get('delivery_eur', 0)} € ; total {order.get('amount_eur')} € ; {order.get('status')}"
    )


FUNCTIONS: Mapping[str, Code] = {
    "citations.check": cast("Code", check_draft),
    "letter.brief": cast("Code", brief),
    "letter.compose": cast("Code", compose),
    "orders.named": cast("Code", named_order),
    "text.language": cast("Code", language),
    "text.questions": cast("Code", questions),
}
"""Every function a `code:` step may name."""
