"""Postal addresses, French first: number, kind of way, name, then postcode and commune where they follow."""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.lexicon import lexicon
from metier.guardrails.pii.normalise import View, fold

__all__ = ["find_addresses"]

_UPPER = "A-ZÀ-ÖØ-Þ"
_WAY = (
    r"(?:rue|r\.|avenue|av\.?|ave\.?|boulevard|boul\.?|bd\.?|bld\.?|blvd\.?|impasse|imp\.?|all[ée]es?|all\."
    r"|chemin|che?m?\.|place|pl\.?"
    r"|quai|cours|route|rte\.?|square|sq\.?|passage|pass\.?|villa|sentier|sente|ruelle|venelle|voie|mont[ée]e"
    r"|c[ôo]te|promenade|esplanade"
    r"|faubourg|fbg\.?|fg\.?|hameau|clos|cit[ée]|r[ée]sidence|r[ée]s\.|lotissement|lot\.|lieu-?dit|ld\.?"
    r"|rond-point|parvis|galerie"
    r"|traverse|domaine|mail|porte|pont|levée|rocade|parc|enclos|cour|carrefour|za|zi|zac)"
)
_NUMBER = r"(?:[ \-/]?[0-9]{1,4}(?=[ ,]))?(?: ?(?:bis|ter|quater|[A-Da-d])(?![^\W_]))?"
_STREET = re.compile(rf"[0-9](?<![\w.,/\-€].)[0-9]{{0,3}}{_NUMBER}[ ,]{{1,3}}{_WAY}(?![^\W_]) ?", re.IGNORECASE)
_NUMBERLESS = re.compile(
    r"(?<![^\W_])(?:lieu-?dit|lieu dit|r[ée]sidence|immeuble|b\.?p\.?(?= ?[0-9])|chez)(?![^\W_]) ?", re.IGNORECASE
)
_NUMBERLESS_STEMS = ("lieu", "sidence", "immeuble", "bp", "b.p", "chez")
_LINK = r"(?:d'|l'|de |du |des |la |le |les |aux? |et |en |sur |sous |à |d')"
_NAME = re.compile(
    rf"(?:{_LINK}){{0,3}}(?:[{_UPPER}][\w'.\-]*|[0-9]{{1,2}}(?:er|ème|e)? (?:{_LINK})?(?:janvier|f[ée]vrier"
    rf"|mars|avril|mai|juin"
    rf"|juillet|ao[ûu]t|septembre|octobre|novembre|d[ée]cembre)|(?:d'|l')[^\W\d_]+|19[0-9]{{2}}|[ivxIVX]+\b)"
    rf"(?: (?:{_LINK}){{0,3}}(?:[{_UPPER}][\w'.\-]*|19[0-9]{{2}}|[0-9]{{1,2}} (?:janvier|f[ée]vrier|mars|avril"
    rf"|mai|juin"
    rf"|juillet|ao[ûu]t|septembre|octobre|novembre|d[ée]cembre)))*"
)
_SMALL_NAME = re.compile(rf"(?:{_LINK}){{0,3}}[^\W\d_][\w'\-]{{1,24}}")
_TOWN = re.compile(
    rf"(?:F-|FR-|B-|L-|CH-|D-)?(?<![0-9])(?:0[1-9]|[1-8][0-9]|9[0-8]|2[AB])[ ]?[0-9]{{3}},? {{1,2}}"
    rf"((?:[{_UPPER}][\w'\-]*|[LlDd]'[{_UPPER}][\w'\-]*|[^\W\d_]{{2}}[\w'\-]*)"
    rf"(?: (?:(?:sur|sous|en|l[eè]s|de|du|des|la|le|et|aux?|d'|l') ?)*[{_UPPER}][\w'\-]*)*"
    rf"(?: [0-9]{{1,2}}(?:er|e|ème)?(?![\w/:]))?(?: ?[Cc](?:edex|EDEX)(?: ?[0-9]{{1,2}}(?![0-9]))?)?)"
)
_TOWN_REACH = 120
_SENTENCE = re.compile(r"[!?;]|\n[ ]*\n|\.(?= +[A-ZÀ-Ý][a-zà-ÿ]{2,} [a-zà-ÿ])")
_ENGLISH = re.compile(
    rf"(?<![\w.,/\-$£€])[0-9]{{1,5}}[A-Z]? (?:[{_UPPER}][\w'.\-]* ){{1,4}}(?:Street|St|Road|Rd|Avenue|Ave|Lane"
    rf"|Ln|Drive|Dr|Court|Ct"
    rf"|Way|Close|Crescent|Terrace|Gardens|Place|Boulevard|Blvd|Square|Parkway)(?![\w])\.?"
    rf"(?:,? (?:Apt|Suite|Flat|Unit|#)\.? ?[\w\-]{{1,6}})?"
    rf"(?:,? ?\n?(?:[{_UPPER}][\w'\-]* ?){{1,3}},? ?\n?(?:[A-Z]{{2}} [0-9]{{5}}"
    rf"|[A-Z]{{1,2}}[0-9][0-9A-Z]? ?[0-9][A-Z]{{2}})(?![\w]))?"
)


def find_addresses(view: View) -> Iterator[Found]:
    """Find postal addresses, up to and with the commune when one follows the street."""
    text = view.text
    place = 0
    while match := _STREET.search(text, place):
        end = _address_end(text, match.end())
        if end is not None:
            yield Found(Kind.ADDRESS, match.start(), end)
        place = end or match.end()
    place = 0
    named = view.mentions(*_NUMBERLESS_STEMS)
    while named and (match := _NUMBERLESS.search(text, place)):
        place = match.end()
        end = _town_end(text, match.end(), 80)
        if end is not None:
            yield Found(Kind.ADDRESS, match.start(), end)
            place = end
    for match in _ENGLISH.finditer(text):
        yield Found(Kind.ADDRESS, match.start(), match.end())


def _address_end(text: str, street: int) -> int | None:
    """Find where the address ends that has its number and kind of way before `street`."""
    town = _town_end(text, street, _TOWN_REACH)
    if town is not None:
        return town
    name = _NAME.match(text, street)
    if name is None:
        name = _SMALL_NAME.match(text, street)
        if name is None or fold(name[0].split()[-1]) in lexicon().not_names:
            return None
    return name.end() - 1 if text[name.end() - 1] == "." else name.end()


def _town_end(text: str, start: int, reach: int) -> int | None:
    """Find the end of "postcode commune" in what follows, unless a sentence ends before it."""
    town = _TOWN.search(text, start, min(len(text), start + reach + 40))
    if town is None or town.start() > start + reach:
        return None
    between = text[start : town.start()]
    if between.count("\n") > 3 or _SENTENCE.search(between):
        return None
    end = town.end()
    return end - 1 if text[end - 1] in ".-'" else end
