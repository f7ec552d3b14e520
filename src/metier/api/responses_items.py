"""The items of OpenAI's Responses API: checked, written in one form, and put together as turns of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from metier.api.media_parts import joined, parts_of
from metier.api.parsing import fit
from metier.calls import CallId, Message, Part, Reasoning, Role, ToolCall
from metier.errors import Invalid

__all__ = ["Item", "Open", "read", "signed", "turns"]

Item = dict[str, Any]
"""An item as it is kept and shown: only fields we know, with an id."""

Open = Callable[[str], Reasoning]
"""Opens the encrypted_content of a reasoning item."""

_SHORT: Final[Mapping[str, str]] = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
_PARTS = "'input_text', 'input_image', 'input_file', 'input_audio', 'output_text' or 'refusal'"
_Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]
_Content = str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=4096)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    id: _Id | None = None


class _Message(_Shape):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: _Content


class _FunctionCall(_Shape):
    type: Literal["function_call"]
    call_id: _Id
    name: _Id
    arguments: str
    extra_content: dict[str, Any] | None = None


class _FunctionCallOutput(_Shape):
    type: Literal["function_call_output"]
    call_id: _Id
    output: _Content


class _Summary(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["summary_text", "reasoning_text"]
    text: str


class _Reasoning(_Shape):
    type: Literal["reasoning"]
    summary: list[_Summary] = []
    content: list[_Summary] | None = None
    encrypted_content: str | None = None


_SHAPES: Final[Mapping[str, type[_Shape]]] = {
    "message": _Message,
    "function_call": _FunctionCall,
    "function_call_output": _FunctionCallOutput,
    "reasoning": _Reasoning,
}


def read(given: str | Sequence[Mapping[str, Any]], call: CallId) -> tuple[Item, ...]:
    """Check the input of a request and write each item in the form it is kept in; media are looked at by `turns`."""
    if isinstance(given, str):
        given = ({"role": "user", "content": given},)
    return tuple([_item(item, f"input[{index}]", f"{call}_i{index}") for index, item in enumerate(given)])


def turns(items: Sequence[tuple[str, Item]], opened: Open) -> tuple[Message, ...]:
    """Put items, each with the place it stands at, together as messages: what an assistant did at once is one."""
    found, unanswered = _Turns(opened), {}
    for where, item in items:
        kind = item["type"]
        if kind == "function_call":
            unanswered[item["call_id"]] = where
        elif kind == "function_call_output" and unanswered.pop(item["call_id"], None) is None:
            text = f"{where} answers the function call {item['call_id'][:80]!r}, which does not stand before it: add it"
            raise Invalid(text, param=f"{where}.call_id")
        found.add(where, item)
    for call, where in unanswered.items():
        raise Invalid(
            f"the function call {call[:80]!r} ({where}) has no output: add a function_call_output with its call_id",
            param="input",
        )
    return found.whole()


class _Turns:
    """Collects messages; the thoughts, the text and the function calls of an assistant gather in one."""

    def __init__(self, opened: Open) -> None:
        self._opened = opened
        self._found: list[Message] = []
        self._thoughts: list[Reasoning] = []
        self._said: Message | None = None
        self._calls: list[ToolCall] = []

    def add(self, where: str, item: Item) -> None:
        """Take the next item."""
        kind = item["type"]
        if kind == "reasoning":
            # What is thought after something was said begins a turn of its own, so that the order is kept.
            if self._said is not None and not self._calls:
                self._flush()
            self._thoughts += self._thought(where, item)
        elif kind == "function_call":
            self._calls.append(ToolCall(item["call_id"], item["name"], item["arguments"], _signature(item, where)))
        elif kind == "function_call_output":
            self._flush()
            content, parts = _content(item["output"], f"{where}.output")
            self._found.append(Message("tool", content, tool_call_id=item["call_id"], parts=parts))
        else:
            role: Role = "system" if item["role"] == "developer" else item["role"]
            content, parts = _content(item["content"], f"{where}.content")
            said = Message(role, content, parts=parts)
            if role != "assistant" or self._said is not None or self._calls:
                self._flush()
            if role == "assistant":
                self._said = said
            else:
                self._found.append(said)

    def whole(self) -> tuple[Message, ...]:
        """Give the messages."""
        self._flush()
        return tuple(self._found)

    def _flush(self) -> None:
        if self._said is None and not self._calls and not self._thoughts:
            return
        said = self._said or Message("assistant")
        turn = Message("assistant", said.content, tuple(self._calls), parts=said.parts, reasoning=tuple(self._thoughts))
        if self._said is not None or self._calls:
            self._found.append(turn)
        self._thoughts, self._said, self._calls = [], None, []

    def _thought(self, where: str, item: Item) -> list[Reasoning]:
        if item["encrypted_content"] is not None:
            try:
                return [self._opened(item["encrypted_content"])]
            except Invalid as error:
                raise Invalid(f"{where}: {error.message}", param=f"{where}.encrypted_content") from None
        texts = [part["text"] for part in (*item["summary"], *item.get("content", ()))]
        return [Reasoning("\n".join(texts))] if any(texts) else []


def _item(given: Mapping[str, Any], where: str, number: str) -> Item:
    kind = given.get("type") or ("message" if "role" in given else None)
    shape = _SHAPES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        way = "send the item itself, or previous_response_id" if kind == "item_reference" else "leave it out"
        raise Invalid(
            f"{where} is of type {str(kind)[:40]!r}, which no model here takes ({', '.join(_SHAPES)} are): {way}",
            param=f"{where}.type",
        )
    try:
        checked = fit(shape, {**given, "type": kind})
    except Invalid as error:
        path = f"{where}.{error.param}" if error.param else where
        raise Invalid(f"{where}: {error.message}", param=path) from None
    item: Item = {"id": checked.id or f"{_SHORT[str(kind)]}_{number}", "type": kind}
    if isinstance(checked, _Message):
        said = checked.role == "assistant"
        item |= {"role": checked.role, "status": "completed", "content": _listed(checked.content, said, where)}
    elif isinstance(checked, _FunctionCall):
        item |= {"call_id": checked.call_id, "name": checked.name, "arguments": checked.arguments}
        signature = _signature({"extra_content": checked.extra_content}, where)
        item |= {"status": "completed"} | signed(signature)
    elif isinstance(checked, _FunctionCallOutput):
        output = checked.output
        shown = output if isinstance(output, str) else _listed(output, False, where, "output")
        item |= {"call_id": checked.call_id, "output": shown, "status": "completed"}
    elif isinstance(checked, _Reasoning):
        item |= {
            "summary": [part.model_dump() for part in checked.summary],
            "encrypted_content": checked.encrypted_content,
        }
        if checked.content:
            item["content"] = [part.model_dump() for part in checked.content]
    return item


def _listed(content: str | list[dict[str, Any]], said: bool, where: str, name: str = "content") -> list[dict[str, Any]]:
    """Write a content as a list of parts, each with the fields that mean something here."""
    if isinstance(content, str):
        return [_part({"type": "output_text" if said else "input_text", "text": content}, where)]
    return [_part(part, f"{where}.{name}[{index}]") for index, part in enumerate(content)]


def _part(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = given.get("type")
    part: dict[str, Any] = {"type": kind}
    if kind in ("input_text", "output_text"):
        part["text"] = _string(given, "text", where)
        if kind == "output_text":
            part["annotations"] = []
    elif kind == "refusal":
        part["refusal"] = _string(given, "refusal", where)
    elif kind == "input_image":
        part |= {"detail": given.get("detail") or "auto", "image_url": _whole(given, "image_url", where)}
    elif kind == "input_file":
        part["file_data"] = _whole(given, "file_data", where)
        if given.get("filename") is not None:
            part["filename"] = _string(given, "filename", where)
    elif kind == "input_audio":
        sound = given.get("input_audio")
        if not isinstance(sound, Mapping):
            raise Invalid(f"{where} has no sound: put {{'data', 'format'}} in 'input_audio'", param=where)
        part["input_audio"] = {name: _string(sound, name, f"{where}.input_audio") for name in ("data", "format")}
    else:
        raise Invalid(f"{where} is of type {str(kind)[:40]!r}: use {_PARTS}", param=f"{where}.type")
    mark = given.get("prompt_cache_breakpoint")
    if mark is not None:
        if mark != {"mode": "explicit"}:
            param = f"{where}.prompt_cache_breakpoint"
            raise Invalid(f"{param} is only taken as {{'mode': 'explicit'}}: change it or leave it out", param=param)
        part["prompt_cache_breakpoint"] = mark
    return part


def _whole(given: Mapping[str, Any], name: str, where: str) -> str:
    """Read what must come with the request; a name of something kept or served elsewhere is refused."""
    for other in ("file_id", "file_url"):
        if given.get(other):
            raise Invalid(
                f"{where}.{other} names what stands elsewhere, and Métier fetches nothing a client names: "
                f"send the bytes as a data: URL in {name!r}",
                param=f"{where}.{other}",
            )
    return _string(given, name, where)


def _content(content: str | list[dict[str, Any]], where: str) -> tuple[str, tuple[Part, ...]]:
    if isinstance(content, str):
        return content, ()
    parts = parts_of([_as_chat(part) for part in content], where)
    text = joined(parts)
    return ("", parts) if text is None else (text, ())


def _as_chat(part: Mapping[str, Any]) -> dict[str, Any]:
    """Write a part the way chat completions have it, which is read in one place for both."""
    kind = part["type"]
    if kind == "input_image":
        written: dict[str, Any] = {
            "type": "image_url",
            # "auto" asks for nothing.
            "image_url": {"url": part["image_url"], "detail": "" if part["detail"] == "auto" else part["detail"]},
        }
    elif kind == "input_file":
        file = {name: part[name] for name in ("file_data", "filename") if name in part}
        written = {"type": "file", "file": file}
    elif kind == "input_audio":
        written = {"type": "input_audio", "input_audio": part["input_audio"]}
    elif kind == "refusal":
        written = {"type": "refusal", "refusal": part["refusal"]}
    else:
        written = {"type": "text", "text": part["text"]}
    return {**written, "cache_control": {"type": "ephemeral"}} if "prompt_cache_breakpoint" in part else written


def signed(signature: str) -> dict[str, Any]:
    """Write the signature of a function call where chat completions have it too."""
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def _signature(item: Mapping[str, Any], where: str) -> str:
    google = (item.get("extra_content") or {}).get("google")
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    if signature is not None and not isinstance(signature, str):
        param = f"{where}.extra_content.google.thought_signature"
        raise Invalid(f"{param} is no string: send back what came with the function call", param=param)
    return signature or ""


def _string(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise Invalid(f"{where} has no {name}: put a string in {name!r}", param=f"{where}.{name}")
    return value
