"""The parts of a message that came as a list: texts, images, sounds and files, each carried whole."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

from metier.calls import Media, Part, Text
from metier.errors import Invalid

__all__ = ["cache_mark", "joined", "parts_of"]

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+=\"-]+)*;base64,", re.ASCII)
_SOUNDS: Final[Mapping[str, str]] = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/opus",
    "m4a": "audio/mp4",
    "webm": "audio/webm",
}
_KINDS = "'text', 'image_url', 'input_audio' or 'file'"


def parts_of(parts: list[dict[str, Any]], where: str) -> tuple[Part, ...]:
    """Read the parts of a content, or say which of them does not fit and what would."""
    if not parts:
        raise Invalid(f"{where} is an empty list: give a text", param=where)
    return tuple([_part(part, f"{where}[{index}]") for index, part in enumerate(parts)])


def joined(parts: tuple[Part, ...]) -> str | None:
    """Give parts that are texts without marks as one text; None where that would lose something."""
    if all(isinstance(part, Text) and not part.cache for part in parts):
        return "\n".join([part.text for part in parts if isinstance(part, Text)])
    return None


def cache_mark(mark: Any, where: str) -> bool:
    """Read a cache_control: a mark that asks for the usual cache, or nothing."""
    if mark is None:
        return False
    if not isinstance(mark, dict) or mark.get("type") != "ephemeral" or mark.get("ttl") not in (None, "5m"):
        raise Invalid(f"{where} is only taken as {{'type': 'ephemeral'}}: change it or leave it out", param=where)
    return True


def _part(part: dict[str, Any], where: str) -> Part:
    kind = part.get("type")
    cache = cache_mark(part.get("cache_control"), f"{where}.cache_control")
    if kind == "text":
        return Text(_string(part, "text", where), cache)
    if kind == "refusal":
        return Text(_string(part, "refusal", where), cache)
    if kind == "image_url":
        return _image(part, where, cache)
    if kind == "input_audio":
        return _sound(part, where, cache)
    if kind == "file":
        return _file(part, where, cache)
    param = f"{where}.type"
    raise Invalid(f"{where} is of type {str(kind)[:40]!r}: use {_KINDS}", param=param)


def _image(part: Mapping[str, Any], where: str, cache: bool) -> Media:
    given = part.get("image_url")
    fields = {"url": given} if isinstance(given, str) else given
    if not isinstance(fields, dict):
        raise Invalid(f"{where} has no image: put {{'url': 'data:image/…;base64,…'}} in 'image_url'", param=where)
    where = f"{where}.image_url"
    detail = fields.get("detail") or ""
    if detail not in ("", "low", "high", "auto"):
        raise Invalid(f"{where}.detail is {str(detail)[:20]!r}: use 'low', 'high' or 'auto'", param=f"{where}.detail")
    media_type, data = _data_url(_string(fields, "url", where), f"{where}.url")
    if not media_type.startswith("image/"):
        raise Invalid(f"{where}.url holds {media_type!r}: send an image, or another part", param=f"{where}.url")
    return Media(media_type, data, cache=cache, detail=detail)


def _sound(part: Mapping[str, Any], where: str, cache: bool) -> Media:
    fields = part.get("input_audio")
    if not isinstance(fields, dict):
        raise Invalid(f"{where} has no sound: put {{'data', 'format'}} in 'input_audio'", param=where)
    where = f"{where}.input_audio"
    name = _string(fields, "format", where)
    if name not in _SOUNDS:
        raise Invalid(f"{where}.format is {name[:20]!r}: use {', '.join(_SOUNDS)}", param=f"{where}.format")
    data = _string(fields, "data", where)
    return Media(_SOUNDS[name], _base64(data, f"{where}.data"), cache=cache)


def _file(part: Mapping[str, Any], where: str, cache: bool) -> Media:
    fields = part.get("file")
    if not isinstance(fields, dict) or not fields.get("file_data"):
        raise Invalid(f"{where} has no file: send it whole, as base64, in 'file.file_data'", param=f"{where}.file")
    where = f"{where}.file"
    name = fields.get("filename")
    if name is not None and not isinstance(name, str):
        raise Invalid(f"{where}.filename is no string: send a string, or leave it out", param=f"{where}.filename")
    data = _string(fields, "file_data", where)
    if data.startswith("data:") or "://" in data[:12]:
        media_type, data = _data_url(data, f"{where}.file_data")
        return Media(media_type, data, name=name or "", cache=cache)
    if not (name or "").lower().endswith(".pdf"):
        text = f"{where}.file_data does not say what it is: send it as data:application/pdf;base64,…"
        raise Invalid(text, param=f"{where}.file_data")
    return Media("application/pdf", _base64(data, f"{where}.file_data"), name=name or "", cache=cache)


def _data_url(url: str, where: str) -> tuple[str, str]:
    head = _DATA_URL.match(url[:200])
    if head is None:
        raise Invalid(
            f"{where} is {url[:40]!r}: Métier fetches no address a client names; send the bytes themselves as a "
            "data: URL, data:TYPE;base64,…",
            param=where,
        )
    return head[1].lower(), _base64(url[head.end() :], where)


def _base64(data: str, where: str) -> str:
    try:
        if base64.b64decode(data, validate=True):
            return data
    except ValueError:
        pass
    raise Invalid(f"{where} is no base64, or empty: encode the bytes without line ends", param=where)


def _string(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise Invalid(f"{where} has no {name}: put a string in {name!r}", param=f"{where}.{name}")
    return value
