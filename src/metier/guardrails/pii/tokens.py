"""Words of a text that may be names, and the shapes that names have."""

from __future__ import annotations

import re
from typing import NamedTuple

from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.lexicon import Lexicon
from metier.guardrails.pii.normalise import fold

__all__ = [
    "ANY_CASE",
    "CAPITAL_PARTICLES",
    "RUN",
    "TITLED",
    "Token",
    "expression",
    "is_company",
    "is_ordinary",
    "name_prefix",
    "span",
    "token_at",
    "tokens_of",
]

_JOINED = r"(?:-|'(?!s(?![^\W_])))[^\W\d_]+"
_UP = r"[^\W\d_a-zß-öø-ÿ]"
_CAP = rf"(?:{_UP}\.(?:-?{_UP}\.)*|{_UP}[^\W\d_]*(?:{_JOINED})*)"
_PARTICLE = (
    r"(?:(?:de|du|des|da|das|do|dos|di|del|della|la|le|van|von|der|den|ten|ter|zu|el|al|ben|ibn|bin|bint|ould|y) "
    r"|d'|l')"
)
RUN = re.compile(rf"(?<![^\W_]){_CAP}(?: {{1,2}}{_PARTICLE}{{0,3}}{_CAP})*")
TITLED = re.compile(rf"{_PARTICLE}{{0,2}}{_CAP}(?: {{1,2}}{_PARTICLE}{{0,3}}{_CAP}){{0,3}}")
_WORD = re.compile(rf"{_UP}\.(?:-?{_UP}\.)*|[^\W\d_]+(?:{_JOINED})*")
ANY_CASE = re.compile(rf"[^\W\d_]+(?:{_JOINED})*(?: {{1,2}}(?:d'|l')?[^\W\d_]+(?:{_JOINED})*){{0,3}}")
_COMPANY_BEFORE = re.compile(
    r"(?<![^\W_])(?:soci[ée]t[ée]|garage|cabinet|boulangerie|boucherie|pharmacie|restaurant|maison|groupe"
    r"|laboratoires?|transports|ets"
    r"|[ée]tablissements?|entreprise|marque|banque|librairie|[ée]ditions|rue|avenue|boulevard|place|quai"
    r"|all[ée]e|impasse|chemin|square|bd|av\.?"
    r"|saint|sainte|st|ste|prix|loi|stade|gare|station|m[ée]tro|lyc[ée]e|coll[èe]ge|[ée]cole|h[ôo]pital"
    r"|clinique|fondation|institut|mus[ée]e"
    r"|th[ée]âtre|pont|universit[ée]|a[ée]roport|centre|parc|salle|r[ée]sidence|mod[èe]le|gamme|collection"
    r"|lampe|chaise|table|canap[ée]"
    r"|fauteuil|produit|article)(?: (?:de la|de|du|des|la|le|l'))?[ \-]\Z",
    re.IGNORECASE,
)
_COMPANY_AFTER = re.compile(
    r" ?(?:,? ?(?:SARL|SAS|SASU|SA|EURL|SNC|SCI|Ltd|LLC|Inc|GmbH|Corp|plc)\b|(?:&|et) (?:Fils|Cie|Associ[ée]s"
    r"|Sons|Co)\b)"
)
CAPITAL_PARTICLES = frozenset(
    [
        "le",
        "la",
        "de",
        "du",
        "des",
        "el",
        "al",
        "ben",
        "van",
        "von",
        "der",
        "da",
        "di",
        "dos",
        "del",
        "mc",
        "mac",
        "saint",
    ]
)


class Token(NamedTuple):
    """One word with its place, as written and folded."""

    start: int
    end: int
    word: str
    folded: str

    @property
    def capital(self) -> bool:
        """Tell whether this is written like a name, an elided particle aside."""
        return self.word[0].isupper() or (self.word[1:2] == "'" and self.word[2:3].isupper())

    @property
    def initial(self) -> bool:
        """Tell whether this is one or more letters with dots."""
        return self.word.endswith(".")


def token_at(text: str, start: int, end: int) -> Token:
    """Give the first word between two places of a text, where there is one."""
    match = _WORD.search(text, start, end)
    assert match is not None
    return Token(match.start(), match.end(), match[0], fold(match[0]))


def tokens_of(text: str, start: int, end: int) -> list[Token]:
    """Give the words between two places of a text."""
    return [Token(m.start(), m.end(), m[0], fold(m[0])) for m in _WORD.finditer(text, start, end)]


def span(tokens: list[Token]) -> Found:
    """Give the name that goes from the first word to the last."""
    return Found(Kind.PERSON, tokens[0].start, tokens[-1].end)


def expression(tokens: list[Token], place: int, words: Lexicon) -> int:
    """Count the words of the brand or famous name that begins at `place`; 0 when there is none."""
    for expression in words.expressions.get(tokens[place].folded, ()):
        if tuple(t.folded for t in tokens[place : place + len(expression)]) == expression:
            return len(expression)
    return 0


def is_company(text: str, named: list[Token]) -> bool:
    """Tell whether the words around a name make it a company, a street or a thing."""
    start, end = named[0].start, named[-1].end
    return bool(_COMPANY_BEFORE.search(text, max(0, start - 32), start) or _COMPANY_AFTER.match(text, end))


def is_ordinary(folded: str, words: Lexicon) -> bool:
    """Tell whether a word in small letters is hardly a name."""
    return len(folded) < 3 or folded in words.not_names or folded in words.common or "'" in folded


def name_prefix(tokens: list[Token], words: Lexicon, strict: bool = False) -> list[Token]:
    """Take the words at the beginning of a run that can be a name."""
    taken: list[Token] = []
    pending: list[Token] = []
    for place, token in enumerate(tokens):
        follows = place + 1 < len(tokens)
        if not token.capital or (token.folded in CAPITAL_PARTICLES and follows):
            pending.append(token)
            continue
        if token.folded in words.not_names or ((strict or taken) and token.folded in words.places):
            break
        if len(token.word) == 1 and not follows:
            break
        taken += [*pending, token]
        pending = []
    return taken if any(len(t.word.strip(".")) > 1 for t in taken) else []
