"""An answer as a letter: sentences offered to the model for each question, its words kept to what they say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from metier.calls import JSON
from metier.knowledge.analyser import Analyser, Language
from metier.knowledge.closest import sentences as cut
from metier.workflow.steps.asked import language_of

__all__ = ["brief", "compose"]

_ANSWER_CUT = 280
"""Characters from which an answer that ends without punctuation is taken to have been cut by its longest length."""
_END = re.compile(r"[.!?…](?=\s)")
_BETWEEN = re.compile(r"(?<=[.!?…])\s+(?=[A-ZÀ-ÖØ-Þ0-9«\"(])")
_NEAR = 0.75
"""Score of the nearest sentence below which no document is taken to answer a question; without meaning, none is."""
_BEHIND = 0.25
"""How far behind the nearest sentence another may be and still be offered."""
_BORNE_OUT = 0.6
"""Share of the words of an answer's sentence that the sentences it points to must have."""
_COPIED = 0.85
"""Share of the words of an answer from which it is a copy of a sentence."""
_OPENING = re.compile(r"^\W*(oui|non|yes|no)\s*[,.!:;–-]\s*", re.IGNORECASE)
_NEGATIVE = re.compile(r"\b(?:ne|n'|ni|aucune?|jamais|not|never|no|cannot|can't|neither)\b|\bn['’]", re.IGNORECASE)
_NONE = re.compile(r"^\W*(?:sans réponse|no answer)\b", re.IGNORECASE)
_OTHER: Mapping[Language, str] = {"fr": "en", "en": "fr"}
_FRAME: Mapping[str, tuple[str, str, str, str]] = {
    "fr": (
        "Bonjour,", "Merci pour votre message.", "Cordialement,",
        "Votre conseiller vous répondra sur ce point : « {} »",
    ),
    "en": (
        "Hello,", "Thank you for your message.", "Kind regards,",
        "The service team will come back to you on this point: “{}”",
    ),
}  # fmt: skip


def brief(questions: list[JSON], hits: list[JSON]) -> JSON:
    """Put each question beside the sentences found for it, all numbered; `open` are those no document answers."""
    known = [hit for hit in hits if isinstance(hit, dict)]
    measured = any("near" in hit for hit in known)
    sentences: list[JSON] = []
    parts: list[JSON] = []
    left: list[JSON] = []
    for number, question in enumerate([*questions, None]):
        offered = _near(known, number) if measured else _all(known, number, None if question is None else questions)
        if question is not None and not offered and (measured or not known):
            left.append(question)
        elif question is not None or offered:
            own: list[JSON] = []
            for hit, text in offered:
                path = str(hit.get("title") or "").rsplit(" › ", 1)[-1]
                told: JSON = {"number": len(sentences) + 1, "source": hit.get("id"), "about": path, "text": text}
                sentences.append(told)
                own.append(told)
            parts.append({"question": question, "sentences": own})
    count = sum(isinstance(part, dict) and part["question"] is not None for part in parts)
    return {"parts": parts, "sentences": sentences, "count": count, "open": left}


def _near(known: Sequence[dict[str, JSON]], number: int) -> list[tuple[dict[str, JSON], str]]:
    """The sentences measured near a question; none when even the nearest has too little to do with it."""
    found: list[tuple[float, float, dict[str, JSON], str]] = []
    for hit in known:
        near = hit.get("near")
        for one in near if isinstance(near, list) else []:
            if isinstance(one, dict) and one.get("question") == number:
                found.append((_number(one.get("score")), _number(one.get("shared")), hit, str(one.get("text"))))
    found.sort(key=lambda one: -one[0])
    found = [one for one in found if one[0] >= found[0][0] - _BEHIND]
    if not found or found[0][0] < _NEAR or not any(shared for _, shared, _, _ in found):
        return []
    return [(hit, text) for _, _, hit, text in found]


