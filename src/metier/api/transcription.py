"""OpenAI's transcriptions over the one road: a sound in, what was said out."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic import Field as Bounds

from metier.api import answers, multipart, relay
from metier.api.exchange import Exchange
from metier.api.parsing import fit, refuse_unknown
from metier.calls import Call, Media, Principal
from metier.errors import Invalid
from metier.gateway import Gateway

__all__ = ["FORM_LIMIT", "Transcriptions"]

FORM_LIMIT: Final = 25 * 1024 * 1024 + 64 * 1024
"""Bytes of a form above which it is refused with 413: a sound of 25 MiB and what stands around it."""

_KINDS: Final[Mapping[str, str]] = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "mpga": "audio/mpeg",
    "mpeg": "audio/mpeg",
    "m4a": "audio/mp4",
    "mp4": "audio/mp4",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "oga": "audio/ogg",
    "opus": "audio/opus",
    "webm": "audio/webm",
}
_NEUTRAL: Final = {"stream": ("false",), "timestamp_granularities[]": ("segment",)}


class Transcriptions:
    """Gives what was said in a sound."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, exchange: Exchange, principal: Principal) -> None:
        """POST /v1/audio/transcriptions: a form with a sound, held in memory and never written to a file."""
        data = await exchange.body(FORM_LIMIT)
        if data is None:
            return
        # A long sound takes its time to cut out and to encode.
        call, plain = await asyncio.to_thread(_asked, data, exchange.content_type(), principal)
        del data
        answer = await relay.collect(exchange, self._gateway, call)
        headers = answers.receipt_headers(answer.receipt)
        if plain:
            await exchange.text(answer.text + "\n", headers)
        else:
            await exchange.json(answers.transcription(answer), headers)


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    language: Annotated[str, StringConstraints(pattern=r"^([a-z]{2,3})?$")] = ""
    prompt: Annotated[str, StringConstraints(max_length=8_000)] = ""
    response_format: Literal["json", "text"] = "json"
    temperature: Annotated[float, Bounds(ge=0, le=1, allow_inf_nan=False)] | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None


def _asked(data: bytes, content_type: bytes, principal: Principal) -> tuple[Call, bool]:
    """Read the form: the call, and whether the answer shall be a plain text."""
    fields = multipart.read(data, content_type)
    sounds = fields.get("file", [])
    if len(sounds) != 1 or not sounds[0].data:
        raise Invalid("file is missing, empty or there twice: send one sound as the field 'file'", param="file")
    values = {name: found[-1].text for name, found in fields.items() if name != "file"}
    refuse_unknown(values, _Body.model_fields, (), _NEUTRAL)
    body = fit(_Body, values)
    call = Call(
        principal,
        body.model,
        "transcribe",
        audio=_sound(sounds[0]),
        query=body.prompt,
        language=body.language,
        temperature=body.temperature,
        end_user=body.user or None,
    )
    return call, body.response_format == "text"


def _sound(field: multipart.Field) -> Media:
    ending = (field.filename or "").rpartition(".")[2].lower()
    media_type = _KINDS.get(ending) or (field.media_type if field.media_type.startswith("audio/") else None)
    if media_type is None:
        raise Invalid(f"file is of no kind that is known: name it with one of {', '.join(_KINDS)}", param="file")
    return Media(media_type, base64.b64encode(field.data).decode())
