"""How people and machines are reached: e-mail, international phone numbers, network addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.normalise import View

__all__ = ["find_contacts"]

_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'éèêëàâîïôöûüçÉÈÀÇ"
_DOMAIN = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?(?:\.[^\W_](?:[\w-]{0,61}[^\W_])?){0,4}\.[^\W\d_]{2,24}(?![^\W_])")
_SPELT = re.compile(
    r"(?<![\w.])[\w.+-]{2,40} ?[\[({] ?(?:at|arobase|@) ?[\])}] ?[\w-]{2,40}(?: ?[\[({]? ?(?:dot|point"
    r"|\.) ?[\])}]? ?[\w-]{2,24}){1,3}",
    re.IGNORECASE,
)
_ABROAD = re.compile(
    r"(?<![\w+])(?:\+ ?|00 ?(?=3[0-9]|4[0-9]|5[0-9]|1[ .\-]|2[1-6]|6[0-9]|7|9[0-9]))[1-9][0-9]{0,2}"
    r"[ .\-/]?(?:\(0\) ?)?(?:\([0-9]{1,4}\) ?)?[0-9](?:[ .\-/]?[0-9]){6,11}(?![0-9A-Za-z_])"
)
_AMERICAN = re.compile(
    r"(?<![\w(])\([0-9]{3}\) ?[0-9]{3}[ .\-][0-9]{4}(?![^\W_])|(?<![\w.\-])[2-9][0-9]{2}-[0-9]{3}-[0-9]{4}(?![\w\-])"
)
_AREA = re.compile(r"[0-9]{3}[-)]")
_IPV4 = re.compile(r"[0-9](?<![\w.].)[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?![\w]|\.[0-9])")
_VERSION = re.compile(r"(?:version|v|ver\.?|build|release|firmware|logiciel|update|m[àa]j|maj)[ .:]*\Z", re.IGNORECASE)
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_MAC = re.compile(r"(?<![\w:\-])[0-9A-Fa-f]{2}(?:([:\-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![\w:\-])")


def find_contacts(view: View) -> Iterator[Found]:
    """Find e-mail addresses, international phone numbers, IP and MAC addresses."""
    text = view.text
    if "@" in text:
        yield from _emails(text)
    if view.mentions("(at)", "[at]", "(arobase", "[arobase", "( at", "[ at", "(@", "[@", "{at"):
        for match in _SPELT.finditer(text):
            yield Found(Kind.EMAIL, match.start(), match.end())
    if _AREA.search(text):
        yield from (Found(Kind.PHONE, m.start(), m.end()) for m in _AMERICAN.finditer(text))
    if "+" in text or "00" in text:
        yield from (Found(Kind.PHONE, m.start(), m.end()) for m in _ABROAD.finditer(text))
    for match in _IPV4.finditer(text) if text.count(".") > 2 else ():
        if _is_address(match[0]) and not view.follows(_VERSION, match.start(), 16):
            yield Found(Kind.IP, match.start(), match.end())
    if text.count(":") > 4 or text.count("-") > 4:
        for match in _MAC.finditer(text):
            yield Found(Kind.MAC, match.start(), match.end())
    if text.count(":") >= 2:
        for match in _IPV6.finditer(text):
            if _is_address(match[0]):
                yield Found(Kind.IP, match.start(), match.end())


def _emails(text: str) -> Iterator[Found]:
    """Grow each "@" to both sides, so that long texts without any stay linear."""
    place = text.find("@")
    while place >= 0:
        before = text[max(0, place - 64) : place]
        local = before[len(before.rstrip(_LOCAL)) :].lstrip(".'-")
        match = _DOMAIN.match(text, place + 1)
        if local and match:
            yield Found(Kind.EMAIL, place - len(local), match.end())
        place = text.find("@", place + 1)


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or (text.count(":") == 2 and len(text) < 5))
