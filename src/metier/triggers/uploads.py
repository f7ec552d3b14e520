"""Files sent with a form: their names tamed, their text read, and everything that cannot be taken said plainly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from metier.calls import JSON
from metier.connectors.mail import ToText, clean
from metier.errors import Invalid, MetierError

__all__ = ["ACCEPTED", "MOST", "WHOLE", "Upload", "check_files", "file_rows", "shown_size", "tame"]

ACCEPTED: Final = (".pdf", ".docx", ".xlsx", ".html", ".htm", ".md", ".txt")
"""Usual extensions of what can be read as text."""
MOST: Final = 20
"""Files one field may take at most, whatever the flow says."""
WHOLE: Final = 20_000_000
"""Bytes of all files of one form together."""
_TEXT = 400_000
_LONGEST = 120
_UNNAMED = "file"
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,80}", re.ASCII)
_FAULTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "en": {
            "many": "{label!r} got {count} files: {most} at most",
            "empty": "{name!r} is empty: nothing is in it; choose another file",
            "huge": "{name!r} is larger than {limit}: send a smaller file, or parts of it",
            "heavy": "the files are larger than {limit} together: send fewer of them, or smaller ones",
            "unread": "no text could be read from {name!r}: send a PDF whose text can be selected, Word, Excel, HTML "
            "or plain text ({why})",
            "wordy": "the files have {size:,} characters of text together: {most:,} at most",
        },
        "fr": {
            "many": "«\u00a0{label}\u00a0» a reçu {count} fichiers\u00a0: {most} au plus",
            "empty": "«\u00a0{name}\u00a0» est vide\u00a0: il ne contient rien\u00a0; choisissez un autre fichier",
            "huge": "«\u00a0{name}\u00a0» dépasse {limit}\u00a0: envoyez un fichier plus petit, ou des parties",
            "heavy": "les fichiers dépassent ensemble {limit}\u00a0: envoyez-en moins, ou de plus petits",
            "unread": "aucun texte n’a pu être lu dans «\u00a0{name}\u00a0»\u00a0: envoyez un PDF dont le texte se "
            "sélectionne, du Word, de l’Excel, du HTML ou du texte",
            "wordy": "les fichiers ont ensemble {size} caractères de texte\u00a0: {most} au plus",
        },
    }
)


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as it was sent with a form."""

    name: str
    """As the sender wrote it; whatever is in it."""
    media_type: str
    """As the sender says; it decides nothing."""
    data: bytes
    """Its bytes; none where there are more of them than are taken."""
    size: int
    """Bytes that came, kept or not."""


def tame(name: str) -> str:
    """Give a file name that is only a name: no path, nothing invisible, one line, and not long."""
    seen = " ".join(clean(name.encode("utf-8", "replace").decode()).replace("\\", "/").rpartition("/")[2].split())
    bare = seen.strip(". ")
    if not bare:
        return _UNNAMED
    # A name that is all extension, such as .pdf, keeps it: what reads the file goes by it.
    known = f"{_UNNAMED}{seen}" if seen.lower() in ACCEPTED else bare
    if len(known) <= _LONGEST:
        return known
    stem, dot, suffix = known.rpartition(".")
    return f"{stem[: _LONGEST - len(suffix) - 1]}.{suffix}" if dot and len(suffix) <= 10 else known[:_LONGEST]


def check_files(
    fields: Sequence[tuple[str, str, int]], uploads: Mapping[str, Sequence[Upload]], limit: int, lang: str
) -> None:
    """Refuse files too many, empty or too large; a field is a name, a label and how many files it takes."""
    words = _FAULTS.get(lang, _FAULTS["en"])
    whole = 0
    for name, label, most in fields:
        sent = uploads.get(name, ())
        if len(sent) > most:
            raise _wrong(name, words["many"].format(label=label, count=len(sent), most=most))
        for one in sent:
            if not one.size:
                raise _wrong(name, words["empty"].format(name=tame(one.name)))
            if one.size > limit:
                raise _wrong(name, words["huge"].format(name=tame(one.name), limit=shown_size(limit, lang)))
            whole += one.size
            if whole > WHOLE:
                raise _wrong(name, words["heavy"].format(limit=shown_size(WHOLE, lang)))


def file_rows(uploads: Mapping[str, Sequence[Upload]], to_text: ToText, lang: str) -> dict[str, list[JSON]]:
    """Give what flows see of files, in the shape of files that come by e-mail; Invalid names one without a text."""
    words = _FAULTS.get(lang, _FAULTS["en"])
    found: dict[str, list[JSON]] = {}
    size = 0
    for name, sent in uploads.items():
        found[name] = []
        for one in sent:
            text = _text(one, name, to_text, words)
            size += len(text)
            if size > _TEXT:
                raise _wrong(name, words["wordy"].format(size=size, most=_TEXT))
            kind = one.media_type if _MEDIA_TYPE.fullmatch(one.media_type) else "application/octet-stream"
            found[name].append({"name": tame(one.name), "media_type": kind, "size": one.size, "text": text})
    return found


def shown_size(bytes_: int, lang: str) -> str:
    """Write a number of bytes as people say it, such as 10 MB or 1,5 Mo."""
    unit, part = ("M", bytes_ / 1_000_000) if bytes_ >= 1_000_000 else ("k", bytes_ / 1_000)
    number = f"{part:.1f}".removesuffix(".0")
    return f"{number.replace('.', ',')}\u00a0{unit}o" if lang == "fr" else f"{number} {unit}B"


def _text(one: Upload, field: str, to_text: ToText, words: Mapping[str, str]) -> str:
    name = tame(one.name)
    try:
        text = clean(to_text(name, one.data))
    except MetierError as error:
        raise _wrong(field, words["unread"].format(name=name, why=error.message)) from None
    if not text.strip():
        raise _wrong(field, words["unread"].format(name=name, why="it holds no text"))
    return text


def _wrong(field: str, told: str) -> Invalid:
    return Invalid(told, param=f"form.{field}")
