"""Checks of an answer by code: every citation exists and is verbatim, every figure and claim stands in a source."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from metier.calls import JSON
from metier.errors import Invalid
from metier.knowledge.analyser import Analyser, Language, fold
from metier.knowledge.figures import Figure, figures, supports
from metier.knowledge.retrieve import Extract

__all__ = ["Checked", "Citation", "Finding", "FindingKind", "Support", "check_citations", "cited"]

FindingKind = Literal[
    "citation missing", "citation unknown", "quote not found", "figure unsupported", "claim unsupported"
]

_ID = r"[a-z0-9]+(?:-[a-z0-9]+)*-\d+"
_MARK = re.compile(rf"\[\s*{_ID}(?:\s*[,;]\s*{_ID})*\s*\]")
_SENTENCE = re.compile(r"(?<=[.!?…])[\s\"»]+|\n+")
_COURTESY = re.compile(
    r"\W*(bonjour|bonsoir|madame|monsieur|cher|chere|chers|dear|hello|hi\b|cordialement|bien a vous|bien cordialement"
    r"|sinceres|salutations|best regards|kind regards|regards|sincerely|merci|thank|nous vous remercions|we thank"
    r"|nous restons|je reste|n'hesitez pas|do not hesitate|please contact|feel free|nous sommes desoles|we are sorry"
    r"|nous regrettons|toutes nos excuses|we apologi[sz]e|veuillez agreer|veuillez nous excuser|l'equipe|the \w+ team"
    r"|votre conseill|service client|customer service|we remain|i remain|votre message|suite a votre|following your)"
)
_ENOUGH = 0.5
"""Share of the content words of a sentence that one source must hold for it to be borne out."""


@dataclass(frozen=True, slots=True)
class Citation:
    """What an answer says it rests on."""

    id: str
    quote: str | None = None
    """Words said to stand in the extract."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the check holds against an answer, said so that a writer can mend it."""

    kind: FindingKind
    where: str
    """The part of the answer it is about."""
    fr: str
    en: str
    serious: bool = True
    """False for a doubt a person should look at, found by comparing words alone."""


@dataclass(frozen=True, slots=True)
class Support:
    """A part of the answer and the source that bears it out."""

    where: str
    source: str
    """A citation id, or the name of an allowed text."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on an answer."""

    ok: bool
    """True when nothing serious was found."""
    findings: tuple[Finding, ...]
    supported: tuple[Support, ...]

    def critique(self, language: Language) -> str:
        """Say what must be mended, one line each, for the writer of the next draft."""
        return "\n".join(f"- {finding.fr if language == 'fr' else finding.en}" for finding in self.findings)


def cited(value: JSON) -> tuple[Citation, ...]:
    """Read the citations of a draft: ids, or objects with id and quote."""
    citations: list[Citation] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            citations.append(Citation(item.strip("[] ")))
        elif isinstance(item, dict) and isinstance(item.get("id"), str):
            quote = item.get("quote")
            citations.append(
                Citation(str(item["id"]).strip("[] "), quote if isinstance(quote, str) and quote else None)
            )
        else:
            raise Invalid(f"Reading the citations failed at {item!r}: give ids, or objects with id and quote.")
    return tuple(citations)


def check_citations(
    body: str,
    citations: Sequence[Citation],
    offered: Sequence[Extract],
    allowed: Mapping[str, str] | None = None,
    language: Language = "fr",
) -> Checked:
    """Check a draft against the extracts its reader may read; `allowed` are further texts figures may come from."""
    extracts = {extract.id: extract for extract in offered}
    marked = [Citation(mark) for mark in dict.fromkeys(_marks(body))]
    every = [*citations, *(mark for mark in marked if mark.id not in {citation.id for citation in citations})]
    findings = [finding for citation in every for finding in _citation(citation, extracts)]
    sources = {citation.id: _source(extracts[citation.id]) for citation in every if citation.id in extracts}
    sources |= allowed or {}
    supported: list[Support] = []
    findings += _figures(_MARK.sub("", body), sources, supported)
    findings += _claims(body, {citation.id for citation in every} & extracts.keys(), sources, language, supported)
    return Checked(not any(finding.serious for finding in findings), tuple(findings), tuple(supported))


def _marks(text: str) -> list[str]:
    """The ids written in square brackets, in order."""
    return [mark for found in _MARK.finditer(text) for mark in re.findall(_ID, found.group())]


def _source(extract: Extract) -> str:
    return f"{extract.path}\n{extract.text}"