def _all(
    known: Sequence[dict[str, JSON]], number: int, questions: Sequence[JSON] | None
) -> list[tuple[dict[str, JSON], str]]:
    """Every sentence of the extracts found for a question, or of those found for none, when nothing was measured."""
    return [
        (hit, text)
        for hit in known
        if hit.get("query") == number or (questions is None and hit.get("query") not in range(number))
        for text in cut(str(hit.get("text", "")))
    ]


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def compose(
    answers: list[JSON],
    sentences: list[JSON],
    subject: str,
    language: str,
    signature: str,
    parts: list[JSON] | None = None,
    open: list[JSON] | None = None,
) -> JSON:
    """Put the answers to each question into one polite letter, which says which questions it leaves to a person."""
    spoken: Language = "en" if language == "en" else "fr"
    numbered = {one.get("number"): one for one in sentences if isinstance(one, dict)}
    asked = [part.get("question") for part in parts or [] if isinstance(part, dict) and part.get("question")]
    said: list[str] = []
    citations: list[JSON] = []
    answered: set[JSON] = set()
    for one in answers:
        if not isinstance(one, dict) or _NONE.match(str(one.get("answer", ""))) or one.get("sentences") == []:
            continue
        pointed = one.get("sentences")
        cited: list[dict[str, JSON]] = [
            numbered.get(number, {"source": f"sentence {number}", "text": ""})
            for number in (pointed if isinstance(pointed, list) else [])
        ]
        # A sentence under another heading speaks of another case.
        cited = [sentence for sentence in cited if sentence.get("source") == cited[0].get("source") or not asked]
        answer = _whole_sentences(str(one.get("answer", "")).strip())
        offered = _offered(parts or [], one.get("question"))
        meant = _meant(answer, cited, offered, spoken)
        if meant is None:
            continue
        cited = meant
        said.append(_faithful(answer, cited, spoken))
        answered.add(one.get("question"))
        for sentence in cited:
            citation: JSON = {"id": sentence.get("source"), "quote": sentence.get("text")}
            if citation not in citations:
                citations.append(citation)
    left = [*(open or []), *(one for number, one in enumerate(asked, 1) if number not in answered)]
    hello, thanks, bye, later = _FRAME[spoken]
    told = [later.format(str(one).strip(" .;,")) for one in left]
    body = "\n\n".join([hello, thanks, *(one for one in dict.fromkeys(said) if one), *told, f"{bye}\n{signature}"])
    prefix = "" if subject.lower().startswith(("re:", "re :")) else "Re: "
    return {"subject": " ".join(f"{prefix}{subject}".split()), "body": body, "citations": citations, "open": left}


def _offered(parts: Sequence[JSON], number: JSON) -> list[dict[str, JSON]]:
    part = parts[number - 1] if isinstance(number, int) and 1 <= number <= len(parts) else None
    own = part.get("sentences") if isinstance(part, dict) else None
    return [sentence for sentence in own if isinstance(sentence, dict)] if isinstance(own, list) else []


def _meant(
    answer: str, cited: list[dict[str, JSON]], offered: Sequence[dict[str, JSON]], language: Language
) -> list[dict[str, JSON]] | None:
    """Small models miscount: an answer copied from another sentence offered for the same question means that one.

    When the words and the number point to different sentences, only the nearest one offered is trusted.
    """
    analyser = Analyser(language)
    words = frozenset(analyser(answer).terms)

    def held(sentence: Mapping[str, JSON]) -> float:
        return _share(words, frozenset(analyser(str(sentence.get("text", ""))).terms))

    if any(held(sentence) >= _BORNE_OUT for sentence in cited):
        return cited
    best = max(offered, key=held, default=None)
    if best is not None and held(best) >= _COPIED:
        return [best]
    doubtful = bool(offered) and cited and cited[0] in offered[1:]
    same = not doubtful or language_of(str(cited[0].get("text"))) == _OTHER[language]
    return cited if same else None


def _faithful(answer: str, cited: Sequence[Mapping[str, JSON]], language: Language) -> str:
    """Keep the sentences of an answer whose words stand in what it points to, else the words pointed to themselves."""
    source = " ".join(str(sentence.get("text", "")) for sentence in cited)
    if not source.strip() or language_of(source) == _OTHER[language]:
        return answer
    opening = _OPENING.match(answer)
    denies = opening is not None and opening[1].lower() in ("non", "no")
    if opening and not _OPENING.match(source) and not (denies and _NEGATIVE.search(source)):
        rest = answer[opening.end() :]
        answer = rest[:1].upper() + rest[1:]
    analyser = Analyser(language)
    there = frozenset(analyser(source).terms)
    kept = [
        part
        for part in _BETWEEN.split(answer)
        if _share(frozenset(analyser(part).terms), there) >= _BORNE_OUT
        and bool(_NEGATIVE.search(part)) == bool(_NEGATIVE.search(source))
    ]
    return " ".join(kept) if kept else source


def _share(words: frozenset[str], there: frozenset[str]) -> float:
    return len(words & there) / len(words) if words else 0.0


def _whole_sentences(answer: str) -> str:
    """Drop a last sentence that was cut where the longest answer ends."""
    if len(answer) < _ANSWER_CUT or answer[-1] in '.!?…»")':
        return answer
    ends = [found.end() for found in _END.finditer(answer)]
    return answer[: ends[-1]].strip() if ends else answer
