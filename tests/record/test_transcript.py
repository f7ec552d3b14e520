from __future__ import annotations

import dataclasses
import json
from typing import Any

from metier.calls import (
    Call,
    Chunk,
    KeyId,
    Media,
    Message,
    Principal,
    ProjectId,
    ReasoningDelta,
    SystemId,
    Text,
    Tool,
    ToolCall,
    ToolCallDelta,
)
from metier.record.transcript import Transcript
from tests.record.world import one

CALLER = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
IMAGE = Media("image/png", "QUJD", name="photo.png")
CALL = Call(
    CALLER,
    "chat",
    messages=(
        Message("system", "Be brief"),
        Message("user", parts=(Text("Dupont asks"), IMAGE)),
        Message("assistant", tool_calls=(ToolCall("t1", "find", '{"who":"Dupont"}'),)),
        Message("tool", "found", tool_call_id="t1"),
    ),
    tools=(Tool("find", "Finds", {"type": "object"}),),
    temperature=0.0,
)
MASKED = dataclasses.replace(CALL, messages=(Message("user", parts=(Text("[[PERSONNE_1]] asks"), IMAGE)),))


async def take(transcript: Transcript, chunk: Chunk) -> None:
    """Let a piece of an answer pass as a provider gives it."""
    assert [piece async for piece in transcript.heard(one(chunk))] == [chunk]


def told(transcript: Transcript) -> tuple[Any, bool]:
    """The contents, read again."""
    found = transcript.encoded()
    assert found is not None
    return json.loads(found[0]), found[1]


async def test_full_keeps_what_the_client_saw_and_nothing_else() -> None:
    transcript = Transcript("full", CALL)
    transcript.checked(MASKED)
    await take(transcript, Chunk("[[PERSONNE_1]]"))
    for piece in (Chunk("Mr "), Chunk("Dupont", reasoning=(ReasoningDelta(0, "hm"),)), Chunk(finish="stop")):
        transcript.shown(piece)
    transcript.shown(Chunk(tool_calls=(ToolCallDelta(0, "t", "find", '{"a":'),)))
    transcript.shown(Chunk(tool_calls=(ToolCallDelta(0, arguments="1}"),)))
    found, cut = told(transcript)
    assert not cut and "PERSONNE" not in json.dumps(found)
    answer, request = found["answer"], found["request"]
    assert (answer["text"], answer["reasoning"], answer["finish"]) == ("Mr Dupont", "hm", "stop")
    assert answer["tool_calls"] == [{"name": "find", "arguments": '{"a":1}'}]
    assert request["messages"][1]["parts"][1]["data"] == "QUJD" and request["temperature"] == 0.0
    assert request["messages"][2]["tool_calls"][0]["name"] == "find" and request["tools"][0]["name"] == "find"


async def test_masked_keeps_what_the_provider_saw_and_no_image() -> None:
    transcript = Transcript("masked", CALL)
    transcript.checked(MASKED)
    await take(transcript, Chunk("Mr [[PERSONNE_1]]"))
    transcript.shown(Chunk("Mr Dupont"))
    found, _ = told(transcript)
    assert found["answer"]["text"] == "Mr [[PERSONNE_1]]"
    assert "Dupont" not in json.dumps(found) and "QUJD" not in json.dumps(found)
    image = found["request"]["messages"][0]["parts"][1]
    assert image["media_type"] == "image/png" and len(image["sha256"]) == 64


def test_masked_keeps_nothing_before_the_guardrails_have_spoken() -> None:
    transcript = Transcript("masked", CALL)
    assert transcript.encoded() is None


def test_what_is_too_long_is_cut_and_says_so() -> None:
    long = dataclasses.replace(CALL, messages=(Message("user", "x" * 50_000), Message("user", "the last")))
    transcript = Transcript("full", long, most_bytes=10_000)
    for _ in range(100):
        transcript.shown(Chunk("y" * 1000))
    encoded = transcript.encoded()
    assert encoded is not None and len(encoded[0]) <= 10_000 and encoded[1]
    found, _ = told(transcript)
    assert found["request"]["messages"][-1]["content"] == "the last" and found["answer"]["text"].startswith("yyy")


def test_half_a_surrogate_pair_is_kept_as_it_came() -> None:
    transcript = Transcript("full", dataclasses.replace(CALL, messages=(Message("user", "a\ud800b"),)))
    found, cut = told(transcript)
    assert found["request"]["messages"][0]["content"] == "a\ud800b" and not cut
