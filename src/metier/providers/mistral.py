"""Where Mistral's API differs from OpenAI's: ids of tool calls, prefixes, thoughts, sounds and documents."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from typing import Final

from metier.calls import JSON, Call, Media, Message
from metier.catalog import Deployment
from metier.providers.openai_request import Words, cannot, chat_body, media_part

__all__ = ["MISTRAL", "mistral_body"]

_ID = re.compile(r"[A-Za-z0-9]{9}")
_ID_LENGTH: Final = 9


def _part(media: Media, deployment: Deployment) -> dict[str, JSON]:
    """Write a media the way Mistral reads it: sounds without their kind, documents by a data: URL."""
    kind = media.media_type.partition("/")[0]
    if kind == "image":
        return media_part(replace(media, detail=""), deployment)
    if kind == "audio":
        return {"type": "input_audio", "input_audio": media.data}
    if kind == "video":
        what = f"media of type {media.media_type!r}"
        raise cannot(deployment, what, "messages", "send an image, a sound or a document")
    part: dict[str, JSON] = {"type": "document_url", "document_url": f"data:{media.media_type};base64,{media.data}"}
    if media.name:
        part["document_name"] = media.name
    return part


MISTRAL: Final = Words(
    seed="random_seed",
    dimensions="output_dimension",
    asks_usage=False,
    top_k=False,
    thoughts=False,
    rerank=False,
    images=False,
    hints=False,
    media=_part,
)
"""Mistral's own API; it refuses parameters it does not know."""


def mistral_body(call: Call, deployment: Deployment) -> dict[str, JSON]:
    """Write the request for a chat completion by Mistral."""
    messages = tuple(_known(message, deployment) for message in call.messages)
    body = chat_body(replace(call, messages=messages), deployment, MISTRAL)
    written = body["messages"]
    assert isinstance(written, list)
    for message, one in zip(messages, written, strict=True):
        if isinstance(one, dict) and message.role == "assistant":
            _remember(message, one)
    last = written[-1] if written else None
    if isinstance(last, dict) and last["role"] == "assistant" and not messages[-1].tool_calls:
        last["prefix"] = True
    return body


def _known(message: Message, deployment: Deployment) -> Message:
    """Give tool calls of other providers ids that Mistral takes, the same ones each time."""
    if message.name is not None and message.role != "tool":
        raise cannot(deployment, "the name of who speaks", "messages", "leave `name` out, or say it in the text")
    if message.tool_calls:
        return replace(
            message, tool_calls=tuple(replace(asked, id=_identifier(asked.id)) for asked in message.tool_calls)
        )
    if message.tool_call_id is not None:
        return replace(message, tool_call_id=_identifier(message.tool_call_id))
    return message


def _identifier(id: str) -> str:
    if _ID.fullmatch(id):
        return id
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()
    return base64.b32encode(digest).decode()[:_ID_LENGTH]


def _remember(message: Message, written: dict[str, JSON]) -> None:
    """Put the thoughts of a turn before its text, as the chunks Mistral itself sends."""
    thoughts: list[JSON] = [
        {"type": "thinking", "thinking": [{"type": "text", "text": thought.text}]}
        for thought in message.reasoning
        if thought.text
    ]
    if thoughts:
        said: list[JSON] = [{"type": "text", "text": message.text}] if message.text else []
        written["content"] = thoughts + said
