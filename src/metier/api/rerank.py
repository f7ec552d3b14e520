"""Rerank over the one road, in the shape that Jina, Cohere and vLLM share: documents in, their order out."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from metier.api import answers, relay
from metier.api.exchange import Exchange
from metier.api.parsing import fit, load, refuse_unknown
from metier.calls import Call, Principal
from metier.errors import Invalid
from metier.gateway import Gateway

__all__ = ["Rerank"]

_MOST_DOCUMENTS: Final = 2048


class Rerank:
    """Compares documents with a query."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, exchange: Exchange, principal: Principal) -> None:
        """POST /v1/rerank: documents in the order of how well they fit a query."""
        data = await exchange.body()
        if data is None:
            return
        raw = load(data)
        refuse_unknown(raw, _Body.model_fields, (), {})
        body = fit(_Body, raw)
        documents = tuple(_text(document, index) for index, document in enumerate(body.documents))
        call = Call(principal, body.model, "rerank", inputs=documents, query=body.query, end_user=body.user or None)
        answer = await relay.collect(exchange, self._gateway, call)
        written = answers.rerank(call, answer, body.top_n, bool(body.return_documents))
        await exchange.json(written, answers.receipt_headers(answer.receipt))


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    query: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
    documents: Annotated[list[str | dict[str, Any]], Field(min_length=1, max_length=_MOST_DOCUMENTS)]
    top_n: Annotated[int, Field(gt=0)] | None = None
    return_documents: bool | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None


def _text(document: str | dict[str, Any], index: int) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str) or not text:
        param = f"documents[{index}]"
        raise Invalid(f"{param} has no text: send a string, or an object with 'text'", param=param)
    return text
