"""How many tokens a text has for a model whose tokenizer is not here: a likely figure, and one seldom exceeded."""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from operator import mul

from metier.calls import Call, Media, Part, Text

__all__ = ["FEATURES", "Family", "Shape", "bound", "families", "family_of", "features", "likely", "shape_of", "sound_s"]

FEATURES = (
    "letters", "capitals", "digits", "spaces", "lines", "marks", "accents", "alphabets", "signs",
    "ideographs", "pictures", "unbroken",
)  # fmt: skip
"""What is counted in a text, in the order of the weights: small letters of ASCII, …, letters no space breaks."""

_SMALL, _CAPITALS, _DIGITS = bytes(range(97, 123)), bytes(range(65, 91)), bytes(range(48, 58))
_FOLLOWING = bytes(range(0x80, 0xC0))
_LETTERS_PER_BREAK = 9
"""Words of prose are shorter on average; what goes on longer is a number, a hash or base64."""


def _classes() -> bytes:
    """Map each byte to the letter of what it counts as; UTF-8 says by its first byte what a character is."""
    kinds: tuple[tuple[Iterable[int], bytes], ...] = (
        (range(0x21, 0x7F), b"p"), (_CAPITALS, b"u"), (_DIGITS, b"d"), (range(0x20), b"n"), (b"\x7f", b"n"),
        (b" ", b"s"), (range(0xC0, 0xC6), b"a"), (range(0xC6, 0xE0), b"c"), (range(0xE0, 0xF0), b"k"), (b"\xe2", b"g"),
        (range(0xF0, 0x100), b"e"),
    )  # fmt: skip
    table = bytearray(256)
    for values, kind in kinds:
        for value in values:
            table[value] = kind[0]
    return bytes(table)


_TABLE = _classes()
_DELETED = _SMALL + _FOLLOWING

_EXACTLY, _SLICES = 16_384, 16
"""Characters looked at one by one; of a longer input, so many are taken in slices spread over it."""
_SLICED = 1.1
"""A bound drawn from slices allows for what lies between them."""

_NAMES: tuple[tuple[str, str], ...] = (
    ("claude", r"claude-(instant|v?[123]\b|v2|3)|claude-(opus|sonnet|haiku)-4([-.][0156])?(-latest|-20|@|:|-v|$)"),
    ("claude-new", r"claude"),
    ("gemini", r"gemini|gemma"),
    ("tekken", r"mistral|mixtral|codestral|devstral|magistral|pixtral|voxtral"),
    ("deepseek", r"deepseek"),
    ("qwen", r"qwen|qwq|voyage"),
    ("llama", r"llama"),
    ("smollm", r"smollm"),
    ("cl100k", r"gpt-4(-|$)|gpt-?3\.?5|text-embedding-(3|ada)"),
    ("o200k", r"gpt-|chatgpt|\bo[134](-|$)"),
)
"""Whose tokenizer a model has, by its name; the first that fits."""
_BY_PROVIDER: Mapping[str, str] = {
    "anthropic": "claude-new", "azure": "o200k", "gemini": "gemini", "vertex": "gemini", "mistral": "tekken",
}  # fmt: skip
_UNKNOWN = "other"

_IMAGE, _IMAGE_AT_MOST = 1_000, 3_200
"""An image, and above what public providers bill for one."""
_BYTES_PER_TOKEN_OF_MEDIA = 2
_SOUND_BYTES_PER_S = 8_000
_MESSAGE, _MESSAGE_AT_MOST = 4, 8
_START, _START_AT_MOST = 3, 16
_TOOL, _TOOL_AT_MOST = 8, 16