def _citation(citation: Citation, extracts: Mapping[str, Extract]) -> list[Finding]:
    extract = extracts.get(citation.id)
    if extract is None:
        return [
            Finding(
                "citation unknown",
                citation.id,
                f"La source « {citation.id} » n'existe pas parmi les extraits fournis ; "
                "citez un identifiant fourni ou retirez-la.",
                f"The source {citation.id!r} is not among the extracts given; cite one that is, or remove it.",
            )
        ]
    if citation.quote is None or _stands(citation.quote, _source(extract)):
        return []
    other = next((found.id for found in extracts.values() if _stands(citation.quote, _source(found))), None)
    where_fr = f" ; ces mots sont dans « {other} »" if other else ""
    where_en = f"; these words stand in {other!r}" if other else ""
    return [
        Finding(
            "quote not found",
            citation.quote,
            f"Le passage « {citation.quote} » n'est pas dans « {citation.id} »{where_fr} ; recopiez-le mot pour mot.",
            f"The passage {citation.quote!r} is not in {citation.id!r}{where_en}; copy it word for word.",
        )
    ]


def _figures(body: str, sources: Mapping[str, str], supported: list[Support]) -> list[Finding]:
    known = {name: figures(text) for name, text in sources.items()}
    findings: list[Finding] = []
    for stated in figures(body):
        source = next((name for name, found in known.items() if any(supports(one, stated) for one in found)), None)
        if source is not None:
            supported.append(Support(stated.text, source))
            continue
        findings.append(
            Finding(
                "figure unsupported",
                stated.text,
                f"« {_context(body, stated)} » : « {stated.text} » ne figure dans aucune source citée ; "
                "retirez-le ou citez l'extrait qui le dit.",
                f"{_context(body, stated)!r}: {stated.text!r} stands in no cited source; "
                "remove it or cite the extract that says it.",
            )
        )
    return findings


def _context(body: str, figure: Figure) -> str:
    start = body.rfind(" ", 0, max(0, figure.start - 30)) + 1
    end = body.find(" ", figure.start + len(figure.text) + 20)
    return " ".join(body[start : end if end > 0 else len(body)].split())


def _claims(
    body: str, ids: set[str], sources: Mapping[str, str], language: Language, supported: list[Support]
) -> list[Finding]:
    """Find the sentences that state something no source has the words for."""
    analyser = Analyser(language)
    words = {name: frozenset(analyser(text).terms) for name, text in sources.items()}
    findings: list[Finding] = []
    for sentence in _sentences(body):
        content = frozenset(analyser(_MARK.sub("", sentence)).terms)
        if not _claims_something(sentence, content):
            continue
        marks = [mark for mark in _marks(sentence) if mark in ids]
        best = max(marks or words, key=_overlap(content, words), default=None)
        if best is not None and _overlap(content, words)(best) >= _ENOUGH:
            supported.append(Support(sentence, best))
        else:
            findings.append(
                Finding(
                    "claim unsupported",
                    sentence,
                    f"« {sentence} » : aucune source citée ne dit cela en ces termes ; citez-la ou retirez la phrase.",
                    f"{sentence!r}: no cited source says this in these words; cite one or remove the sentence.",
                    serious=False,
                )
            )
    if not ids and any(_claims_something(part, frozenset(analyser(part).terms)) for part in _sentences(body)):
        findings.insert(
            0,
            Finding(
                "citation missing",
                body[:80],
                "La réponse affirme sans citer aucun extrait ; citez ceux sur lesquels elle repose.",
                "The answer states things without citing any extract; cite those it rests on.",
            ),
        )
    return findings


def _sentences(body: str) -> list[str]:
    return [part.strip() for part in _SENTENCE.split(body) if part and part.strip()]


def _claims_something(sentence: str, content: frozenset[str]) -> bool:
    """A greeting, a question, a thank-you or a few words make no claim."""
    plain = fold(_normal(sentence))
    return len(content) >= 3 and not plain.endswith("?") and _COURTESY.match(plain) is None


def _overlap(content: frozenset[str], words: Mapping[str, frozenset[str]]) -> Callable[[str], float]:
    return lambda name: len(content & words[name]) / len(content)


def _stands(quote: str, text: str) -> bool:
    """Say whether the quoted words stand in the text in order; an ellipsis may leave words out between them."""
    plain, at = _normal(text), 0
    parts = [part for part in (_normal(part).strip(" .") for part in re.split(r"\[?(?:…|\.{3})\]?", quote)) if part]
    for part in parts:
        found = plain.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return bool(parts)


def _normal(text: str) -> str:
    """One spelling for quotes, dashes, spaces, accents' encoding, emphasis and case; every word stays."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub("[‘’ʼ`´]", "'", text)
    text = re.sub('[«»“”„"*_]', "", text)
    text = re.sub("[‐‑‒–—−]", "-", text)
    return " ".join(text.split())
