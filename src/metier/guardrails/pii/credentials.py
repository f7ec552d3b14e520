"""Secrets that have no business in a prompt: private keys, tokens, API keys, passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.normalise import View

__all__ = ["find_credentials"]

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_PEM_REACH = 16_384
_TOKEN = re.compile(
    r"(?<![\w\-])(?:"
    r"eyJ[\w\-]{8,2000}\.[\w\-]{8,4000}(?:\.[\w\-]{0,2000})?"
    r"|sk-[\w\-]{20,200}|[sr]k_(?:live|test)_\w{16,200}|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}"
    r"|gh[pousr]_\w{30,255}|github_pat_\w{22,255}|glpat-[\w\-]{20,64}|xox[abeprs]-[\w\-]{10,250}"
    r"|AIza[\w\-]{35}|hf_[A-Za-z0-9]{30,64}|npm_[A-Za-z0-9]{36}|pypi-[\w\-]{50,255}|SG\.[\w\-]{16,64}\.[\w\-]{16,64}"
    r"|dop_v1_[0-9a-f]{64}|whsec_[\w+/=]{20,100}|AGE-SECRET-KEY-1[0-9A-Z]{58}"
    r")(?![\w\-])"
)
_NAMED = re.compile(
    r"(?<![^\W_])(?:mots? de passe|mdp|password|passwd|passphrase|pwd|code secret|code pin|pin code|cl[ée] api"
    r"|api[ _-]?key"
    r"|api[ _-]?secret|client[ _-]?secret|access[ _-]?token|auth[ _-]?token|secret[ _-]?key|private[ _-]?key|bearer)"
    r"(?: (?-i:[a-zé]{2,12})(?=[ :=])){0,2} ?(?:[:=]|est|is|:=|\bbearer\b)? {0,3}[\"'`«]? ?([^\s\"'`«»<>,;(]{4,200})",
    re.IGNORECASE,
)
_LOGIN_IN_URL = re.compile(r"://[^\s/:@]{1,64}:([^\s/@]{3,128})@")
_STEMS = ("passe", "mdp", "pass", "pwd", "code", "pin", "api", "secret", "token", "private", "bearer")
_MIXED = re.compile(r"(?=[^\s]*[0-9])(?=[^\s]*[^\W\d_])|(?=[^\s]*[!$%^&*#@?_+=])|[0-9]{4,12}\Z")


def find_credentials(view: View) -> Iterator[Found]:
    """Find private keys, tokens with a known prefix, and what follows "password:" and its like."""
    text = view.text
    if "-----BEGIN" in text:
        yield from _private_keys(text)
    for match in _TOKEN.finditer(text):
        yield Found(Kind.SECRET, match.start(), match.end())
    for match in _NAMED.finditer(text) if view.mentions(*_STEMS) else ():
        value = match[1].rstrip(".?)")
        if len(value) >= 4 and _MIXED.match(value):
            yield Found(Kind.SECRET, match.start(1), match.start(1) + len(value))
    if "://" in text:
        for match in _LOGIN_IN_URL.finditer(text):
            yield Found(Kind.SECRET, match.start(1), match.end(1))


def _private_keys(text: str) -> Iterator[Found]:
    place = 0
    while begin := _PEM.search(text, place):
        end = _PEM_END.search(text, begin.end(), begin.end() + _PEM_REACH)
        place = end.end() if end else min(len(text), begin.end() + _PEM_REACH)
        yield Found(Kind.SECRET, begin.start(), place)