@dataclass(frozen=True, slots=True)
class Family:
    """A tokenizer as far as it is known here: weights of what is counted in a text."""

    name: str
    source: str
    """The tokenizer the weights were fitted on, and "borrowed" where it is not the family's own."""
    likely: tuple[float, ...]
    bound: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What was counted in the input of a call, so that each family tells its tokens in a microsecond."""

    counts: tuple[int, ...]
    size: int
    """Bytes of all texts: a tokenizer of bytes never makes more tokens of them."""
    more: int = 0
    """Likely tokens of what is not text: media, and the frame around messages and tools."""
    more_at_most: int = 0
    sliced: bool = False
    """True when the input was too long to look at all of it."""

    def likely(self, family: Family) -> int:
        """Give the figure to show and to bill by where the provider tells none."""
        return min(round(_weighed(self.counts, family.likely)), self.size) + self.more

    def bound(self, family: Family) -> int:
        """Give a figure that the real one seldom exceeds, to hold money and quotas by."""
        tokens = _weighed(self.counts, family.bound) * (_SLICED if self.sliced else 1)
        return max(min(int(tokens) + 1, self.size) + self.more_at_most, self.likely(family))


def features(texts: Iterable[str]) -> tuple[tuple[int, ...], int]:
    """Count in each text what tokenizers cut by, in one pass over its bytes; gives the counts and the bytes."""
    small = capitals = digits = spaces = lines = marks = 0
    accents = alphabets = signs = ideographs = pictures = unbroken = size = 0
    for text in texts:
        data = text.encode("utf-8", "replace")
        rest = data.translate(_TABLE, _DELETED)
        count = rest.count
        u, d, s, n, p = count(b"u"), count(b"d"), count(b"s"), count(b"n"), count(b"p")
        a = c = g = k = e = 0
        if len(text) != len(data):
            a, c, g, k, e = count(b"a"), count(b"c"), count(b"g"), count(b"k"), count(b"e")
            accents, alphabets, signs, ideographs, pictures = (
                accents + a, alphabets + c, signs + g, ideographs + k, pictures + e
            )  # fmt: skip
        # What is neither kept nor a following byte of UTF-8 is a small letter.
        letters = len(data) - len(rest) - a - c - 2 * (g + k) - 3 * e
        long = letters + u + d - _LETTERS_PER_BREAK * (s + n + p + g + k + e + 1)
        if long > 0:
            unbroken += long
        size += len(data)
        small, capitals, digits, spaces, lines, marks = (
            small + letters, capitals + u, digits + d, spaces + s, lines + n, marks + p
        )  # fmt: skip
    counted = (small, capitals, digits, spaces, lines, marks)
    return (*counted, accents, alphabets, signs, ideographs, pictures, unbroken), size


def shape_of(call: Call) -> Shape:
    """Count what a call sends: its texts, the frame around them, its tools, its media."""
    texts = [*call.inputs]
    if call.query:
        texts.append(call.query)
    more, most = _START, _START_AT_MOST
    for message in call.messages:
        more, most = more + _MESSAGE, most + _MESSAGE_AT_MOST
        if message.content:
            texts.append(message.content)
        for part in message.parts:
            if isinstance(part, Text):
                texts.append(part.text)
            else:
                likely, at_most = _media(part)
                more, most = more + likely, most + at_most
        for thought in message.reasoning:
            texts += (thought.text, thought.signature)
        for asked in message.tool_calls:
            more, most = more + _TOOL, most + _TOOL_AT_MOST
            texts += (asked.name, asked.arguments)
    for tool in call.tools:
        more, most = more + _TOOL, most + _TOOL_AT_MOST
        texts += (tool.name, tool.description, str(tool.parameters))
    if call.output is not None:
        more, most = more + _TOOL, most + _TOOL_AT_MOST
        texts.append(str(call.output.schema))
    length = sum(map(len, texts))
    if length <= _EXACTLY:
        return Shape(*features(texts), more, most)
    counts, size = features(_slices("\n".join(texts)))
    scale = length / _EXACTLY
    return Shape(tuple(round(count * scale) for count in counts), round(size * scale), more, most, sliced=True)


def _slices(text: str) -> list[str]:
    """Take pieces spread evenly over a long text, its beginning and its end among them."""
    piece = _EXACTLY // _SLICES
    step = (len(text) - piece) / (_SLICES - 1)
    return [text[(at := round(i * step)) : at + piece] for i in range(_SLICES)]


def sound_s(sound: Media) -> float:
    """Tell how long a sound is: a WAV says it itself, another is taken for one of 64 kbit/s, which most are above."""
    size = len(sound.data) * 3 // 4
    per_s: int = _SOUND_BYTES_PER_S
    try:
        head = base64.b64decode(sound.data[:48])
    except ValueError:
        head = b""
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt " and len(head) >= 32:
        per_s = max(per_s, int.from_bytes(head[28:32], "little"))
    return float(round(size / per_s, 1))


def _media(part: Part) -> tuple[int, int]:
    """Images cost by their size in pixels, documents by page, at most about what is said here."""
    if isinstance(part, Text) or part.media_type.startswith("image/"):
        return _IMAGE, _IMAGE_AT_MOST
    most = max(len(part.data) // _BYTES_PER_TOKEN_OF_MEDIA, _IMAGE_AT_MOST)
    return most // 4, most


def _weighed(counts: tuple[int, ...], weights: tuple[float, ...]) -> float:
    total: float = sum(map(mul, counts, weights))
    return total


@cache
def families() -> Mapping[str, Family]:
    """Read the weights shipped with Métier; bench/tokens.py fits them and measures how far they are off."""
    raw = tomllib.loads(resources.files("metier").joinpath("data/token_weights.toml").read_text("utf-8"))
    return {
        name: Family(name, row["source"], tuple(row["likely"]), tuple(row["bound"]))
        for name, row in raw["families"].items()
    }


@lru_cache(4096)
def family_of(provider: str, model_id: str) -> str:
    """Name the family a model cuts text by; one nobody knows is counted as whichever makes the most of a text."""
    name = model_id.lower()
    found = next((family for family, pattern in _NAMES if re.search(pattern, name)), None)
    return found or _BY_PROVIDER.get(provider, _UNKNOWN)


def likely(shape: Shape, names: Iterable[str]) -> int:
    """Give the likely tokens for the family that makes the most of them."""
    known = families()
    return max((shape.likely(known[name]) for name in names), default=0)


def bound(shape: Shape, names: Iterable[str]) -> int:
    """Give the tokens seldom exceeded in any of these families."""
    known = families()
    return max((shape.bound(known[name]) for name in names), default=0)
