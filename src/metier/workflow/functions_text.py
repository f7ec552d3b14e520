"""Functions over texts: all are linear in what they are given, and none makes more than a bounded text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING

from metier.deferred import deferred
from metier.workflow.builtin import TEXT_MAX, Builtin, Unfit, Value, items_in, text_in, whole_in

if TYPE_CHECKING:
    import re2
else:
    re2 = deferred("re2")

__all__ = ["TEXT"]

_FOUND_MAX = 10_000
_GAPS = re.compile(r"[^a-z0-9]+")


def _matches(text: Value, pattern: Value) -> bool:
    return _search(text, pattern, "matches") is not None


def _search(text: Value, pattern: Value, what: str) -> re.Match[str] | None:
    # RE2 never backtracks, so no pattern and no text can make it hang.
    written = text_in(pattern, what)
    try:
        found: re.Match[str] | None = re2.search(written, text_in(text, what), options=_options())
    except (re2.error, UnicodeError) as wrong:
        raise Unfit(f"{written!r} is not a regular expression of RE2") from wrong
    return found


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    return options


def _find(text: Value, pattern: Value) -> str:
    found = _search(text, pattern, "find")
    return "" if found is None else found.group(0)


def _find_all(text: Value, pattern: Value) -> list[Value]:
    written = text_in(pattern, "find_all")
    found: list[Value] = []
    try:
        for one in re2.finditer(written, text_in(text, "find_all"), options=_options()):
            if len(found) == _FOUND_MAX:
                raise Unfit(f"find_all finds more than {_FOUND_MAX} places")
            found.append(one.group(0))
    except (re2.error, UnicodeError) as wrong:
        raise Unfit(f"{written!r} is not a regular expression of RE2") from wrong
    return found


def _replace(text: Value, old: Value, new: Value) -> str:
    whole, part, other = (text_in(one, "replace") for one in (text, old, new))
    if not part:
        raise Unfit("replace needs a text to look for that is not empty")
    if len(whole) + whole.count(part) * (len(other) - len(part)) > TEXT_MAX:
        raise Unfit(f"replace would make more than {TEXT_MAX} characters")
    return whole.replace(part, other)


def _split(text: Value, separator: Value) -> list[Value]:
    whole, part = text_in(text, "split"), text_in(separator, "split")
    if not part:
        raise Unfit("split needs a separator that is not empty")
    return [*whole.split(part, _FOUND_MAX)]


def _plain(text: Value) -> str:
    """Take the accents off letters: `é` is e, `œ` is oe."""
    spelt = text_in(text, "plain").replace("œ", "oe").replace("Œ", "OE").replace("æ", "ae").replace("Æ", "AE")
    return "".join(letter for letter in unicodedata.normalize("NFKD", spelt) if not unicodedata.combining(letter))


def _slug(text: Value) -> str:
    return _GAPS.sub("-", _plain(text_in(text, "slug")).lower()).strip("-")[:100].rstrip("-")


def _cut(text: Value, length: Value) -> str:
    whole, most = text_in(text, "cut"), whole_in(length, "the length of cut", 1, TEXT_MAX)
    if len(whole) <= most:
        return whole
    kept = whole[: most - 1]
    before = kept.rsplit(" ", 1)[0] if " " in kept and not whole[most - 1].isspace() else kept
    return before.rstrip() + "…"


def _part(text: Value, start: Value, end: Value = None) -> str:
    whole = text_in(text, "substring")
    first = whole_in(start, "the start of substring", 0, TEXT_MAX)
    return whole[first:] if end is None else whole[first : whole_in(end, "the end of substring", 0, TEXT_MAX)]


def _pad(text: Value, width: Value, fill: Value = "0") -> str:
    letter = text_in(fill, "pad")
    if len(letter) != 1:
        raise Unfit("pad fills with one character")
    return text_in(text, "pad").rjust(whole_in(width, "the width of pad", 0, 1_000), letter)


def _join(items: Value, separator: Value = "") -> str:
    parts, between = [text_in(item, "join") for item in items_in(items, "join")], text_in(separator, "join")
    if sum(map(len, parts)) + len(between) * max(len(parts) - 1, 0) > TEXT_MAX:
        raise Unfit(f"join would make more than {TEXT_MAX} characters")
    return between.join(parts)


def _before(text: Value, mark: Value) -> str:
    return _around(text, mark, "before")[0]


def _after(text: Value, mark: Value) -> str:
    return _around(text, mark, "after")[2]


def _around(text: Value, mark: Value, what: str) -> tuple[str, str, str]:
    part = text_in(mark, what)
    if not part:
        raise Unfit(f"{what} needs a mark that is not empty")
    return text_in(text, what).partition(part)


def _of(name: str, gives: str, run: object, written: str, says: str, example: str, most: int = 0) -> Builtin:
    wanted = written.count(",") + 1
    assert callable(run)
    return Builtin(wanted, most or wanted, gives, run, f"{name}({written})", says, example, ("string",) * wanted)


TEXT: Mapping[str, Builtin] = {
    "contains": _of(
        "contains",
        "boolean",
        lambda text, part: text_in(part, "contains") in text_in(text, "contains"),
        "text, part",
        "Whether a text holds another.",
        "contains('refund asked', 'refund')",
    ),
    "startsWith": _of(
        "startsWith",
        "boolean",
        lambda text, part: text_in(text, "startsWith").startswith(text_in(part, "startsWith")),
        "text, part",
        "Whether a text begins with another.",
        "startsWith('FR-12', 'FR')",
    ),
    "endsWith": _of(
        "endsWith",
        "boolean",
        lambda text, part: text_in(text, "endsWith").endswith(text_in(part, "endsWith")),
        "text, part",
        "Whether a text ends with another.",
        "endsWith('note.pdf', '.pdf')",
    ),
    "matches": _of(
        "matches",
        "boolean",
        _matches,
        "text, pattern",
        "Whether a regular expression of RE2 is found in a text.",
        "matches('FR-1234', '^FR-[0-9]{4}$')",
    ),
    "find": _of(
        "find",
        "string",
        _find,
        "text, pattern",
        "The first place where a regular expression fits, or an empty text.",
        "find('order FR-1234, thanks', '[A-Z]{2}-[0-9]+')",
    ),
    "find_all": _of(
        "find_all",
        "array",
        _find_all,
        "text, pattern",
        "Every place where a regular expression fits, at most 10,000.",
        "find_all('a1 b22', '[0-9]+')",
    ),
    "replace": _of(
        "replace",
        "string",
        _replace,
        "text, old, new",
        "A text with every occurrence of another replaced.",
        "replace('2026/10/01', '/', '-')",
    ),
    "split": _of(
        "split", "array", _split, "text, separator", "The parts of a text between separators.", "split('a;b;c', ';')"
    ),
    "before": _of(
        "before", "string", _before, "text, mark", "What stands before the first mark.", "before('a@b.fr', '@')"
    ),
    "after": _of(
        "after",
        "string",
        _after,
        "text, mark",
        "What stands after the first mark; empty when there is none.",
        "after('a@b.fr', '@')",
    ),
    "lower": _of(
        "lower", "string", lambda text: text_in(text, "lower").lower(), "text", "In small letters.", "lower('ÉTÉ')"
    ),
    "upper": _of(
        "upper", "string", lambda text: text_in(text, "upper").upper(), "text", "In capitals.", "upper('été')"
    ),
    "capitalize": _of(
        "capitalize",
        "string",
        lambda text: text_in(text, "capitalize")[:1].upper() + text_in(text, "capitalize")[1:],
        "text",
        "With a capital at the beginning, the rest as it is.",
        "capitalize('élise Martin')",
    ),
    "trim": _of(
        "trim", "string", lambda text: text_in(text, "trim").strip(), "text", "Without blanks around it.", "trim(' a ')"
    ),
    "plain": _of(
        "plain", "string", _plain, "text", "Without accents, for comparing what people type.", "plain('Œuvre à Lyon')"
    ),
    "slug": _of(
        "slug",
        "string",
        _slug,
        "text",
        "As a name for files and addresses: small letters, digits, '-', at most 100.",
        "slug('Réponse à M. Noël !')",
    ),
    "cut": Builtin(
        2,
        2,
        "string",
        _cut,
        "cut(text, length)",
        "At most so many characters, cut between words and ended by '…'.",
        "cut('La perceuse est arrivée sans batterie', 20)",
        ("string", "integer"),
    ),
    "substring": Builtin(
        2,
        3,
        "string",
        _part,
        "substring(text, start, end?)",
        "The characters from one place to before another, counted from 0.",
        "substring('FR-1234', 3)",
        ("string", "integer", "integer"),
    ),
    "pad": Builtin(
        2,
        3,
        "string",
        _pad,
        "pad(text, width, fill?)",
        "Filled up on the left to a width, with zeros unless said otherwise.",
        "pad('42', 6)",
        ("string", "integer", "string"),
    ),
    "join": Builtin(
        1,
        2,
        "string",
        _join,
        "join(list, separator?)",
        "The texts of a list as one.",
        "join(['a', 'b'], ', ')",
        ("array", "string"),
    ),
}
