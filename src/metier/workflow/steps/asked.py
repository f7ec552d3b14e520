"""What a message asks: its language, its questions one by one, and the words around each that say what it is about."""

from __future__ import annotations

import re

from metier.calls import JSON

__all__ = ["language", "language_of", "questions"]

_WORD = re.compile(r"[^\W\d_]+")
_FRENCH = frozenset(
    "le la les un une des du de et est je vous nous mon ma mes ne pas pour que qui dans sur avec bonjour merci "
    "votre vos ce cette au aux en il elle sont ai suis c'est plus mais ou où être avoir fait sans".split()
)
_ENGLISH = frozenset(
    "the a an of and is i you we my not for that who in on with hello thanks your this to it are have has was "
    "be but or where can would do does from please will if".split()
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_ASKING = re.compile(
    r"\W*(?:\w+,? )?(pouvez|pourriez|peut-on|puis-je|est-ce|comment|combien|quand|quel|o[uù]\b|merci de|j'aimerais|"
    r"je (voudrais|souhaite|demande|veux|aimerais)|could|can|how|do|does|is|what|when|where|which|who|"
    r"i would|i'd|i want|i also want|i need|would|please)\b",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"(?<=[^\n]{50})\n(?=[^\s\-–—•*·\d])")
"""A line break that only ends a full line: the next line goes on with the sentence."""
_CLEAR = (
    r"(?:est-ce que|combien|comment|quel(?:le)?s?|peut-on|puis-je|pouvez-vous|pourriez-vous|how|what|can|could|do i)"
)
_ALSO = re.compile(
    r",\s+(?:et |and |puis |then )?(?=(?:(?:à|a|de|sous|en|pour|dans|by|from|at|for) )?(?:partir de )?"
    + _CLEAR
    + r"\b)|,?\s+(?:et|and)\s+(?=(?:(?:à|a|de|sous|en|pour|dans|by|from|at|for) )?(?:partir de )?(?:"
    + _CLEAR
    + r"|qui|quand|où|que se|qu'est-ce|do|does|is|are|when|where|which|who|will)\b)",
    re.IGNORECASE,
)
"""Where a second question begins in the sentence of a first."""
_HELLO = re.compile(r"^(?:(?:bonjour|bonsoir|madame|monsieur|messieurs|hello|hi|dear \w+)(?:[ ,!]+|$))+", re.IGNORECASE)
_THANKS = re.compile(
    r"^\W*(?:merci\b(?! de)|cordialement|bien (?:à vous|cordialement)|salutations|avec mes|thank|many thanks|best)",
    re.IGNORECASE,
)
_ASKS = re.compile(
    rf"\b(?:{_CLEAR}|quand|où|qui|when|where|which|who|do|does|is|est-ce)\b|-(?:t-)?(?:il|elle|ils|elles|on|je|vous)\b",
    re.IGNORECASE,
)
"""What a sentence holds that asks something."""
_SAYS_LITTLE = 15
_MOST = 5
_CONTEXT = 200
"""Characters of the sentence before a question that are searched together with it."""
_VAGUE = 40
"""Characters below which a question is searched together with the subject: it rarely says what it is about."""


def language(text: str) -> JSON:
    """Tell French, English or other by the frequent small words of each; an empty text has no language."""
    if not _WORD.search(text):
        return {"language": "fr", "empty": True}
    return {"language": language_of(text), "empty": False}


def language_of(text: str) -> str:
    """Name the language of a text that has words: fr, en or other."""
    words = [word.lower() for word in _WORD.findall(text)]
    french = sum(word in _FRENCH for word in words) / len(words)
    english = sum(word in _ENGLISH for word in words) / len(words)
    accents = sum(word.isascii() is False for word in words) / len(words)
    if max(french, english) < 0.12 and accents == 0 and len(words) > 6:
        return "other"
    return "en" if english > french + accents / 2 else "fr"


def questions(text: str, subject: str = "", topic: str = "") -> JSON:
    """Cut a message into what it asks: the questions, and what to search for each of them."""
    asked: list[tuple[str, str]] = []
    listing, said = False, ""
    for part in (part.strip() for part in _SENTENCE.split(_WRAPPED.sub(" ", text))):
        item = _HELLO.sub("", part.lstrip("-–—•*·0123456789.) ")).strip()
        if not item or _THANKS.match(item):
            listing = False
        elif _ASKING.match(item) and item.endswith(":"):
            listing = True
        elif len(item) > 8 and ("?" in item or _ASKING.match(item) or (listing and item != part)):
            asked.extend(_each(item, said))
            said = said if len(said) > _SAYS_LITTLE else item
        else:
            listing, said = False, item
    asked = asked[:_MOST]
    whole = f"{topic} {subject}".strip() or text[:500]
    if not asked:
        return {"questions": [subject or text[:200]], "queries": [whole]}
    return {
        "questions": [question for question, _ in asked],
        "queries": [*(_query(question, before, subject, topic) for question, before in asked), whole],
    }


def _query(question: str, before: str, subject: str, topic: str) -> str:
    about = [topic, subject, before[-_CONTEXT:]] if len(question) < _VAGUE else [topic, before[-_CONTEXT:]]
    return " : ".join(one for one in [*about, question] if one)


def _each(sentence: str, before: str) -> list[tuple[str, str]]:
    """The questions of one sentence with the words before each; a short part stays with the first."""
    found: list[str] = []
    whole, at = sentence.rstrip(" ;,"), 0
    for cut in _ALSO.finditer(whole):
        left, right = whole[at : cut.start()], whole[cut.end() :]
        joined = cut.group().strip(" ,")
        if len(right.split()) >= (3 if joined else 4) and _ASKS.search(left):
            found.append(f"{left} ?")
            at = cut.end()
    found.append(whole[at:])
    return [(one, before if number == 0 else found[number - 1]) for number, one in enumerate(found)]
