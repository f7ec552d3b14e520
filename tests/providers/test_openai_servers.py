"""The many servers of OpenAI's API: how each streams thoughts, tool calls, usage and errors, cut anywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import Chunk, ToolCall, Usage
from metier.errors import GuardrailBlocked, Invalid, MetierError, ProviderTimeout, ProviderUnavailable
from metier.gateway import Thoughts, Tools
from metier.providers.openai_answer import Reading, refusal, whole
from tests.providers.deployments import CALL, ask, deployment, reply, serving
from tests.upstream import Reply, event

DONE = b"data: [DONE]\n\n"
WHERE = deployment("http://127.0.0.1/v1")


def last(**fields: Any) -> bytes:
    return b"data: " + orjson.dumps({"id": "c", "choices": [], **fields}) + b"\n\n"


def call(**fields: Any) -> bytes:
    return event({"tool_calls": [fields]})


def function(name: str | None, arguments: Any) -> dict[str, Any]:
    return {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}


PLAIN = {"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26}
TOLD = Usage(20, 6)
SIGNED = {"google": {"thought_signature": "s"}}
HOUR, DAY = ToolCall("a", "heure", '{"v":1}'), ToolCall("b", "date", "{}")

STREAMS: dict[str, tuple[bytes, str, str, tuple[ToolCall, ...], str, Usage | None]] = {
    # name: stream, text, thought, tool calls, finish, usage
    "openai": (
        event({"role": "assistant", "content": "", "refusal": None}, usage=None)
        + event({"content": "Oui"}, usage=None)
        + event(finish="stop", usage=None)
        + last(usage={
            **PLAIN,
            "prompt_tokens_details": {"cached_tokens": 16}, "completion_tokens_details": {"reasoning_tokens": 4},
        })
        + DONE,
        "Oui", "", (), "stop", Usage(20, 6, 16, 0, 4),
    ),
    "openai refusal": (
        event({"refusal": "Je ne "}) + event({"refusal": "peux pas."}) + event(finish="stop") + DONE,
        "Je ne peux pas.", "", (), "stop", None,
    ),
    "deepseek": (
        event({"role": "assistant", "content": None, "reasoning_content": "Voyons"})
        + event({"content": None, "reasoning_content": "…"})
        + event({"content": "Oui", "reasoning_content": None})
        + event({"content": ""}, "stop", usage={
            **PLAIN, "prompt_cache_hit_tokens": 12, "prompt_cache_miss_tokens": 8,
            "completion_tokens_details": {"reasoning_tokens": 3},
        })
        + DONE,
        "Oui", "Voyons…", (), "stop", Usage(20, 6, 12, 0, 3),
    ),
    "vllm, usage in every chunk": (
        event({"role": "assistant", "content": ""}, usage={"prompt_tokens": 20, "completion_tokens": 0})
        + event({"reasoning": "Bon."}, usage={"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23})
        + event({"content": "Oui"}, usage={"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25})
        + event({"content": ""}, "length", stop_reason=None)
        + last(usage=PLAIN)
        + DONE,
        "Oui", "Bon.", (), "length", TOLD,
    ),
    "both names of a thought at once": (
        event({"reasoning": "Bon.", "reasoning_content": "Bon."}) + event({"content": "Oui"}, "stop") + DONE,
        "Oui", "Bon.", (), "stop", None,
    ),
    "groq": (
        event({"role": "assistant", "content": ""}, x_groq={"id": "req"})
        + event({"content": "Oui"})
        + event({}, "stop", x_groq={"id": "req", "usage": PLAIN})
        + DONE,
        "Oui", "", (), "stop", TOLD,
    ),
    "moonshot, usage in the choice": (
        event({"content": "Oui"})
        + b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":20,'
        b'"completion_tokens":6,"total_tokens":26,"cached_tokens":2}}]}\n\n'
        + DONE,
        "Oui", "", (), "stop", Usage(20, 6, 2),
    ),
    "xai, thoughts counted in the total alone": (
        event({"reasoning_content": "Hm"})
        + event({"content": "Oui"}, "stop")
        + last(usage={
            "prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 126,
            "completion_tokens_details": {"reasoning_tokens": 100},
        })
        + DONE,
        "Oui", "Hm", (), "stop", Usage(20, 106, 0, 0, 100),
    ),
    "openrouter, cache writes": (
        b": OPENROUTER PROCESSING\n\n"
        + event({"content": "Oui"}, "stop")
        + last(usage={**PLAIN, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 9}})
        + DONE,
        "Oui", "", (), "stop", Usage(20, 6, 4, 9),
    ),
    "tgi": (
        event({"role": "assistant", "content": "Oui"}) + event({"content": ""}, "eos_token") + last(usage=PLAIN) + DONE,
        "Oui", "", (), "stop", TOLD,
    ),
    "usage of nothing is no figure": (
        event({"content": "Oui"}, "stop")
        + last(usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}) + DONE,
        "Oui", "", (), "stop", None,
    ),
    "azure, filter results around the answer": (
        last(prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {}}])
        + event({"content": "Ou"})
        + b'data: {"choices":[{"index":0,"finish_reason":null,"content_filter_offsets":{"check_offset":1}}]}\n\n'
        + event({}, "content_filter")
        + last(usage=PLAIN)
        + DONE,
        "Ou", "", (), "content_filter", TOLD,
    ),
    "mistral, thinking in parts": (
        event({"role": "assistant", "content": ""})
        + event({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]})
        + event({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "…"}], "closed": True}]})
        + event({"content": [{"type": "text", "text": "O"}]})
        + event({"content": "ui"}, "stop", usage=PLAIN)
        + DONE,
        "Oui", "Hm…", (), "stop", TOLD,
    ),
    "mistral, too long": (event({"content": "Oui"}, "model_length") + DONE, "Oui", "", (), "length", None),
    "tools in pieces, side by side": (
        call(index=0, id="a", type="function", function=function("heure", ""))
        + call(index=0, function=function(None, '{"v"'))
        + call(index=1, id="b", type="function", function=function("date", "{}"))
        + call(index=0, function=function(None, ":1}"))
        + event(finish="tool_calls")
        + DONE,
        "", "", (HOUR, DAY), "tool_calls", None,
    ),
    "ollama, whole tools and the finish stop": (
        event({"role": "assistant", "content": "", "tool_calls": [
            {"id": "a", "index": 0, "type": "function", "function": function("heure", '{"v":1}')},
            {"id": "b", "index": 0, "type": "function", "function": function("date", "{}")},
        ]})
        + event({"content": ""}, "stop")
        + DONE,
        "", "", (HOUR, DAY), "tool_calls", None,
    ),
    "tools without numbers": (
        call(id="a", function=function("heure", '{"v"')) + call(function=function(None, ":1}"))
        + call(id="b", function=function("date", "")) + call(id="b", function=function(None, "{}"))
        + event(finish="tool_calls") + DONE,
        "", "", (HOUR, DAY), "tool_calls", None,
    ),
    "ids repeated on every piece": (
        call(index=3, id="a", function=function("heure", '{"v"'))
        + call(index=3, id="a", function=function(None, ":1}"))
        + event(finish="tool_calls") + DONE,
        "", "", (HOUR,), "tool_calls", None,
    ),
    "arguments as an object": (
        call(index=0, id="a", function=function("heure", {"v": 1})) + event(finish="tool_calls") + DONE,
        "", "", (HOUR,), "tool_calls", None,
    ),
    "google, signatures of tool calls": (
        call(index=0, id="a", function=function("heure", '{"v":1}'), extra_content=SIGNED)
        + event(finish="tool_calls") + DONE,
        "", "", (ToolCall("a", "heure", '{"v":1}', "s"),), "tool_calls", None,
    ),
}  # fmt: skip


def collected(chunks: list[Chunk]) -> tuple[str, str, tuple[ToolCall, ...], str | None, Usage | None]:
    tools, thoughts = Tools(), Thoughts()
    finish, usage = None, None
    for chunk in chunks:
        tools.add(chunk.tool_calls)
        thoughts.add(chunk.reasoning)
        finish, usage = chunk.finish or finish, chunk.usage or usage
    thought = "".join(one.text for one in thoughts.whole())
    return "".join(chunk.text for chunk in chunks), thought, tools.whole(), finish, usage


def read(*pieces: bytes) -> list[Chunk]:
    reading = Reading(WHERE)
    found = [reading.take(piece) for piece in pieces]
    return [chunk for chunk in (*found, reading.end()) if chunk is not None]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_says_the_same_at_once_and_byte_by_byte(name: str) -> None:
    stream, *expected = STREAMS[name]
    assert collected(read(stream)) == tuple(expected)
    assert collected(read(*[stream[i : i + 1] for i in range(len(stream))])) == tuple(expected)


@given(st.sampled_from(sorted(STREAMS)), st.data())
@settings(max_examples=150, deadline=None)
def test_a_stream_says_the_same_however_it_is_cut(name: str, data: st.DataObject) -> None:
    stream, *expected = STREAMS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert collected(read(*pieces)) == tuple(expected)


@given(st.sampled_from(sorted(STREAMS)), st.integers(0, 4000))
@settings(max_examples=150, deadline=None)
def test_a_stream_cut_short_is_never_taken_for_whole(name: str, end: int) -> None:
    stream = STREAMS[name][0]
    short = stream[: min(end, len(stream) - len(DONE) - 1)]
    finished = any(
        (orjson.loads(block[6:]).get("choices") or [{}])[0].get("finish_reason")
        for block in short.split(b"\n\n")[:-1]
        if block.startswith(b"data: {")
    )
    try:
        chunks = read(short)
    except ProviderUnavailable:
        return
    assert finished or any(chunk.finish for chunk in chunks)


NAMES = (
    "choices delta content tool_calls index id function name arguments usage error finish_reason prompt_tokens "
    "total_tokens reasoning thinking type text stop code message extra_content google thought_signature x_groq refusal "
    "innererror content_filter data b64_json embedding results relevance_score"
)
words = st.sampled_from(NAMES.split())
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=25,
)


@given(anything, anything, anything)
@settings(max_examples=300, deadline=None)
def test_no_answer_breaks_the_reading(delta: Any, choice: Any, event: Any) -> None:
    shaped = {"choices": [{"delta": delta, "message": delta, "finish_reason": "stop"}, choice], "usage": choice}
    for body in (event, shaped, {**shaped, "choices": [choice]}, {"data": [delta], "results": [choice], "text": event}):
        data = orjson.dumps(body)
        for operation in ("chat", "embed", "rerank", "transcribe", "image"):
            try:
                chunk = whole(data, replace(CALL, operation=operation, inputs=("a",)), WHERE)
                assert isinstance(chunk.text, str)
            except MetierError as error:
                assert error.message
        try:
            for one in read(b"data: " + data + b"\n\n" + DONE):
                assert isinstance(one.text, str)
                assert all(isinstance(piece.id, str) for piece in one.tool_calls if piece.id is not None)
        except MetierError as error:
            assert error.message
        assert refusal(400, data, WHERE, None).message


@pytest.mark.parametrize("count", [-5, 10**18, 1e300])
def test_a_count_beyond_reason_is_bounded(count: float) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": count}}
    [chunk] = read(event({}, "stop", usage={**usage, "total_tokens": count}) + DONE)
    assert chunk.usage is not None
    assert 0 <= chunk.usage.reasoning_tokens <= chunk.usage.output_tokens + 10**9
    assert 2 <= chunk.usage.output_tokens <= 10**9


def test_a_call_without_an_id_gets_one_of_its_own() -> None:
    stream = call(index=0, function=function("heure", "{}")) + event(finish="tool_calls") + DONE
    (first,), (second,) = (collected(read(stream))[2] for _ in range(2))
    assert first.id != second.id, "two turns of a conversation must not share an id"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (b'data: {"error":{"message":"m","code":529}}\n\n', ProviderUnavailable),
        (b'data: {"error":{"message":"m","code":"429"}}\n\n', ProviderUnavailable),
        (b'data: {"error":{"message":"m","type":"x","code":"context_length_exceeded"}}\n\n', Invalid),
        (b'data: {"object":"error","message":"m","type":"BadRequestError","code":400}\n\n', Invalid),
        (b'data: {"error":"Model is overloaded","error_type":"overloaded"}\n\n', ProviderUnavailable),
        (b'data: {"error":{"message":"m","type":"timeout"}}\n\n', ProviderTimeout),
        (b'data: {"error":{"message":"m","code":"content_filter","status":400}}\n\n', GuardrailBlocked),
        (b'data: {"error":{"message":"m","code":502},"choices":[{"delta":{},"finish_reason":"error"}]}\n\n',
         ProviderUnavailable),
        (b'data: {"choices":[{"delta":{},"finish_reason":"insufficient_system_resource"}]}\n\n', ProviderUnavailable),
        (b'data: {"choices":[{"delta":{},"finish_reason":"abort"}]}\n\n', ProviderUnavailable),
    ],
)  # fmt: skip
async def test_an_error_inside_a_stream_is_classified_by_its_codes(error: bytes, kind: type[MetierError]) -> None:
    async with serving(Reply([event({"content": "Bon"}), error, DONE])) as (provider, server):
        with pytest.raises(kind):
            await ask(provider, deployment(server.url))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"trop long"}}', "trop long"),
        (b'{"error":"trop long"}', "trop long"),
        (b'{"error":{"message":null,"code":"x1"}}', "x1"),
        (b'{"message":"trop long","type":"BadRequest"}', "trop long"),
        (b'{"detail":[{"loc":["body"]}]}', "body"),
        (b'{"code":"bad","error":"trop long"}', "trop long"),
        (b"<h1>trop long</h1>", "trop long"),
        (b"[]", "400"),
        (b"", "400"),
    ],
)
async def test_a_refusal_is_quoted_whatever_its_shape(body: bytes, words: str) -> None:
    async with serving(reply(body, 400)) as (provider, server):
        with pytest.raises(Invalid, match=words):
            await ask(provider, deployment(server.url))


async def test_an_answer_that_came_whole_has_thoughts_and_tools_too() -> None:
    message = {
        "role": "assistant", "content": None, "reasoning_content": "Hm",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "heure", "arguments": '{"v":1}'}}],
    }  # fmt: skip
    body = orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": PLAIN})
    async with serving(reply(body)) as (provider, server):
        chunks = await ask(provider, deployment(server.url))
    assert collected(chunks) == ("", "Hm", (HOUR,), "tool_calls", TOLD)
