"""The local model answers, obeys schemas, stops when told, and is one process however many use it or kill it."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import aiohttp
import orjson
import psutil
import pytest

from metier import weights
from metier.calls import Call, Chunk, Message, OutputSchema, Principal, Tool, Usage
from metier.catalog import Deployment
from metier.errors import Invalid, ProviderUnavailable
from metier.providers.llama import Llama
from metier.providers.llama_files import Launch, LlamaFiles, Server
from metier.providers.local import Local
from metier.providers.openai import OpenAIProvider
from tests.providers.conftest import deployment

CITY = OutputSchema(
    "city",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
        "required": ["city", "big"],
        "additionalProperties": False,
    },
)
ENDLESS = OutputSchema("numbers", {"type": "array", "items": {"type": "integer"}, "minItems": 1500})
CLOCK = Tool(
    "clock",
    "Tells the time in a city.",
    {"type": "object", "properties": {"city": {"enum": ["Lyon", "Paris"]}}, "required": ["city"]},
)
SHARER = """
import asyncio, pathlib, sys, orjson
from metier.providers.llama import Llama
from metier.providers.llama_files import Launch
async def main():
    llama = Llama(Launch.read(sys.argv[1]), lambda model, seconds: None)
    sys.stdout.write(f"{(await llama.server()).pid}\\n")
    sys.stdout.flush()
    await asyncio.sleep(3600)
