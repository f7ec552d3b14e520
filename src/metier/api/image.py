"""OpenAI's image generation over the one road: a description in, an image out, whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.types import Receive, Scope, Send

from metier.api import answers
from metier.api.exchange import Exchange
from metier.api.openai import Keys
from metier.api.parsing import fit, load, refuse_unknown
from metier.api.surface import limit_headers
from metier.calls import JSON, Call
from metier.gateway import Gateway

__all__ = ["Images"]

_NEUTRAL: Final[Mapping[str, tuple[JSON, ...]]] = {
    "n": (1,),
    "quality": ("auto",),
    "background": ("auto",),
    "moderation": ("auto",),
    "stream": (False,),
    "partial_images": (0,),
}


class Images:
    """POST /v1/images/generations: one image, as base64."""

    def __init__(self, gateway: Gateway, keys: Keys) -> None:
        self._gateway = gateway
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await Exchange(scope, receive, send).run(self._handle)

    async def _handle(self, exchange: Exchange) -> None:
        principal = await self._keys.authenticate(exchange.secret())
        data = await exchange.body()
        if data is None:
            return
        raw = load(data)
        refuse_unknown(raw, _Body.model_fields, (), _NEUTRAL)
        body = fit(_Body, raw)
        size = "" if body.size == "auto" else body.size or ""
        call = Call(principal, body.model, "image", inputs=(body.prompt,), size=size, end_user=body.user or None)
        exchange.name(call.id, lambda: limit_headers(self._gateway, call))
        async with exchange.presence():
            answer = await self._gateway.collect(call)
        await exchange.json(answers.images(answer), answers.receipt_headers(answer.receipt))


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=32_000)]
    size: Annotated[str, StringConstraints(pattern=r"^(auto|\d{2,5}x\d{2,5})$")] | None = None
    response_format: Literal["b64_json"] | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None
