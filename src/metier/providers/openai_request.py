"""What a server of OpenAI's API is asked: the words each kind of server knows, and the bodies of requests."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp

from metier.calls import JSON, Call, Media, Message, Text, ToolCall
from metier.catalog import Deployment
from metier.errors import Invalid
from metier.providers.base import texts_of

__all__ = [
    "OPENAI",
    "Words",
    "cannot",
    "chat_body",
    "embed_body",
    "image_body",
    "media_part",
    "rerank_body",
    "transcription_form",
    "words_of",
]

_SOUNDS: Final[Mapping[str, str]] = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/mp4": "m4a",
    "audio/x-m4a": "m4a",
}
_EVERY_SOUND = ("wav", "mp3")
_IMAGE_NAMES = ("gpt-image", "chatgpt-image")
_LOW_TOKENS, _MEDIUM_TOKENS = 4_096, 16_384


def media_part(media: Media, deployment: Deployment) -> dict[str, JSON]:
    """Write a media as the part that most servers know: image_url, input_audio, video_url or file."""
    kind = media.media_type.partition("/")[0]
    address = f"data:{media.media_type};base64,{media.data}"
    if kind == "image":
        image: dict[str, JSON] = {"url": address}
        if media.detail:
            image["detail"] = media.detail
        return {"type": "image_url", "image_url": image}
    if kind == "audio":
        sound: dict[str, JSON] = {"data": media.data, "format": _sound(media)}
        return {"type": "input_audio", "input_audio": sound}
    if kind == "video":
        return {"type": "video_url", "video_url": {"url": address}}
    return {"type": "file", "file": {"filename": media.name or "document.pdf", "file_data": address}}


def _openai_part(media: Media, deployment: Deployment) -> dict[str, JSON]:
    """Write a media for OpenAI itself, which takes images, two kinds of sound and PDF."""
    kind = media.media_type.partition("/")[0]
    known = (
        kind == "image" or (kind == "audio" and _sound(media) in _EVERY_SOUND) or media.media_type == "application/pdf"
    )
    if not known:
        raise cannot(deployment, f"media of type {media.media_type!r}", "messages", "send an image, wav, mp3 or PDF")
    return media_part(media, deployment)


def _sound(media: Media) -> str:
    return _SOUNDS.get(media.media_type, media.media_type.partition("/")[2])


@dataclass(frozen=True, slots=True)
class Words:
    """What one kind of server calls things, and what it cannot take."""

    limit: str = "max_tokens"
    """Name of the bound of the output."""
    seed: str = "seed"
    dimensions: str = "dimensions"
    asks_usage: bool = True
    """Takes stream_options; without them it tells its usage anyway."""
    top_k: bool = True
    thoughts: bool = True
    """Takes the thoughts of former turns back as reasoning_content."""
    signatures: bool = False
    """Wants the signature of a tool call back, the way Google's own OpenAI address writes it."""
    cache_marks: bool = False
    """Takes cache_control on parts, for models that have explicit caches."""
    cache_key: Literal["", "body", "header"] = ""
    """Where it reads which calls share a prefix: prompt_cache_key, or a header of its own."""
    rerank: bool = True
    echoes: bool = True
    """Sends the documents of a rerank back unless told not to."""
    images: bool = True
    hints: bool = True
    """Takes a hint of what is said in a sound to transcribe."""
    media: Callable[[Media, Deployment], dict[str, JSON]] = media_part


OPENAI: Final = Words(
    limit="max_completion_tokens",
    top_k=False,
    thoughts=False,
    cache_key="body",
    rerank=False,
    media=_openai_part,
)
"""OpenAI itself, and Azure OpenAI."""

_PLAIN: Final = Words()
_HOSTS: Final[Mapping[str, Words]] = {
    "api.openai.com": OPENAI,
    "api.x.ai": Words(top_k=False, thoughts=False, cache_key="header", rerank=False),
    "api.deepseek.com": Words(top_k=False, rerank=False, images=False),
    "api.groq.com": Words(top_k=False, thoughts=False, rerank=False, images=False),
    "api.cohere.com": Words(echoes=False),
    "openrouter.ai": Words(cache_marks=True),
    "generativelanguage.googleapis.com": Words(top_k=False, thoughts=False, signatures=True, rerank=False),
}


