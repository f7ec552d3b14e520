"""Names of people: by titles and other triggers, by known first names, in signatures and in mail headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.lexicon import Lexicon, lexicon
from metier.guardrails.pii.normalise import View, fold

__all__ = ["find_names"]

_UP = r"[^\W\d_a-zß-öø-ÿ]"
_CAP = rf"(?:{_UP}\.(?:-?{_UP}\.)*|{_UP}[^\W\d_]*(?:['\-][^\W\d_]+)*)"
_PARTICLE = (
    r"(?:(?:de|du|des|da|das|do|dos|di|del|della|la|le|van|von|der|den|ten|ter|zu|el|al|ben|ibn|bin|bint|ould|y) "
    r"|d'|l')"
)
_RUN = re.compile(rf"(?<![^\W_]){_CAP}(?: {{1,2}}{_PARTICLE}{{0,3}}{_CAP})*")
_AFTER_TITLE = re.compile(rf"{_PARTICLE}{{0,2}}{_CAP}(?: {{1,2}}{_PARTICLE}{{0,3}}{_CAP}){{0,3}}")
_WORD = re.compile(rf"{_UP}\.(?:-?{_UP}\.)*|[^\W\d_]+(?:['\-][^\W\d_]+)*")
_ANY_CASE = re.compile(r"[^\W\d_]+(?:['\-][^\W\d_]+)*(?: {1,2}(?:d'|l')?[^\W\d_]+(?:['\-][^\W\d_]+)*){0,3}")

_TITLE = re.compile(
    r"(?<![^\W_])(?:(?i:m(?:rs?|me|mes|lle|elle|iss|s)\.?|madame|monsieur|mademoiselle|ma[îi]tre|docteur"
    r"|professeur|prof\.|famille"
    r"|[ée]poux|[ée]pouse|veuve|consorts|capitaine|colonel|p[èe]re|s[œo]e?ur|fr[èe]re|conjoint|conjointe"
    r"|coll[èe]gue|fille|fils"
    r"|mari|femme|m[èe]re|voisin|voisine|ami|amie)|M\.|MM\.|M(?= [^\W\d_a-zß-öø-ÿ][a-zß-öø-ÿ])|Me|Dr\.?|Pr\.?"
    r"|DR|Sir|Lord|Lady) {1,2}"
)
_KIN = frozenset(
    [
        "pere",
        "soeur",
        "frere",
        "conjoint",
        "conjointe",
        "collegue",
        "fille",
        "fils",
        "mari",
        "femme",
        "mere",
        "voisin",
        "voisine",
        "ami",
        "amie",
        "epouse",
        "epoux",
        "capitaine",
    ]
)
_STATED = re.compile(
    r"(?<![^\W_])(?:je m'appelle|je me (?:nomme|pr[ée]nomme)|mon (?:nom|pr[ée]nom) (?:complet )?(?:est|c'est)"
    r"|my (?:full |first |last )?name is"
    r"|i am called|(?:(?:first|last|full|family|given|customer|user|contact|sur)[ _]?name|name"
    r"|nom(?:s)?(?: et pr[ée]noms?| de famille"
    r"| complet| d'usage| de naissance| de jeune fille| du (?:client|titulaire|patient|salari[ée]|contact))?"
    r"|pr[ée]noms?"
    r"|fullname|firstname|lastname) ?[:=]) ?[\"'«]? ?",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?<![^\W_])(?:(?:client(?:e)?|customer|contact|destinataire|exp[ée]diteur|titulaire|b[ée]n[ée]ficiaire"
    r"|patiente?|salari[ée]e?|employ[ée]e?"
    r"|interlocut(?:eur|rice)|r[ée]dact(?:eur|rice)|auteur|author|signataire|locataire|propri[ée]taire"
    r"|assur[ée]e?|from|to|cc|de|à"
    r"|user|owner|recipient|sender|passager|voyageur|candidate?) ?: ?|de la part d(?:e |')|au nom d(?:e |')"
    r"|pour le compte d(?:e |')"
    r"|sign[ée] ?:? ?|à l'attention d(?:e |')|attn:? |c/o )",
    re.IGNORECASE,
)
_SELF = re.compile(r"(?<![^\W_])(?:je suis|ici|c'est|i am|i'm|this is|moi,|appelez-moi|call me) ", re.IGNORECASE)
_GREETING = re.compile(
    r"(?<![^\W_])(?:bonjour|bonsoir|ch[eè]re?s?|hello|hi|dear|salut|hey|coucou|merci)[ ,]{1,2}", re.IGNORECASE
)
_CLOSING = re.compile(
    r"(?<![^\W_])(?:(?:bien )?cordialement|cordialement (?:vôtre|à vous)|bien à (?:vous|toi)|(?:bien )?cd?l?t"
    r"|(?:sinc[èe]res |meilleures )?salutations"
    r"|salutations (?:distingu[ée]es|cordiales|les meilleures)|sentiments distingu[ée]s"
    r"|consid[ée]ration distingu[ée]e|respectueusement|amicalement|bises?|merci(?: d'avance| beaucoup| par avance)?"
    r"|bonne (?:journ[ée]e|soir[ée]e|r[ée]ception)|à bient[ôo]t|(?:best |kind |warm )?regards"
    r"|(?:yours )?sincerely|yours (?:faithfully|truly)"
    r"|thanks(?: in advance| a lot)?|thank you|cheers|best wishes|best)[ ]?[,.!;:]?[ ]?(?P<gap>\n[ \n]{0,6}"
    r"|)(?:-- ?\n|[-–] ?)?",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?<![^\s\"':,;(])\"?([^\W\d_][^\n<>\":,;@()0-9]{1,58})\"? ?<[^<>\s@]{1,64}@")
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
_LINE_END = re.compile(r" *(?:\n|\Z|[,;.!|(]| [-–|/] )")
_CAPITAL_PARTICLES = frozenset(
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


class _Token(NamedTuple):
    start: int
    end: int
    word: str
    folded: str

    @property
    def initial(self) -> bool:
        """Tell whether this is one or more letters with dots."""
        return self.word.endswith(".")


def find_names(view: View) -> Iterator[Found]:
    """Find the names of people in a text."""
    words = lexicon()
    text = view.text
    for run in _RUN.finditer(text):
        yield from _by_first_name(text, _tokens(text, run.start(), run.end()), words)
    yield from _after_titles(text, words)
    for match in _STATED.finditer(text):
        yield from _any_case(text, match.end(), words)
    for match in _LABEL.finditer(text):
        yield from _labelled(text, match.end(), words, alone=match[0][-1] not in ": ")
    for match in _SELF.finditer(text):
        yield from _leading_first_name(text, match.end(), words)
    for match in _GREETING.finditer(text):
        yield from _greeted(text, match.end(), words)
    for match in _CLOSING.finditer(text):
        yield from _signed(text, match.end(), words, own_line=bool(match["gap"]))
    if "<" in text and "@" in text:
        for match in _HEADER.finditer(text):
            yield from _in_header(match, words)


def _tokens(text: str, start: int, end: int) -> list[_Token]:
    return [_Token(m.start(), m.end(), m[0], fold(m[0])) for m in _WORD.finditer(text, start, end)]


def _span(tokens: list[_Token]) -> Found:
    return Found(Kind.PERSON, tokens[0].start, tokens[-1].end)


def _by_first_name(text: str, tokens: list[_Token], words: Lexicon) -> Iterator[Found]:
    """Find first names in a run of capitalised words, and the family names around them."""
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if skipped := _expression(tokens, place, words):
            place += skipped
            continue
        if not token.word[0].isupper() or token.folded in words.not_names or not words.is_first_name(token.folded):
            place += 1
            continue
        after = _family_end(tokens, place + 1, words)
        before = _family_start(text, tokens, place, words)
        named = tokens[before:after]
        alone = len(named) == 1
        if not (alone and token.folded in words.ambiguous) and not _is_company(text, named):
            yield _span(named)
        place = after


def _expression(tokens: list[_Token], place: int, words: Lexicon) -> int:
    for expression in words.expressions.get(tokens[place].folded, ()):
        if tuple(t.folded for t in tokens[place : place + len(expression)]) == expression:
            return len(expression)
    return 0


def _family_end(tokens: list[_Token], place: int, words: Lexicon) -> int:
    """Find where a name ends that begins before `place`: at a stop word, or after four words."""
    all_capitals = len(tokens) > 4 and all(t.word.isupper() for t in tokens)
    end, limit = place, min(len(tokens), place + (1 if all_capitals else 6))
    while place < limit:
        token = tokens[place]
        if token.word[0].isupper():
            if token.folded in _CAPITAL_PARTICLES and place + 1 < len(tokens):
                following = tokens[place + 1]
                if not following.word[0].isupper() or following.folded in words.not_names:
                    break
            elif words.is_stop(token.folded) or ("'" in token.word and not token.word.partition("'")[2][:1].isupper()):
                break
            else:
                end = place + 1
        place += 1
    return end


def _family_start(text: str, tokens: list[_Token], place: int, words: Lexicon) -> int:
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


def _is_company(text: str, named: list[_Token]) -> bool:
    start, end = named[0].start, named[-1].end
    return bool(_COMPANY_BEFORE.search(text, max(0, start - 32), start) or _COMPANY_AFTER.match(text, end))


def _after_titles(text: str, words: Lexicon) -> Iterator[Found]:
    for title in _TITLE.finditer(text):
        kin = fold(title[0].strip(" .")) in _KIN
        run = _AFTER_TITLE.match(text, title.end())
        if (run and run[0][:3].lower() not in ("le ", "la ", "les", "l'")) or (run and run[0][0].isupper()):
            tokens = _tokens(text, run.start(), run.end())
            taken = _name_prefix(tokens, words, strict=kin)
            if taken and (not kin or words.is_first_name(taken[0].folded)):
                yield _span(taken)
                continue
        if not kin:
            yield from _small_after_title(text, title, words)


def _small_after_title(text: str, title: re.Match[str], words: Lexicon) -> Iterator[Found]:
    """Find "mme lefèvre": small letters count after a short title, or with a first name."""
    run = _ANY_CASE.match(text, title.end())
    if run is None:
        return
    tokens = _tokens(text, run.start(), run.end())
    first = tokens[0]
    if words.is_first_name(first.folded) and first.folded not in words.not_names:
        taken = [first]
        if len(tokens) > 1 and not _ordinary(tokens[1].folded, words):
            taken.append(tokens[1])
        yield _span(taken)
    elif title[0].strip(" .").lower() in ("mme", "mlle", "mr", "melle") and not _ordinary(first.folded, words):
        yield _span([first])


def _ordinary(folded: str, words: Lexicon) -> bool:
    return len(folded) < 3 or folded in words.not_names or folded in words.common or "'" in folded


def _name_prefix(tokens: list[_Token], words: Lexicon, strict: bool = False) -> list[_Token]:
    """Take the words at the beginning of a run that can be a name."""
    taken: list[_Token] = []
    pending: list[_Token] = []
    for place, token in enumerate(tokens):
        follows = place + 1 < len(tokens)
        if not token.word[0].isupper() or (token.folded in _CAPITAL_PARTICLES and follows):
            pending.append(token)
            continue
        if token.folded in words.not_names or ((strict or taken) and token.folded in words.places):
            break
        if len(token.word) == 1 and not follows:
            break
        taken += [*pending, token]
        pending = []
    return taken if any(len(t.word.strip(".")) > 1 for t in taken) else []


def _any_case(text: str, start: int, words: Lexicon) -> Iterator[Found]:
    """Find a name that was announced as one, in whatever letters it is written."""
    run = _ANY_CASE.match(text, start)
    if run is None:
        return
    taken: list[_Token] = []
    for token in _tokens(text, run.start(), run.end()):
        if token.folded in _CAPITAL_PARTICLES and token.end < run.end():
            taken.append(token)
        elif token.folded in words.not_names or (not token.word[0].isupper() and len(taken) >= 2):
            break
        else:
            taken.append(token)
    while taken and taken[-1].folded in _CAPITAL_PARTICLES:
        taken.pop()
    if taken and len(taken[0].word) > 1 and not _is_company(text, taken):
        yield _span(taken)


def _labelled(text: str, start: int, words: Lexicon, alone: bool) -> Iterator[Found]:
    run = _RUN.match(text, start)
    if run is None:
        return
    tokens = _tokens(text, run.start(), run.end())
    taken = _name_prefix(tokens, words, strict=True)
    if not taken or _expression(tokens, 0, words) or _is_company(text, taken):
        return
    whole = len(taken) == len(tokens)
    if any(words.is_first_name(t.folded) for t in taken) or (whole and (alone or len(taken) in (2, 3))):
        yield _span(taken)


def _leading_first_name(text: str, start: int, words: Lexicon) -> Iterator[Found]:
    run = _ANY_CASE.match(text, start)
    if run is None:
        return
    tokens = _tokens(text, run.start(), run.end())
    first = tokens[0]
    if not words.is_first_name(first.folded) or first.folded in words.not_names:
        return
    if first.word[0].isupper():
        taken = _name_prefix(tokens, words)
        if taken and not _expression(tokens, 0, words):
            yield _span(taken)
    elif first.folded not in words.ambiguous:
        yield _span(tokens[: 2 if len(tokens) > 1 and not _ordinary(tokens[1].folded, words) else 1])


def _greeted(text: str, start: int, words: Lexicon) -> Iterator[Found]:
    run = _RUN.match(text, start)
    if run is None:
        yield from _leading_first_name(text, start, words)
        return
    tokens = _tokens(text, run.start(), run.end())
    taken = _name_prefix(tokens, words, strict=True)
    if not taken or _expression(tokens, 0, words):
        return
    if words.is_first_name(taken[0].folded) or (
        len(taken) == len(tokens) < 3 and text[run.end() : run.end() + 1] in ",!\n"
    ):
        yield _span(taken)


def _signed(text: str, start: int, words: Lexicon, own_line: bool) -> Iterator[Found]:
    run = _RUN.match(text, start)
    if run is None:
        small = _ANY_CASE.match(text, start) if own_line else None
        if small and _LINE_END.match(text, small.end()) and len(small[0].split()) < 4:
            yield from _leading_first_name(text, start, words)
        return
    tokens = _tokens(text, run.start(), run.end())
    taken = _name_prefix(tokens, words, strict=True)
    if not taken or len(taken) > 5 or _expression(tokens, 0, words) or _is_company(text, taken):
        return
    ends = len(taken) == len(tokens) and _LINE_END.match(text, run.end()) is not None
    if any(words.is_first_name(t.folded) for t in taken) or (own_line and ends):
        yield _span(taken)


def _in_header(match: re.Match[str], words: Lexicon) -> Iterator[Found]:
    shown = match[1].rstrip()
    tokens = _tokens(shown, 0, len(shown))
    if 0 < len(tokens) <= 5 and not any(_stops(t.folded, words) for t in tokens):
        yield Found(Kind.PERSON, match.start(1), match.start(1) + len(shown))


def _stops(folded: str, words: Lexicon) -> bool:
    return words.is_stop(folded) and folded not in _CAPITAL_PARTICLES
