"""What each kind of server is asked, whole: one golden file for one call and one host."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace
from typing import Any

import pytest

from metier.calls import Call, Media, Message, OutputSchema, Reasoning, Text, Tool, ToolCall
from metier.errors import Invalid
from metier.providers.mistral import mistral_body
from metier.providers.openai_request import chat_body, embed_body, image_body, transcription_form
from tests.providers.deployments import CALL, WHO, deployment

GOLDEN = pathlib.Path(__file__).parent / "golden"
PNG = Media("image/png", "iVBORw0KGgo=", detail="low")
WAV = Media("audio/wav", "UklGRg==")
PDF = Media("application/pdf", "JVBERi0=", name="contrat.pdf", cache=True)
RICH = Call(
    WHO,
    "petit",
    messages=(
        Message("system", parts=(Text("Sois bref.", cache=True),)),
        Message("user", parts=(Text("Que vois-tu ?"), PNG, WAV, PDF)),
        Message(
            "assistant",
            tool_calls=(ToolCall("toolu_01ABCDEF", "heure", '{"ville":"Lyon"}', signature="c2ln"),),
            reasoning=(Reasoning("Il faut l'heure.", "proof"), Reasoning(signature="hidden", sealed=True)),
        ),
        Message("tool", "12 h", tool_call_id="toolu_01ABCDEF"),
        Message("user", "Merci", cache=True),
    ),
    tools=(Tool("heure", "Donne l'heure", {"type": "object"}, strict=True, cache=True),),
    tool_choice="auto",
    parallel_tool_calls=False,
    output=OutputSchema("fiche", {"type": "object"}),
    temperature=0.2,
    top_p=0.9,
    frequency_penalty=0.5,
    presence_penalty=-0.5,
    max_output_tokens=64,
    stop=("FIN",),
    seed=7,
    effort="low",
    end_user="camille@exemple.fr",
    cache_key="camille@exemple.fr",
)
HOSTS = {
    "openai": "https://api.openai.com/v1",
    "azure": "https://maison.openai.azure.com/openai/v1",
    "plain": "http://10.0.0.5:8000/v1",
    "xai": "https://api.x.ai/v1",
    "deepseek": "https://api.deepseek.com",
    "openrouter": "https://openrouter.ai/api/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai",
    "mistral": "https://api.mistral.ai/v1",
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_call_with_everything_is_written_as_its_host_reads_it(host: str) -> None:
    write = mistral_body if host == "mistral" else chat_body
    written = write(RICH, deployment(HOSTS[host]))
    golden = GOLDEN / f"openai-{host}.json"
    assert written == json.loads(golden.read_text(encoding="utf-8"))
    assert "camille" not in json.dumps(written), "who is served is not told to the provider"


def test_a_text_in_parts_is_written_as_text() -> None:
    message = Message("user", parts=(Text("un", cache=True), Text("deux")))
    body: Any = chat_body(replace(CALL, messages=(message,)), deployment("http://10.0.0.5/v1"))
    assert body["messages"] == [{"role": "user", "content": "un\ndeux"}]


@pytest.mark.parametrize("host", ["openai", "azure", "xai", "deepseek", "google", "mistral"])
def test_top_k_is_refused_by_name_where_it_is_not_known(host: str) -> None:
    write = mistral_body if host == "mistral" else chat_body
    with pytest.raises(Invalid, match="'petit-a' cannot take top_k") as caught:
        write(replace(CALL, top_k=40), deployment(HOSTS[host]))
    assert caught.value.param == "top_k"
    assert chat_body(replace(CALL, top_k=40), deployment(HOSTS["plain"]))["top_k"] == 40


@pytest.mark.parametrize(
    ("host", "media"),
    [
        ("openai", Media("video/mp4", "AAAA")),
        ("openai", Media("audio/flac", "AAAA")),
        ("openai", Media("text/csv", "AAAA")),
        ("mistral", Media("video/mp4", "AAAA")),
    ],
)
def test_media_a_server_does_not_know_are_refused_by_name(host: str, media: Media) -> None:
    write = mistral_body if host == "mistral" else chat_body
    with pytest.raises(Invalid, match=media.media_type):
        write(replace(CALL, messages=(Message("user", parts=(media,)),)), deployment(HOSTS[host]))


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_media_stand_in_messages_of_users_only(role: Any) -> None:
    message = Message(role, parts=(PNG,), tool_call_id="t" if role == "tool" else None)
    with pytest.raises(Invalid, match="role 'user'"):
        chat_body(replace(CALL, messages=(message,)), deployment(HOSTS["plain"]))


def test_media_that_only_self_hosted_servers_know_are_passed_on() -> None:
    parts = (Media("video/mp4", "AAAA"), Media("audio/mpeg", "BBBB"), Media("audio/flac", "CCCC"))
    body: Any = chat_body(replace(CALL, messages=(Message("user", parts=parts),)), deployment(HOSTS["plain"]))
    video, mpeg, flac = body["messages"][0]["content"]
    assert video == {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    assert mpeg["input_audio"] == {"data": "BBBB", "format": "mp3"}
    assert flac["input_audio"] == {"data": "CCCC", "format": "flac"}


@pytest.mark.parametrize(
    ("tokens", "effort"), [(0, "none"), (1024, "low"), (4096, "low"), (10_000, "medium"), (32_000, "high")]
)
def test_a_count_of_thinking_tokens_becomes_an_effort(tokens: int, effort: str) -> None:
    target = deployment(HOSTS["openai"])
    assert chat_body(replace(CALL, thinking_tokens=tokens), target)["reasoning_effort"] == effort
    both = replace(CALL, thinking_tokens=tokens, effort="minimal")
    assert chat_body(both, target)["reasoning_effort"] == "minimal", "what was said in words counts"


def test_mistral_gets_ids_it_takes_the_same_ones_each_time() -> None:
    first: Any = mistral_body(RICH, deployment(HOSTS["mistral"]))
    again: Any = mistral_body(RICH, deployment(HOSTS["mistral"]))
    asked = first["messages"][2]["tool_calls"][0]["id"]
    assert asked == first["messages"][3]["tool_call_id"] == again["messages"][3]["tool_call_id"]
    assert len(asked) == 9
    assert asked.isalnum()
    own = Message("tool", "x", tool_call_id="aB3dE6gH9")
    kept: Any = mistral_body(replace(CALL, messages=(own,)), deployment(HOSTS["mistral"]))
    assert kept["messages"][0]["tool_call_id"] == "aB3dE6gH9"


def test_mistral_continues_an_answer_begun_and_refuses_names() -> None:
    begun = (Message("user", "Écris"), Message("assistant", "Il était"))
    body: Any = mistral_body(replace(CALL, messages=begun), deployment(HOSTS["mistral"]))
    assert body["messages"][-1] == {"role": "assistant", "content": "Il était", "prefix": True}
    with pytest.raises(Invalid, match="name of who speaks"):
        mistral_body(replace(CALL, messages=(Message("user", "a", name="Ada"),)), deployment(HOSTS["mistral"]))


def test_vectors_may_be_shortened() -> None:
    call = Call(WHO, "e", "embed", inputs=("un",), dimensions=256)
    assert embed_body(call, deployment(HOSTS["openai"]))["dimensions"] == 256
    assert "dimensions" not in embed_body(replace(call, dimensions=None), deployment(HOSTS["openai"]))


def test_an_image_is_asked_for_whole() -> None:
    call = Call(WHO, "i", "image", inputs=("Un chat",), size="1024x1024")
    assert image_body(call, deployment(HOSTS["plain"], model_id="flux")) == {
        "model": "flux", "prompt": "Un chat", "n": 1, "size": "1024x1024", "response_format": "b64_json",
    }  # fmt: skip
    assert "response_format" not in image_body(call, deployment(HOSTS["openai"], model_id="gpt-image-1"))


@pytest.mark.parametrize("audio", [None, Media("audio/wav", "été")])
def test_a_transcription_without_a_sound_is_refused(audio: Media | None) -> None:
    with pytest.raises(Invalid) as caught:
        transcription_form(Call(WHO, "w", "transcribe", audio=audio), deployment(HOSTS["plain"]))
    assert caught.value.param == "file"