def words_of(deployment: Deployment) -> Words:
    """Tell what the server behind a deployment calls things, by its host."""
    host = urlsplit(deployment.base_url or "").hostname or ""
    if host.endswith(".openai.azure.com"):
        return OPENAI
    return _HOSTS.get(host, _PLAIN)


def cannot(deployment: Deployment, what: str, param: str, instead: str) -> Invalid:
    """Say that a deployment cannot take something, and what to do instead."""
    return Invalid(f"deployment {deployment.id!r} cannot take {what}: {instead}", param=param)


def chat_body(call: Call, deployment: Deployment, words: Words | None = None) -> dict[str, JSON]:
    """Write the request for a chat completion, streamed unless it is short, never above the deployment's limit."""
    words = words or words_of(deployment)
    limit = deployment.max_output_tokens
    asked = call.max_output_tokens
    body: dict[str, JSON] = {
        "model": deployment.model_id,
        "messages": [_message(message, deployment, words) for message in call.messages],
        words.limit: limit if asked is None else min(asked, limit),
    }
    body["stream"] = not call.at_once
    if words.asks_usage and not call.at_once:
        body["stream_options"] = {"include_usage": True}
    if call.temperature is not None:
        body["temperature"] = call.temperature
    if call.top_p is not None:
        body["top_p"] = call.top_p
    if call.stop:
        body["stop"] = list(call.stop)
    if call.seed is not None:
        body[words.seed] = call.seed
    if call.top_k is not None:
        if not words.top_k:
            raise cannot(deployment, "top_k", "top_k", "leave it out, or choose another model")
        body["top_k"] = call.top_k
    if call.frequency_penalty is not None:
        body["frequency_penalty"] = call.frequency_penalty
    if call.presence_penalty is not None:
        body["presence_penalty"] = call.presence_penalty
    if call.effort is not None:
        body["reasoning_effort"] = call.effort
    elif call.thinking_tokens is not None:
        body["reasoning_effort"] = _effort(call.thinking_tokens)
    if call.tools:
        _offer(call, body, words)
    if call.output is not None:
        body["response_format"] = _format(call)
    return body


def _effort(tokens: int) -> str:
    """Say in OpenAI's words what other providers count in tokens."""
    if tokens == 0:
        return "none"
    return "low" if tokens <= _LOW_TOKENS else "medium" if tokens <= _MEDIUM_TOKENS else "high"


def _offer(call: Call, body: dict[str, JSON], words: Words) -> None:
    offered: list[JSON] = []
    for tool in call.tools:
        function: dict[str, JSON] = {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        }
        if tool.strict:
            function["strict"] = True
        written: dict[str, JSON] = {"type": "function", "function": function}
        if tool.cache and words.cache_marks:
            written["cache_control"] = {"type": "ephemeral"}
        offered.append(written)
    body["tools"] = offered
    if call.tool_choice in ("auto", "none", "required"):
        body["tool_choice"] = call.tool_choice
    elif call.tool_choice is not None:
        body["tool_choice"] = {"type": "function", "function": {"name": call.tool_choice}}
    if call.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = call.parallel_tool_calls


def _format(call: Call) -> dict[str, JSON]:
    output = call.output
    if output is None or not output.schema:
        return {"type": "json_object"}
    schema: dict[str, JSON] = {"name": output.name, "schema": dict(output.schema), "strict": output.strict}
    return {"type": "json_schema", "json_schema": schema}


