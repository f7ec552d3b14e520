"""How an answer is written for a client of OpenAI's API: whole, as a stream of events, and its headers."""

from __future__ import annotations

import base64
import struct
import time
from typing import Any

import orjson

from metier.api.exchange import Headers
from metier.calls import Answer, Call, Chunk, Range, Receipt, ToolCallDelta, Usage

__all__ = ["ChatStream", "chat", "embeddings", "receipt_headers"]


def chat(call: Call, answer: Answer) -> bytes:
    """Write a whole chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}
            for tool in answer.tool_calls
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
    return orjson.dumps(
        {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": call.model,
            "choices": [choice],
            "usage": _usage(answer.usage, answer.receipt),
        }
    )


def embeddings(call: Call, answer: Answer, as_base64: bool) -> bytes:
    """Write the vectors of an embeddings request, as numbers or as base64 of little-endian float32."""
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if as_base64 else vector,
        }
        for index, vector in enumerate(answer.vectors)
    ]
    usage = _usage(answer.usage, answer.receipt)
    del usage["completion_tokens"], usage["prompt_tokens_details"]
    return orjson.dumps({"object": "list", "data": rows, "model": call.model, "usage": usage})


def receipt_headers(receipt: Receipt | None) -> Headers:
    """Tell cost, energy, carbon, deployment and what was masked, as far as they are known."""
    if receipt is None:
        return []
    found = [
        (b"x-metier-call-id", receipt.call_id.encode()),
        (b"x-metier-deployment", receipt.deployment.encode()),
        (b"x-metier-cost-eur", format(receipt.cost_eur, "f").encode()),
        (b"x-metier-impact-method", receipt.impact.method.encode()),
    ]
    if receipt.impact.energy_kwh is not None:
        found.append((b"x-metier-energy-kwh", _range(receipt.impact.energy_kwh)))
    if receipt.impact.carbon_g is not None:
        found.append((b"x-metier-carbon-g", _range(receipt.impact.carbon_g)))
    if receipt.masked:
        masked = ",".join(f"{kind}={count}" for kind, count in sorted(receipt.masked.items()))
        found.append((b"x-metier-masked", masked.encode()))
    return found


class ChatStream:
    """Writes the chunks of one answer as OpenAI's events, and remembers what the end of the stream needs."""

    def __init__(self, call: Call, include_usage: bool) -> None:
        head = {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": call.model,
        }
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._open = self._head + b'{"index":0,"delta":'
        self._close = b"]}\n\n" if not include_usage else b'],"usage":null}\n\n'
        self._text_close = b'},"finish_reason":null}' + self._close
        self._include_usage = include_usage
        self._begun = False
        self._finished = False
        self._tools: set[int] = set()
        self._receipt: Receipt | None = None

    def write(self, chunk: Chunk) -> bytes:
        """Write one chunk; empty when it holds nothing a client sees yet."""
        if chunk.receipt is not None:
            self._receipt = chunk.receipt
        if self._begun and chunk.text and not chunk.tool_calls and chunk.finish is None:
            return self._open + b'{"content":' + orjson.dumps(chunk.text) + self._text_close
        events: list[bytes] = []
        if chunk.text:
            events.append(self._event({"content": chunk.text}))
        events.extend(self._event({"tool_calls": [self._tool(piece)]}) for piece in chunk.tool_calls)
        if chunk.finish is not None:
            self._finished = True
            events.append(self._event({}, chunk.finish))
        return b"".join(events)

    def end(self) -> bytes:
        """Write what closes a stream that went well: a finish if none came, the usage if asked, [DONE]."""
        events = [] if self._finished else [self._event({}, "stop")]
        if self._include_usage and self._receipt is not None:
            usage = orjson.dumps(_usage(self._receipt.usage, self._receipt))
            events.append(self._head + b'],"usage":' + usage + b"}\n\n")
        events.append(b"data: [DONE]\n\n")
        return b"".join(events)

    def _event(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        if not self._begun:
            self._begun = True
            delta = {"role": "assistant", "content": "", **delta}
        ending = b',"finish_reason":' + orjson.dumps(finish) + b"}"
        return self._open + orjson.dumps(delta) + ending + self._close

    def _tool(self, piece: ToolCallDelta) -> dict[str, Any]:
        if piece.index in self._tools:
            return {"index": piece.index, "function": {"arguments": piece.arguments}}
        self._tools.add(piece.index)
        return {
            "index": piece.index,
            "id": piece.id or f"call_{piece.index}",
            "type": "function",
            "function": {"name": piece.name or "", "arguments": piece.arguments},
        }


def _usage(usage: Usage, receipt: Receipt | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    if receipt is not None:
        impact = receipt.impact
        shown["metier"] = {
            "call_id": receipt.call_id,
            "deployment": receipt.deployment,
            "estimated": usage.estimated,
            "cost_eur": float(receipt.cost_eur),
            "energy_kwh": None if impact.energy_kwh is None else [impact.energy_kwh.low, impact.energy_kwh.high],
            "carbon_g": None if impact.carbon_g is None else [impact.carbon_g.low, impact.carbon_g.high],
            "impact_method": impact.method,
            "masked": dict(receipt.masked),
        }
    return shown


def _range(value: Range) -> bytes:
    return f"{value.low:.6g}..{value.high:.6g}".encode()
