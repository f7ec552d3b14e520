"""Names that something announces: a title, a label, a greeting, the end of a letter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from metier.guardrails.pii.kinds import Found
from metier.guardrails.pii.lexicon import Lexicon
from metier.guardrails.pii.normalise import View, fold
from metier.guardrails.pii.tokens import (
    ANY_CASE,
    CAPITAL_PARTICLES,
    RUN,
    TITLED,
    Token,
    expression,
    is_company,
    is_ordinary,
    name_prefix,
    span,
    token_at,
    tokens_of,
)

__all__ = ["find_announced"]

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
    r"(?<![^\W_])(?:(?:bien )?cordialement(?: vôtre| à vous)?|bien à (?:vous|toi)|(?:bien )?cd?l?t"
    r"|(?:sinc[èe]res |meilleures )?salutations(?: distingu[ée]es| cordiales| les meilleures| sinc[èe]res)?"
    r"|sentiments(?: les meilleurs| distingu[ée]s)"
    r"|consid[ée]ration distingu[ée]e|respectueusement|amicalement|bises?|merci(?: d'avance| beaucoup| par avance)?"
    r"|bonne (?:journ[ée]e|soir[ée]e|r[ée]ception)|à bient[ôo]t|(?:best |kind |warm )?regards"
    r"|(?:yours )?sincerely|yours (?:faithfully|truly)"
    r"|thanks(?: in advance| a lot)?|thank you|cheers|best(?: wishes)?)[ ]?[,.!;:]?[ ]?(?P<gap>\n[ \n]{0,6}"
    r"|)(?:-- ?\n|[-–] ?)?",
    re.IGNORECASE,
)
_LINE_END = re.compile(r" *(?:\n|\Z|[,;.!|(]| [-–|/] )")


def _titled(text: str, title: re.Match[str], words: Lexicon) -> Iterator[Found]:
    kin = fold(title[0].strip(" .")) in _KIN
    run = TITLED.match(text, title.end())
    if (run and run[0][:3].lower() not in ("le ", "la ", "les", "l'")) or (run and run[0][0].isupper()):
        tokens = tokens_of(text, run.start(), run.end())
        taken = name_prefix(tokens, words, strict=kin)
        if taken and (not kin or words.is_first_name(taken[0].folded)):
            yield span(taken)
            return
    if not kin:
        yield from _small_after_title(text, title, words)


def _small_after_title(text: str, title: re.Match[str], words: Lexicon) -> Iterator[Found]:
    """Find "mme lefèvre": small letters count after a short title, or with a first name."""
    run = ANY_CASE.match(text, title.end())
    if run is None:
        return
    tokens = tokens_of(text, run.start(), run.end())
    first = tokens[0]
    if words.is_first_name(first.folded) and first.folded not in words.not_names:
        taken = [first]
        if len(tokens) > 1 and not is_ordinary(tokens[1].folded, words):
            taken.append(tokens[1])
        yield span(taken)
    elif title[0].strip(" .").lower() in ("mme", "mlle", "mr", "melle") and not is_ordinary(first.folded, words):
        yield span([first])


def _stated(text: str, match: re.Match[str], words: Lexicon) -> Iterator[Found]:
    """Find a name that was announced as one, in whatever letters it is written."""
    run = ANY_CASE.match(text, match.end())
    if run is None:
        return
    taken: list[Token] = []
    for token in tokens_of(text, run.start(), run.end()):
        if token.folded in CAPITAL_PARTICLES and token.end < run.end():
            taken.append(token)
        elif token.folded in words.not_names or (not token.capital and len(taken) >= 2):
            break
        else:
            taken.append(token)
    while taken and taken[-1].folded in CAPITAL_PARTICLES:
        taken.pop()
    if taken and len(taken[0].word) > 1 and not is_company(text, taken):
        yield span(taken)


def _labelled(text: str, match: re.Match[str], words: Lexicon) -> Iterator[Found]:
    run = RUN.match(text, match.end())
    if run is None:
        return
    tokens = tokens_of(text, run.start(), run.end())
    taken = name_prefix(tokens, words, strict=True)
    if not taken or expression(tokens, 0, words) or is_company(text, taken):
        return
    whole = len(taken) == len(tokens)
    if any(words.is_first_name(t.folded) for t in taken) or (
        whole and (match[0][-1] not in ": " or len(taken) in (2, 3))
    ):
        yield span(taken)


def _leading_first_name(text: str, start: int, words: Lexicon) -> Iterator[Found]:
    run = ANY_CASE.match(text, start)
    if run is None:
        return
    first = token_at(text, run.start(), run.end())
    if not words.is_first_name(first.folded) or first.folded in words.not_names:
        return
    tokens = tokens_of(text, run.start(), run.end())
    if first.word[0].isupper():
        taken = name_prefix(tokens, words)
        if taken and not expression(tokens, 0, words):
            yield span(taken)
    elif first.folded not in words.ambiguous:
        yield span(tokens[: 2 if len(tokens) > 1 and not is_ordinary(tokens[1].folded, words) else 1])


def _greeted(text: str, match: re.Match[str], words: Lexicon) -> Iterator[Found]:
    run = RUN.match(text, match.end())
    if run is None:
        yield from _leading_first_name(text, match.end(), words)
        return
    tokens = tokens_of(text, run.start(), run.end())
    taken = name_prefix(tokens, words, strict=True)
    if not taken or expression(tokens, 0, words):
        return
    if words.is_first_name(taken[0].folded) or (
        len(taken) == len(tokens) < 3 and text[run.end() : run.end() + 1] in ",!\n"
    ):
        yield span(taken)


def _signed(text: str, match: re.Match[str], words: Lexicon) -> Iterator[Found]:
    run = RUN.match(text, match.end())
    if run is None:
        small = ANY_CASE.match(text, match.end()) if match["gap"] else None
        if small and _LINE_END.match(text, small.end()) and len(small[0].split()) < 4:
            yield from _leading_first_name(text, match.end(), words)
        return
    tokens = tokens_of(text, run.start(), run.end())
    taken = name_prefix(tokens, words, strict=True)
    if not taken or len(taken) > 5 or expression(tokens, 0, words) or is_company(text, taken):
        return
    ends = len(taken) == len(tokens) and _LINE_END.match(text, run.end()) is not None
    if any(words.is_first_name(t.folded) for t in taken) or (match["gap"] and ends):
        yield span(taken)


def _self(text: str, match: re.Match[str], words: Lexicon) -> Iterator[Found]:
    yield from _leading_first_name(text, match.end(), words)


_Rule = Callable[[str, re.Match[str], Lexicon], Iterator[Found]]
_STARTS: tuple[tuple[re.Pattern[str], _Rule, str], ...] = (
    (
        _TITLE,
        _titled,
        "m mm mr mrs mme mmes mes mlle melle miss ms madame monsieur mademoiselle maître maitre docteur professeur "
        "prof famille époux epoux épouse epouse veuve consorts capitaine colonel père pere sœur soeur frère frere "
        "conjoint conjointe collègue collegue fille fils mari femme mère mere voisin voisine ami amie "
        "me dr pr sir lord lady",
    ),
    (
        _STATED,
        _stated,
        "je mon my i first last full family given customer user contact surname name nom noms prénom prénoms prenom "
        "prenoms fullname firstname lastname",
    ),
    (
        _LABEL,
        _labelled,
        "client cliente customer contact destinataire expéditeur expediteur titulaire bénéficiaire beneficiaire "
        "patient patiente salarié salariée employé employée interlocuteur interlocutrice "
        "rédacteur rédactrice auteur author "
        "signataire locataire propriétaire assuré assurée from to cc de à user owner recipient sender passager "
        "voyageur candidat candidate au pour signé signe attn c",
    ),
    (_SELF, _self, "je ici c i this moi appelez call"),
    (_GREETING, _greeted, "bonjour bonsoir cher chère chers chères chere hello hi dear salut hey coucou merci"),
    (
        _CLOSING,
        _signed,
        "cordialement bien cdt cdlt clt salutations sincères sinceres meilleures sentiments considération "
        "consideration respectueusement amicalement bise bises merci bonne à best kind warm regards yours sincerely "
        "thanks thank cheers",
    ),
)


# What must follow a first word for its pattern to match at all: most are among the commonest words of the language, and
# looking at what stands behind them costs a tenth of trying the pattern.
_COLON = (":", " :")
_NEXT: Mapping[tuple[re.Pattern[str], str], tuple[str, ...]] = MappingProxyType(
    {
        **{(_LABEL, word): _COLON for word in "client cliente customer contact from to cc user owner".split()},
        (_LABEL, "de"): (*_COLON, " la part d"),
        (_LABEL, "à"): (*_COLON, " l'attention d"),
        (_LABEL, "au"): (" nom d",),
        (_LABEL, "pour"): (" le compte d",),
        (_LABEL, "c"): ("/o ",),
        (_STATED, "je"): (" m",),
        (_STATED, "i"): (" am called",),
        (_STATED, "mon"): (" nom ", " pr"),
        (_STATED, "my"): (" name", " full", " first", " last"),
        (_SELF, "je"): (" suis ",),
        (_SELF, "c"): ("'est ",),
        (_SELF, "i"): (" am ", "'m "),
        (_SELF, "this"): (" is ",),
        (_CLOSING, "à"): (" bient",),
        (_CLOSING, "bonne"): (" journ", " soir", " r"),
    }
)
_ANYTHING = ("",)
_Rules = tuple[tuple[re.Pattern[str], _Rule, tuple[str, ...]], ...]


def _by_first_word() -> Mapping[str, _Rules]:
    rules: dict[str, _Rules] = {}
    for pattern, rule, words in _STARTS:
        for word in words.split():
            rules[word] = (*rules.get(word, ()), (pattern, rule, _NEXT.get((pattern, word), _ANYTHING)))
    return MappingProxyType(rules)


_TRIGGERS = _by_first_word()


def find_announced(view: View, words: Lexicon) -> Iterator[Found]:
    """Find the names that follow a title, a label, a greeting or a closing formula."""
    text, lower = view.text, view.lower
    triggers = _TRIGGERS
    for word in view.words():
        if (rules := triggers.get(word[0])) is None:
            continue
        for pattern, rule, behind in rules:
            if not lower.startswith(behind, word.end()):
                continue
            match = pattern.match(text, word.start())
            if match is not None:
                yield from rule(text, match, words)
