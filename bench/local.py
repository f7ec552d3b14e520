"""Measures the local models on this machine: reading and writing speed, loading, memory, embedding.

    python bench/local.py --home FOLDER [--model qwen2.5-coder-1.5b-instruct-q4]

The weights must be in FOLDER/models. A table for people goes to the error output, one JSON line to the output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import statistics
import sys
import tempfile
import time

import psutil

from metier import weights
from metier.calls import Call, KeyId, Message, Principal, ProjectId, SystemId, Usage
from metier.catalog import Deployment
from metier.providers.embedder import Embedder
from metier.providers.local import Local
from metier.providers.openai import OpenAIProvider

PRINCIPAL = Principal(KeyId("bench"), ProjectId("bench"), SystemId("bench"))
SENTENCE = "Le client dispose de trente jours, à compter de la réception, pour retourner un article. "
EMBEDDER = "multilingual-e5-small"


def deployment(model_id: str) -> Deployment:
    return Deployment(
        id="bench",
        provider="local",
        model_id=model_id,
        base_url=None,
        api_key=None,
        price=None,
        energy=None,
        context_tokens=4096,
        max_output_tokens=512,
        timeout_s=1800,
        country=None,
        hosting="local",
    )


async def answer(local: Local, model: Deployment, prompt: str, tokens: int) -> tuple[float, float, Usage]:
    """Give the seconds to the first piece, the seconds after it, and the usage."""
    call = Call(
        PRINCIPAL, "bench", messages=(Message("user", prompt),), max_output_tokens=tokens, temperature=0.0, seed=1
    )
    begun, first, usage = time.perf_counter(), 0.0, Usage()
    async for chunk in local.stream(call, model):
        if chunk.text and not first:
            first = time.perf_counter()
        usage = chunk.usage or usage
    return first - begun, time.perf_counter() - first, usage


async def chat(home: pathlib.Path, name: str) -> dict[str, float]:
    local, model = Local(home, OpenAIProvider(first_token_s=1800), linger_s=1), deployment(name)
    begun = time.perf_counter()
    process = psutil.Process(await local.ready(model))
    load_s = time.perf_counter() - begun
    prompt = "Voici le règlement. " + SENTENCE * 25 + "Explique-le en détail, point par point."
    first_s, rest_s, usage = await answer(local, model, prompt, 64)
    again_s, _, again = await answer(local, model, prompt + " Sois bref.", 8)
    measured = {
        "load_s": load_s,
        "prompt_tokens": usage.input_tokens,
        "read_tokens_per_s": usage.input_tokens / first_s,
        "write_tokens_per_s": (usage.output_tokens - 1) / rest_s,
        "first_token_s": first_s,
        "first_token_cached_s": again_s,
        "cached_tokens": again.cached_tokens,
        "rss_mb": process.memory_info().rss / 1e6,
    }
    await local.close()
    return measured


async def embed(home: pathlib.Path) -> dict[str, float]:
    embedder, model = Embedder(home), deployment(EMBEDDER)

    async def once(*texts: str) -> tuple[float, int]:
        begun = time.perf_counter()
        async for chunk in embedder.stream(Call(PRINCIPAL, "bench", "embed", inputs=texts), model):
            assert chunk.usage is not None
            tokens = chunk.usage.input_tokens
        return time.perf_counter() - begun, tokens

    start_s, _ = await once("query: bonjour")
    queries = [(await once(f"query: Comment contester la facture {i} ?"))[0] for i in range(50)]
    passages = ["passage: " + SENTENCE * 14] * 64
    long_s, tokens = await once(*passages)
    (pid,) = embedder.pids
    measured = {
        "start_s": start_s,
        "query_ms_p50": statistics.median(queries) * 1000,
        "tokens_per_passage": tokens / len(passages),
        "passages_per_s": len(passages) / long_s,
        "tokens_per_s": tokens / long_s,
        "rss_mb": psutil.Process(pid).memory_info().rss / 1e6,
    }
    await embedder.close()
    return measured


async def measure(home: pathlib.Path, name: str) -> dict[str, object]:
    # In a home of its own, so that no server that already runs is found, and nothing of the real one is touched.
    with tempfile.TemporaryDirectory(dir=home) as own:
        for needed in (name, EMBEDDER):
            await weights.pull(pathlib.Path(own), needed, from_file=weights.find(home, needed))
        chats, embeds = await chat(pathlib.Path(own), name), await embed(pathlib.Path(own))
    return {"model": name, "cores": psutil.cpu_count(logical=False), "chat": chats, "embed": embeds}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--home", type=pathlib.Path, required=True)
    arguments.add_argument("--model", default="qwen2.5-coder-1.5b-instruct-q4")
    given = arguments.parse_args()
    found = asyncio.run(measure(given.home, given.model))
    for part in ("chat", "embed"):
        figures = found[part]
        assert isinstance(figures, dict)
        for figure, value in figures.items():
            print(f"{part:6} {figure:22} {value:10.2f}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
