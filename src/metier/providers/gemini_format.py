"""What Gemini is asked, at Google's own address and on Vertex AI: the bodies of requests, for chats and embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import orjson

from metier.calls import JSON, Call, Effort, Media, Message, Text, Tool, ToolCall
from metier.catalog import Deployment
from metier.errors import Invalid

__all__ = ["SIGNED_BY_GOOGLE", "batch_embed_bodies", "content_body", "model_path", "predict_bodies"]

SIGNED_BY_GOOGLE: Final = "google:"
"""Stands before the signature of a thought, so that one of another provider is never sent to Google."""

_NUMBER = re.compile(r"gemini-(\d+)")
_LEVELS_SINCE: Final = 3
"""From this generation on a model takes a level of thinking, and wants signatures back with its tool calls."""
_UNSIGNED: Final = "skip_thought_signature_validator"
"""What Google documents for a tool call that another model made."""
_TOKENS: Mapping[Effort, int] = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576}
_BATCH_TEXTS: Final = 100
_TASKS: Final = {"query": "RETRIEVAL_QUERY", "passage": "RETRIEVAL_DOCUMENT"}
_PREDICT_TEXTS: Final = 250
_PREDICT_CHARACTERS: Final = 30_000


def content_body(call: Call, deployment: Deployment) -> dict[str, JSON]:
    """Write the request for an answer, or refuse by name what Gemini has no word for."""
    if call.parallel_tool_calls is False and call.tools:
        raise _cannot(deployment, "'parallel_tool_calls': false", "parallel_tool_calls", "leave it out")
    body: dict[str, JSON] = {"contents": _contents(call, deployment), "generationConfig": _config(call, deployment)}
    system = [part for message in call.messages if message.role == "system" for part in _system(message, deployment)]
    if system:
        body["systemInstruction"] = {"parts": system}
    if call.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in call.tools]}]
        choice = _choice(call)
        if choice:
            body["toolConfig"] = {"functionCallingConfig": choice}
    return body


def batch_embed_bodies(call: Call, deployment: Deployment) -> list[JSON]:
    """Write the requests for embeddings at Google's own address."""
    model = model_path(deployment)
    more: dict[str, JSON] = {} if call.dimensions is None else {"outputDimensionality": call.dimensions}
    if call.purpose is not None:
        more["taskType"] = _TASKS[call.purpose]
    rows: list[JSON] = [{"model": model, "content": {"parts": [{"text": text}]}, **more} for text in call.inputs]
    return [{"requests": rows[start : start + _BATCH_TEXTS]} for start in range(0, len(rows), _BATCH_TEXTS)]


def predict_bodies(call: Call, deployment: Deployment) -> list[JSON]:
    """Write the requests for embeddings on Vertex AI, whose Gemini models take one text each; none is cut short."""
    most = 1 if "gemini-embedding" in deployment.model_id else _PREDICT_TEXTS
    parameters: dict[str, JSON] = {"autoTruncate": False}
    if call.dimensions is not None:
        parameters["outputDimensionality"] = call.dimensions
    task: dict[str, JSON] = {} if call.purpose is None else {"task_type": _TASKS[call.purpose]}
    batches: list[list[JSON]] = []
    room = 0
    for text in call.inputs:
        if not batches or len(batches[-1]) == most or len(text) > room:
            batches.append([])
            room = _PREDICT_CHARACTERS
        batches[-1].append({"content": text, **task})
        room -= len(text)
    return [{"instances": batch, "parameters": parameters} for batch in batches]


def model_path(deployment: Deployment) -> str:
    """Write a model id as the API names models; one with a folder of its own is left as it is."""
    name = deployment.model_id
    if "/" in name:
        return name
    return f"publishers/google/models/{name}" if deployment.provider == "vertex" else f"models/{name}"


def _generation(deployment: Deployment) -> int:
    found = _NUMBER.search(deployment.model_id)
    return int(found[1]) if found else 0


def _config(call: Call, deployment: Deployment) -> dict[str, JSON]:
    limit = deployment.max_output_tokens
    config: dict[str, JSON] = {
        "maxOutputTokens": limit if call.max_output_tokens is None else min(call.max_output_tokens, limit)
    }
    words: Mapping[str, JSON] = {
        "temperature": call.temperature,
        "topP": call.top_p,
        "topK": call.top_k,
        "seed": call.seed,
        "presencePenalty": call.presence_penalty,
        "frequencyPenalty": call.frequency_penalty,
        "stopSequences": list(call.stop) or None,
    }
    config |= {name: value for name, value in words.items() if value is not None}
    if call.output is not None:
        config["responseMimeType"] = "application/json"
        if call.output.schema:
            config["responseJsonSchema"] = dict(call.output.schema)
    thinking = _thinking(call, deployment)
    if thinking:
        config["thinkingConfig"] = thinking
    details = {p.detail for m in call.messages for p in m.parts if isinstance(p, Media)}
    for detail in ("high", "low"):
        if detail in details:
            # One resolution holds for the whole request: the highest asked for.
            config["mediaResolution"] = f"MEDIA_RESOLUTION_{detail.upper()}"
            break
    return config