def _message(message: Message, deployment: Deployment, words: Words) -> dict[str, JSON]:
    body: dict[str, JSON] = {"role": message.role, "content": message.content}
    if message.parts or message.cache:
        body["content"] = _content(message, deployment, words)
    if message.tool_calls:
        body["content"] = body["content"] or None
        body["tool_calls"] = [_tool_call(call, words) for call in message.tool_calls]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        body["name"] = message.name
    if message.reasoning and words.thoughts:
        thought = "\n".join(one.text for one in message.reasoning if one.text)
        if thought:
            body["reasoning_content"] = thought
    return body


def _content(message: Message, deployment: Deployment, words: Words) -> JSON:
    parts = message.parts or (Text(message.content),)
    marked = words.cache_marks and (message.cache or any(part.cache for part in parts))
    if not marked and all(isinstance(part, Text) for part in parts):
        return message.text
    written: list[JSON] = []
    for index, part in enumerate(parts):
        if isinstance(part, Text):
            piece: dict[str, JSON] = {"type": "text", "text": part.text}
        elif message.role == "user":
            piece = words.media(part, deployment)
        else:
            what = f"media of type {part.media_type!r} in a message of role {message.role!r}"
            raise cannot(deployment, what, "messages", "put it into a message of role 'user'")
        if marked and (part.cache or (message.cache and index == len(parts) - 1)):
            piece["cache_control"] = {"type": "ephemeral"}
        written.append(piece)
    return written


def _tool_call(call: ToolCall, words: Words) -> dict[str, JSON]:
    written: dict[str, JSON] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    if call.signature and words.signatures:
        written["extra_content"] = {"google": {"thought_signature": call.signature}}
    return written


def embed_body(call: Call, deployment: Deployment, words: Words | None = None) -> dict[str, JSON]:
    """Write the request for embeddings."""
    words = words or words_of(deployment)
    body: dict[str, JSON] = {
        "model": deployment.model_id,
        "input": list(texts_of(call, deployment.model_id)),
        "encoding_format": "float",
    }
    if call.dimensions is not None:
        body[words.dimensions] = call.dimensions
    return body


def rerank_body(
    call: Call, deployment: Deployment, words: Words | None = None, *, texts: bool = False
) -> dict[str, JSON]:
    """Write the request for a rerank; `texts` is for servers that call the documents so."""
    words = words or words_of(deployment)
    documents: list[JSON] = list(call.inputs)
    if texts:
        return {"model": deployment.model_id, "query": call.query, "texts": documents}
    body: dict[str, JSON] = {"model": deployment.model_id, "query": call.query, "documents": documents}
    if words.echoes:
        body["return_documents"] = False
    return body


def image_body(call: Call, deployment: Deployment) -> dict[str, JSON]:
    """Write the request for one image, to be sent back whole and not as an address."""
    body: dict[str, JSON] = {"model": deployment.model_id, "prompt": call.inputs[0], "n": 1}
    if call.size:
        body["size"] = call.size
    if not deployment.model_id.startswith(_IMAGE_NAMES):
        body["response_format"] = "b64_json"
    return body


def transcription_form(call: Call, deployment: Deployment, words: Words | None = None) -> aiohttp.FormData:
    """Write the form that carries a sound to transcribe; JSON is what servers answer unless told otherwise."""
    words = words or words_of(deployment)
    if call.query and not words.hints:
        raise cannot(deployment, "a hint of what is said", "prompt", "leave it out, or choose another model")
    sound = call.audio
    if sound is None:
        raise Invalid("a transcription needs a sound: send one as `file`", param="file")
    try:
        data = base64.b64decode(sound.data, validate=True)
    except ValueError as error:
        raise Invalid("the sound to transcribe is not base64: encode it again", param="file") from error
    form = aiohttp.FormData()
    form.add_field("model", deployment.model_id)
    if call.language:
        form.add_field("language", call.language)
    if call.query:
        form.add_field("prompt", call.query)
    if call.temperature is not None:
        form.add_field("temperature", str(call.temperature))
    # The name a client gave may say who speaks; servers read only its ending.
    form.add_field("file", data, filename=f"audio.{_sound(sound)}", content_type=sound.media_type)
    return form
