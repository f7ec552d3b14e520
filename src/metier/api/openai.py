"""OpenAI's API over the one road: chat completions, embeddings and the list of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from metier.api import answers, chat_body, relay
from metier.api.exchange import Exchange
from metier.api.parsing import fit, load, refuse_unknown
from metier.calls import Call, ConversationId, Principal, Purpose
from metier.catalog import Catalog, Model
from metier.errors import Invalid, NotFound
from metier.gateway import Gateway

__all__ = ["ChatCompletions", "Embeddings", "Models", "embedding_call"]

_MOST_INPUTS = 2048
_PURPOSES: Final[Mapping[str, Purpose]] = {
    "query": "query", "search_query": "query", "passage": "passage", "search_document": "passage",
}  # fmt: skip
"""What a client says a text is for, in the words of E5 and of Cohere."""


class ChatCompletions:
    """Answers conversations in OpenAI's words."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, exchange: Exchange, principal: Principal) -> None:
        """POST /v1/chat/completions, whole or streamed."""
        data = await exchange.body()
        if data is None:
            return
        asked = chat_body.parse(data, principal, exchange.conversation())
        call = exchange.wanting(asked.call)
        if asked.stream:
            events = answers.ChatStream(call, asked.include_usage)
            await relay.stream(exchange, self._gateway, call, events)
            await exchange.close_stream(events.end())
        else:
            answer = await relay.collect(exchange, self._gateway, call)
            await exchange.json(answers.chat(call, answer), answers.receipt_headers(answer.receipt))


class Embeddings:
    """Turns texts into vectors."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, exchange: Exchange, principal: Principal) -> None:
        """POST /v1/embeddings, as numbers or base64."""
        data = await exchange.body()
        if data is None:
            return
        call, as_base64 = embedding_call(data, principal, exchange.conversation())
        answer = await relay.collect(exchange, self._gateway, call)
        written = answers.embeddings(call, answer, as_base64)
        await exchange.json(written, answers.receipt_headers(answer.receipt))


def embedding_call(data: bytes, principal: Principal, conversation: ConversationId | None) -> tuple[Call, bool]:
    """Read the body of an embeddings request: the call, and whether its vectors shall be base64."""
    body = _embedding_body(data)
    texts = (body.input,) if isinstance(body.input, str) else tuple(body.input)
    if not texts or len(texts) > _MOST_INPUTS or not all(texts):
        raise Invalid(f"input takes 1 to {_MOST_INPUTS} texts, none of them empty", param="input")
    call = Call(
        principal,
        body.model,
        "embed",
        inputs=texts,
        dimensions=body.dimensions,
        purpose=None if body.input_type is None else _PURPOSES[body.input_type],
        end_user=body.user or None,
        conversation=conversation,
    )
    return call, body.encoding_format == "base64"


class Models:
    """Lists the models of the catalogue."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog

    async def answer(self, exchange: Exchange, principal: Principal) -> None:
        """GET /v1/models and /v1/models/{name}: what the key may use."""
        allowed = principal.models
        catalog = self._catalog()
        every = (*catalog.models(), *catalog.by_provider())
        models = [m for m in every if allowed is None or m.name in allowed]
        name = exchange.path.partition("/v1/models/")[2]
        if not name:
            await exchange.json(orjson.dumps({"object": "list", "data": [_card(model) for model in models]}))
            return
        for model in models:
            if model.name == name:
                await exchange.json(orjson.dumps(_card(model)))
                return
        raise NotFound(f"there is no model {name[:120]!r} for this key: GET /v1/models lists them", param="model")


class _EmbeddingBody(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(gt=0, le=65_536)] | None = None
    input_type: Literal["query", "passage", "search_query", "search_document"] | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None


def _embedding_body(data: bytes) -> _EmbeddingBody:
    raw = load(data)
    refuse_unknown(raw, _EmbeddingBody.model_fields, (), {})
    given = raw.get("input")
    if isinstance(given, list) and any(isinstance(item, int | list) for item in given):
        raise Invalid("input holds token numbers: send texts, each model has its own tokens", param="input")
    return fit(_EmbeddingBody, raw)


def _card(model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "metier",
        "metier": {
            "operation": model.operation,
            "description": model.description,
            "licence": model.licence,
            "hosting": sorted({deployment.hosting for deployment in model.deployments}),
            "countries": sorted({deployment.country for deployment in model.deployments if deployment.country}),
            "strengths": model.strengths,
            "context_tokens": max((d.context_tokens for d in model.deployments if d.window_known), default=None),
            "ends": [
                {"deployment": d.id, "ends_on": d.ends_on, "replaced_by": d.replaced_by}
                for d in model.deployments
                if d.ends_on is not None
            ],
        },
    }