def _thinking(call: Call, deployment: Deployment) -> dict[str, JSON]:
    tokens, effort = call.thinking_tokens, call.effort
    if tokens is not None and effort is not None:
        what = "'reasoning_effort' and a number of thinking tokens at once"
        raise _cannot(deployment, what, "reasoning_effort", "give one of them")
    if tokens is None and effort is None:
        return {}
    if effort is not None and _generation(deployment) >= _LEVELS_SINCE:
        if effort == "none":
            way = 'use "minimal" or "low": this model always thinks'
            raise _cannot(deployment, "'reasoning_effort': \"none\"", "reasoning_effort", way)
        return {"includeThoughts": True, "thinkingLevel": effort}
    budget = _TOKENS[effort] if effort is not None else tokens
    return {"includeThoughts": bool(budget), "thinkingBudget": budget}


def _declaration(tool: Tool) -> dict[str, JSON]:
    found: dict[str, JSON] = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    if tool.parameters:
        found["parametersJsonSchema"] = dict(tool.parameters)
    return found


def _choice(call: Call) -> dict[str, JSON]:
    if call.tool_choice in (None, "auto"):
        # With this mode Gemini holds the arguments to their schema and may still answer in words.
        return {"mode": "VALIDATED"} if any(tool.strict for tool in call.tools) else {}
    if call.tool_choice == "none":
        return {"mode": "NONE"}
    if call.tool_choice == "required":
        return {"mode": "ANY"}
    return {"mode": "ANY", "allowedFunctionNames": [call.tool_choice]}


def _system(message: Message, deployment: Deployment) -> Iterable[JSON]:
    if any(isinstance(part, Media) for part in message.parts):
        raise _cannot(deployment, "media in a system message", "messages", "put them in a user message")
    yield from _parts(message)


def _contents(call: Call, deployment: Deployment) -> list[JSON]:
    """Write the turns; neighbours of one side become one turn, so that the answers of parallel tools stand together."""
    names = {asked.id: asked.name for message in call.messages for asked in message.tool_calls}
    turns: list[tuple[str, list[JSON]]] = []
    for message in call.messages:
        if message.role == "system":
            continue
        if message.name is not None and message.role != "tool":
            raise _cannot(deployment, f"the name {message.name!r} of a message", "messages", "say it in the text")
        if message.role == "tool":
            role, parts = "user", [_response(message, names, deployment)]
        elif message.role == "assistant":
            role, parts = "model", list(_said(message, deployment))
        else:
            role, parts = "user", list(_parts(message))
        if not parts:
            raise _cannot(deployment, "an empty message", "messages", "leave it out")
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(parts)
        else:
            turns.append((role, parts))
    return [{"role": role, "parts": parts} for role, parts in turns]


def _parts(message: Message) -> Iterable[JSON]:
    for part in message.parts or ((Text(message.content),) if message.content else ()):
        if isinstance(part, Media):
            yield {"inlineData": {"mimeType": part.media_type, "data": part.data}}
        elif part.text:
            yield {"text": part.text}


def _said(message: Message, deployment: Deployment) -> Iterable[JSON]:
    """Write a turn of the model: its thoughts, what it said, what it called, each with its signature."""
    signatures = []
    for thought in message.reasoning:
        if thought.sealed:
            raise _cannot(
                deployment, "a thought that another provider sealed", "messages", "leave redacted thinking out"
            )
        if thought.text:
            yield {"text": thought.text, "thought": True}
        if thought.signature.startswith(SIGNED_BY_GOOGLE):
            signatures.append(thought.signature.removeprefix(SIGNED_BY_GOOGLE))
    said: list[dict[str, JSON]] = [part for part in _parts(message) if isinstance(part, dict)]
    last = said[-1] if said else None
    for signature in signatures:
        if signature == signatures[-1] and last is not None:
            last["thoughtSignature"] = signature
        else:
            yield {"text": "", "thoughtSignature": signature}
    yield from said
    wants_proof = _generation(deployment) >= _LEVELS_SINCE
    for number, call in enumerate(message.tool_calls):
        part: dict[str, JSON] = {"functionCall": _function_call(call, deployment)}
        # Only the first of parallel calls is signed.
        signature = call.signature or (_UNSIGNED if wants_proof and number == 0 else "")
        if signature:
            part["thoughtSignature"] = signature
        yield part


def _function_call(call: ToolCall, deployment: Deployment) -> JSON:
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        what = f"arguments of the tool call {call.id!r} that are no JSON object"
        raise _cannot(deployment, what, "messages", "give back what the model wrote")
    return {"name": call.name, "args": arguments, **_id(call.id, deployment)}


def _response(message: Message, names: Mapping[str, str], deployment: Deployment) -> JSON:
    id = message.tool_call_id or ""
    name = message.name or names.get(id)
    if name is None:
        way = "keep the assistant's message that asked for it, or give the `name` of the tool"
        raise _cannot(deployment, f"the answer to an unknown tool call {id!r}", "messages", way)
    answer: dict[str, JSON] = {"name": name, **_id(id, deployment)}
    answer["response"] = {"error" if message.failed else "output": _structured(message.text)}
    media: list[JSON] = [
        {"inlineData": {"mimeType": part.media_type, "data": part.data}}
        for part in message.parts
        if isinstance(part, Media)
    ]
    if media:
        answer["parts"] = media
    return {"functionResponse": answer}


def _structured(text: str) -> JSON:
    """Give objects and lists as such: a model reads them better than JSON inside a text."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        found: JSON = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return found


def _id(id: str, deployment: Deployment) -> dict[str, JSON]:
    """Give the id of a tool call back where the API has ids: Vertex AI goes by name and order."""
    return {"id": id} if id and deployment.provider != "vertex" else {}


def _cannot(deployment: Deployment, what: str, param: str, way: str) -> Invalid:
    return Invalid(f"deployment {deployment.id!r} (Gemini) cannot take {what}: {way}", param=param)