asyncio.run(main())
"""


def ask(principal: Principal, text: str, tokens: int = 12) -> Call:
    return Call(principal, "writer", messages=(Message("user", text),), max_output_tokens=tokens, temperature=0.0)


def stream(local: Local, call: Call, by: Deployment) -> AsyncGenerator[Chunk]:
    return cast(AsyncGenerator[Chunk], local.stream(call, by))


async def collect(chunks: AsyncIterator[Chunk]) -> tuple[str, list[Chunk], Usage]:
    got = [chunk async for chunk in chunks]
    (usage,) = [chunk.usage for chunk in got if chunk.usage is not None]
    return "".join(chunk.text for chunk in got), got, usage


async def slots(server: Server) -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer {server.key}"}
    address = f"{server.url.removesuffix('/v1')}/slots"
    async with aiohttp.ClientSession() as client, client.get(address, headers=headers) as answer:
        return cast(list[dict[str, Any]], orjson.loads(await answer.read()))


async def gone(pid: int) -> bool:
    for _ in range(600):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        await asyncio.sleep(0.05)
    return False


def launch(home: pathlib.Path, model: pathlib.Path, linger_s: float = 0.0) -> Launch:
    return Launch(str(home), str(model), context_tokens=512, parallel=1, threads=1, linger_s=linger_s)


@pytest.fixture
def gguf(model_home: pathlib.Path) -> pathlib.Path:
    """Path of the small chat model."""
    found = weights.find(model_home, "smollm2-135m-instruct")
    assert found is not None
    return found


async def test_text_comes_in_pieces_with_the_models_own_counts(
    local: Local, small: Deployment, principal: Principal
) -> None:
    text, chunks, usage = await collect(local.stream(ask(principal, "Say hello."), small))
    assert text.strip()
    assert len([c for c in chunks if c.text]) > 1
    assert [c.finish for c in chunks if c.finish] in (["stop"], ["length"])
    assert usage.input_tokens > 5
    assert 0 < usage.output_tokens <= 12
    assert not usage.estimated


async def test_a_schema_is_obeyed_to_the_letter(local: Local, small: Deployment, principal: Principal) -> None:
    call = replace(ask(principal, "Name a city.", 60), output=CITY)
    text, _, _ = await collect(local.stream(call, small))
    answer = orjson.loads(text)
    assert set(answer) == {"city", "big"}
    assert isinstance(answer["big"], bool)


async def test_a_tool_that_must_be_called_is_called_with_fitting_arguments(
    local: Local, small: Deployment, principal: Principal
) -> None:
    call = replace(ask(principal, "What time is it in Lyon?", 80), tools=(CLOCK,), tool_choice="clock")
    text, chunks, _ = await collect(local.stream(call, small))
    (delta,) = [d for c in chunks for d in c.tool_calls]
    assert delta.name == "clock"
    assert orjson.loads(delta.arguments)["city"] in {"Lyon", "Paris"}
    assert text == ""
    assert chunks[-1].finish == "tool_calls"


async def test_a_prefix_already_read_is_not_read_again(local: Local, small: Deployment, principal: Principal) -> None:
    long = "The company repairs screwdrivers of every size. " * 12
    await collect(local.stream(ask(principal, long + "First question?", 2), small))
    _, _, usage = await collect(local.stream(ask(principal, long + "Second question?", 2), small))
    assert usage.cached_tokens > 100


async def test_leaving_the_stream_stops_the_model(
    local: Local, small: Deployment, principal: Principal, model_home: pathlib.Path, gguf: pathlib.Path
) -> None:
    call = replace(ask(principal, "Count.", 2000), output=ENDLESS)
    async with aclosing(stream(local, call, small)) as chunks:
        await anext(chunks)
    await local.ready(small)
    server = LlamaFiles(Launch(str(model_home), str(gguf), 4096, 2, 1, 20)).read()
    assert server is not None
    for _ in range(3000):
        busy = [slot["next_token"][0]["n_decoded"] for slot in await slots(server) if slot["is_processing"]]
        if not busy:
            break
        assert max(busy) < 1500
        await asyncio.sleep(0.02)
    assert not busy


async def test_killing_the_server_fails_the_call_in_flight_and_the_next_one_is_answered(
    local: Local, small: Deployment, principal: Principal
) -> None:
    pid = await local.ready(small)
    endless = replace(ask(principal, "Count.", 2000), output=ENDLESS)
    with pytest.raises(ProviderUnavailable):
        async with aclosing(stream(local, endless, small)) as chunks:
            async for _ in chunks:
                os.kill(pid, signal.SIGKILL)
    text, _, _ = await collect(local.stream(ask(principal, "Say hello."), small))
    assert text.strip()
    assert await local.ready(small) != pid


async def test_calls_at_the_same_time_are_all_answered(local: Local, small: Deployment, principal: Principal) -> None:
    questions = [ask(principal, f"Say the number {i}.", 4) for i in range(5)]
    answers = await asyncio.gather(*(collect(local.stream(question, small)) for question in questions))
    assert all(usage.output_tokens > 0 for _, _, usage in answers)


async def test_processes_share_one_server_that_outlives_none_of_them(
    tmp_path: pathlib.Path, gguf: pathlib.Path
) -> None:
    shared = launch(tmp_path, gguf)
    users = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", SHARER, shared.text(), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    pids = set()
    for user in users:
        assert user.stdout is not None
        pids.add(int(await user.stdout.readline()))
    assert len(pids) == 1
    users[0].kill()
    await users[0].wait()
    llama = Llama(shared, lambda model, seconds: None)
    assert (await llama.server()).pid in pids
    users[1].kill()
    await users[1].wait()
    assert (await llama.server()).pid in pids
    llama.close()
    assert await gone(*pids)


async def test_the_credential_is_in_no_argument_and_no_log(tmp_path: pathlib.Path, gguf: pathlib.Path) -> None:
    llama = Llama(launch(tmp_path, gguf), lambda model, seconds: None)
    server = await llama.server()
    files = LlamaFiles(launch(tmp_path, gguf))
    assert server.key not in " ".join(psutil.Process(server.pid).cmdline())
    assert server.key not in files.log.read_text()
    assert server.key not in repr(server)
    assert files.info.stat().st_mode & 0o077 == 0
    async with aiohttp.ClientSession() as client, client.post(f"{server.url}/chat/completions", json={}) as answer:
        assert answer.status == 401
    llama.close()
    assert await gone(server.pid)


async def test_a_file_that_is_no_model_is_refused_and_not_tried_for_ever(tmp_path: pathlib.Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    llama = Llama(launch(tmp_path, broken), lambda model, seconds: None)
    for _ in range(3):
        with pytest.raises(ProviderUnavailable, match="ended while the model was loading"):
            await llama.server()
    with pytest.raises(ProviderUnavailable, match="tried again in"):
        await llama.server()
    llama.close()


async def test_missing_weights_are_said(tmp_path: pathlib.Path, principal: Principal) -> None:
    local = Local(tmp_path, OpenAIProvider())
    for model_id in ("smollm2-135m-instruct", "nowhere.gguf"):
        with pytest.raises(ProviderUnavailable, match="fetch them once"):
            await collect(local.stream(ask(principal, "Hello"), deployment(model_id)))
    await local.close()


async def test_a_prompt_longer_than_the_context_is_the_callers_mistake(
    local: Local, small: Deployment, principal: Principal
) -> None:
    with pytest.raises(Invalid):
        await collect(local.stream(ask(principal, "word " * 5000), small))


async def test_embeddings_go_through_the_same_provider(local: Local, principal: Principal) -> None:
    call = Call(principal, "embedder", "embed", inputs=("query: bonjour",))
    (chunk,) = [chunk async for chunk in local.stream(call, deployment("multilingual-e5-small"))]
    assert len(chunk.vectors[0]) == 384


async def test_tokens_are_counted_by_the_model_itself_once_it_is_loaded_and_not_by_loading_it(
    local: Local, small: Deployment, principal: Principal, tmp_path: pathlib.Path
) -> None:
    call = ask(principal, "Bonjour, où est mon colis ?", 1)
    chunks = [chunk async for chunk in local.stream(call, small)]
    used = next(chunk.usage for chunk in chunks if chunk.usage)
    assert await local.count(call, small) == used.input_tokens
    llama = Llama(launch(tmp_path, tmp_path / "none.gguf"), lambda model, seconds: None)
    LlamaFiles(launch(tmp_path, tmp_path / "none.gguf")).prepare()
    with pytest.raises(ProviderUnavailable, match="none is loaded only to count"):
        await llama.count(b"{}")
