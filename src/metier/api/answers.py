"""How an answer is written for a client of OpenAI's API: whole, as a stream of events, and its headers."""

from __future__ import annotations

import base64
import re
import struct
import time
from typing import Any

import orjson

from metier.api.exchange import Headers
from metier.calls import Answer, Call, Chunk, Kept, Range, Reasoning, ReasoningDelta, Receipt, ToolCallDelta, Usage

__all__ = [
    "ChatStream",
    "chat",
    "embeddings",
    "images",
    "kept_headers",
    "measured",
    "receipt_headers",
    "rerank",
    "transcription",
]

_UNSAFE = re.compile(r"[^\x20-\x7e]")


def chat(call: Call, answer: Answer) -> bytes:
    """Write a whole chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {
                "id": tool.id,
                "type": "function",
                "function": {"name": tool.name, "arguments": tool.arguments},
                **_signed(tool.signature),
            }
            for tool in answer.tool_calls
        ]
    if answer.reasoning:
        message["reasoning_content"] = "\n".join([one.text for one in answer.reasoning if one.text]) or None
        message["thinking_blocks"] = [_block(one) for one in answer.reasoning]
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
    return orjson.dumps({"object": "list", "data": rows, "model": call.model, "usage": _input_usage(answer)})


def rerank(call: Call, answer: Answer, most: int | None, with_documents: bool) -> bytes:
    """Write the documents of a rerank, best first, in the shape that Jina and Cohere share."""
    order = sorted(range(len(answer.scores)), key=lambda index: -answer.scores[index])[:most]
    rows: list[dict[str, Any]] = [{"index": index, "relevance_score": answer.scores[index]} for index in order]
    if with_documents:
        for row in rows:
            row["document"] = {"text": call.inputs[row["index"]]}
    found = {"id": f"rerank-{call.id}", "model": call.model, "results": rows, "usage": _input_usage(answer)}
    return orjson.dumps(found)


def transcription(answer: Answer) -> bytes:
    """Write what was said."""
    usage = answer.usage
    told = {
        "type": "tokens",
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    return orjson.dumps({"text": answer.text, "usage": told | measured(answer.receipt)})


def images(answer: Answer) -> bytes:
    """Write the images made, whole."""
    usage = answer.usage
    told = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens_details": {"text_tokens": usage.input_tokens, "image_tokens": 0},
    }
    data = [{"b64_json": media.data} for media in answer.media]
    return orjson.dumps({"created": int(time.time()), "data": data, "usage": told | measured(answer.receipt)})


def measured(receipt: Receipt | None) -> dict[str, Any]:
    """Give the part of a usage object that tells cost, footprint and what was masked; empty without a receipt."""
    if receipt is None:
        return {}
    impact = receipt.impact
    told = {
        "call_id": receipt.call_id,
        "deployment": receipt.deployment,
        "estimated": receipt.usage.estimated,
        "cost_eur": float(receipt.cost_eur),
        "energy_kwh": None if impact.energy_kwh is None else [impact.energy_kwh.low, impact.energy_kwh.high],
        "carbon_g": None if impact.carbon_g is None else [impact.carbon_g.low, impact.carbon_g.high],
        "impact_method": impact.method,
        **({"route": receipt.route} if receipt.route else {}),
        **_kept(receipt.kept),
        "masked": dict(receipt.masked),
    }
    return {"metier": told}


def _kept(kept: Kept | None) -> dict[str, Any]:
    if kept is None:
        return {}
    if kept.hit is None:
        return {"cache": "miss"}
    return {
        "cache": f"hit-{kept.hit}",
        "age_s": round(kept.age_s),
        "saved_eur": float(kept.saved_eur),
        "saved_kwh": kept.saved_kwh,
    }


def receipt_headers(receipt: Receipt | None) -> Headers:
    """Tell cost, energy, carbon, deployment and what was masked, as far as they are known."""
    if receipt is None:
        return []
    found = [
        (b"x-metier-call-id", receipt.call_id.encode()),
        *([(b"x-metier-deployment", receipt.deployment.encode())] if receipt.deployment else []),
        (b"x-metier-cost-eur", format(receipt.cost_eur, "f").encode()),
        (b"x-metier-impact-method", receipt.impact.method.encode()),
    ]
    if receipt.impact.energy_kwh is not None:
        found.append((b"x-metier-energy-kwh", _range(receipt.impact.energy_kwh)))
    if receipt.impact.carbon_g is not None:
        found.append((b"x-metier-carbon-g", _range(receipt.impact.carbon_g)))
    if receipt.route:
        # A label is whatever somebody trained with: a header takes no line ends and no accents.
        found.append((b"x-metier-route", _UNSAFE.sub("?", receipt.route).encode()))
    if receipt.masked:
        masked = ",".join(f"{kind}={count}" for kind, count in sorted(receipt.masked.items()))
        found.append((b"x-metier-masked", masked.encode()))
    return [*found, *kept_headers(receipt.kept)]


def kept_headers(kept: Kept | None) -> Headers:
    """Tell what was found among kept answers; "off" where none are kept for the call."""
    if kept is None or kept.hit is None:
        return [(b"x-metier-cache", b"off" if kept is None else b"miss")]
    found = [(b"x-metier-cache", b"hit-" + kept.hit.encode()), (b"age", b"%d" % kept.age_s)]
    return [*found, (b"x-metier-saved-eur", format(kept.saved_eur, "f").encode())]


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
        self._thinking: int | None = None
        self._receipt: Receipt | None = None

    def write(self, chunk: Chunk) -> bytes:
        """Write one chunk; empty when it holds nothing a client sees yet."""
        if chunk.receipt is not None:
            self._receipt = chunk.receipt
        plain = chunk.text and not chunk.tool_calls and not chunk.reasoning
        if self._begun and plain and chunk.finish is None:
            return self._open + b'{"content":' + orjson.dumps(chunk.text) + self._text_close
        events = [self._event(self._thought(piece)) for piece in chunk.reasoning]
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
            more = {"index": piece.index, "function": {"arguments": piece.arguments}}
            return {**more, **_signed(piece.signature)}
        self._tools.add(piece.index)
        return {
            "index": piece.index,
            "id": piece.id or f"call_{piece.index}",
            "type": "function",
            "function": {"name": piece.name or "", "arguments": piece.arguments},
            **_signed(piece.signature),
        }

    def _thought(self, piece: ReasoningDelta) -> dict[str, Any]:
        block = {"index": piece.index, **_block(piece)}
        if not piece.text:
            return {"thinking_blocks": [block]}
        # The text of the whole reads as that of an answer that is not streamed.
        parted = self._thinking is not None and self._thinking != piece.index
        self._thinking = piece.index
        return {"reasoning_content": "\n" + piece.text if parted else piece.text, "thinking_blocks": [block]}


def _block(thought: Reasoning | ReasoningDelta) -> dict[str, Any]:
    if thought.sealed:
        return {"type": "redacted_thinking", "data": thought.signature}
    block = {"type": "thinking", "thinking": thought.text}
    return {**block, "signature": thought.signature} if thought.signature else block


def _signed(signature: str) -> dict[str, Any]:
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def _input_usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    told = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}
    return told | measured(answer.receipt)


def _usage(usage: Usage, receipt: Receipt | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_creation_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    return shown | measured(receipt)


def _range(value: Range) -> bytes:
    return f"{value.low:.6g}..{value.high:.6g}".encode()
