"""OpenAI's image generation over the one road: a description in, an image out, whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from metier.api import answers, relay
from metier.api.exchange import Exchange
from metier.api.parsing import fit, load, refuse_unknown
from metier.calls import JSON, Call, Principal
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
    """Makes images: one for each description."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, exchange: Exchange, principal: Principal) -> None:
        """POST /v1/images/generations: one image, as base64."""
        data = await exchange.body()
        if data is None:
            return
        raw = load(data)
        refuse_unknown(raw, _Body.model_fields, (), _NEUTRAL)
        body = fit(_Body, raw)
        size = "" if body.size == "auto" else body.size or ""
        call = Call(principal, body.model, "image", inputs=(body.prompt,), size=size, end_user=body.user or None)
        answer = await relay.collect(exchange, self._gateway, call)
        await exchange.json(answers.images(answer), answers.receipt_headers(answer.receipt))


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=32_000)]
    size: Annotated[str, StringConstraints(pattern=r"^(auto|\d{2,5}x\d{2,5})$")] | None = None
    response_format: Literal["b64_json"] | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None
