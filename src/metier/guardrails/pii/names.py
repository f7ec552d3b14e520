"""Names of people: by known first names and the words around them, and in mail headers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.lexicon import Lexicon, lexicon
from metier.guardrails.pii.normalise import View
from metier.guardrails.pii.tokens import CAPITAL_PARTICLES, RUN, Token, expression, is_company, span, tokens_of
from metier.guardrails.pii.triggers import find_announced

__all__ = ["find_names"]

_HEADER = re.compile(r"(?<![^\s\"':,;(])\"?([^\W\d_][^\n<>\":,;@()0-9]{1,58})\"? ?<[^<>\s@]{1,64}@")


def find_names(view: View) -> Iterator[Found]:
    """Find the names of people in a text."""
    words = lexicon()
    text = view.text
    for run in RUN.finditer(text):
        yield from _by_first_name(text, tokens_of(text, run.start(), run.end()), words)
    yield from find_announced(view, words)
    if "<" in text and "@" in text:
        for match in _HEADER.finditer(text):
            yield from _in_header(match, words)


def _by_first_name(text: str, tokens: list[Token], words: Lexicon) -> Iterator[Found]:
    """Find first names in a run of capitalised words, and the family names around them."""
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if skipped := expression(tokens, place, words):
            place += skipped
            continue
        if not token.capital or token.folded in words.not_names or not words.is_first_name(token.folded):
            place += 1
            continue
        after = _family_end(tokens, place + 1, words)
        before = _family_start(text, tokens, place, words)
        named = tokens[before:after]
        if (len(named) > 1 or _tells_alone(token, words)) and not is_company(text, named):
            yield span(named)
        place = after


def _tells_alone(token: Token, words: Lexicon) -> bool:
    """Tell whether a first name without a family name is certainly one, and no word or acronym."""
    return token.folded not in words.ambiguous and not (token.word.isupper() and len(token.word) < 5)


def _family_end(tokens: list[Token], place: int, words: Lexicon) -> int:
    """Find where a name ends that begins before `place`: at a stop word, or after four words."""
    all_capitals = len(tokens) > 4 and all(t.word.isupper() for t in tokens)
    end, limit = place, min(len(tokens), place + (1 if all_capitals else 6))
    while place < limit:
        token = tokens[place]
        if token.capital:
            if token.folded in CAPITAL_PARTICLES and place + 1 < len(tokens):
                following = tokens[place + 1]
                if not following.capital or following.folded in words.not_names:
                    break
            elif words.is_stop(token.folded) or ("'" in token.word and not token.word.partition("'")[2][:1].isupper()):
                break
            else:
                end = place + 1
        place += 1
    return end


def _family_start(text: str, tokens: list[Token], place: int, words: Lexicon) -> int:
    """Find where a name begins whose first name is at `place`: with family names in capitals before it."""
    start = place
    given_in_capitals = tokens[place].word.isupper()
    while start > 0 and place - start < 3:
        token = tokens[start - 1]
        if words.is_stop(token.folded) or token.initial or len(token.word) < 2:
            break
        in_capitals = token.word.isupper() and not given_in_capitals
        if not in_capitals and not (place == len(tokens) - 1 and _inside_sentence(text, token.start, token.word)):
            break
        start -= 1
    return start


def _inside_sentence(text: str, start: int, word: str) -> bool:
    """Tell whether a capital here is not just the beginning of a sentence or line."""
    before = text[:start].rstrip(" ") if start < 80 else text[start - 80 : start].rstrip(" ")
    return bool(before) and before[-1] not in '.!?\n:;,-*•"«(' and len(word) > 2


def _in_header(match: re.Match[str], words: Lexicon) -> Iterator[Found]:
    shown = match[1].rstrip()
    tokens = tokens_of(shown, 0, len(shown))
    if 0 < len(tokens) <= 5 and not any(_stops(t.folded, words) for t in tokens):
        yield Found(Kind.PERSON, match.start(1), match.start(1) + len(shown))


def _stops(folded: str, words: Lexicon) -> bool:
    return words.is_stop(folded) and folded not in CAPITAL_PARTICLES
