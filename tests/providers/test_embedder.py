"""Embeddings are those of the original weights, in order, and survive the death of the process that makes them."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from metier import weights
from metier.calls import Call, Chunk, Principal
from metier.catalog import Deployment
from metier.errors import Invalid, ProviderTimeout, ProviderUnavailable
from metier.providers.embedder import Embedder
from metier.providers.embedder_frames import GRAPH, VOCABULARY
from metier.providers.embedder_tokens import Vocabulary
from tests.providers.conftest import deployment

E5 = deployment("multilingual-e5-small")


@pytest.fixture
async def embedder(model_home: pathlib.Path) -> AsyncIterator[Embedder]:
    """An embedder with one thread, closed at the end."""
    provider = Embedder(model_home, threads=1)
    yield provider
    await provider.close()


async def embed(embedder: Embedder, principal: Principal, *texts: str, by: Deployment = E5) -> Chunk:
    call = Call(principal, "embedder", "embed", inputs=texts)
    (chunk,) = [chunk async for chunk in embedder.stream(call, by)]
    return chunk


def matrix(chunk: Chunk) -> NDArray[np.float32]:
    return np.array(chunk.vectors, np.float32)


async def test_vectors_are_those_of_the_original_engine(embedder: Embedder, principal: Principal) -> None:
    vector = matrix(await embed(embedder, principal, "query: Où en est ma livraison ?"))[0]
    assert vector.shape == (384,)
    # Measured once with the engine the weights were published with.
    assert vector[:8] == pytest.approx([-0.0024, -0.0244, -0.0699, -0.0558, 0.0864, -0.0518, 0.0086, 0.0679], abs=0.002)


async def test_vectors_have_length_one_and_the_order_of_their_texts(embedder: Embedder, principal: Principal) -> None:
    texts = [f"passage: {'mot ' * (1 + (i * 7) % 40)}{i}" for i in range(40)]
    together = await embed(embedder, principal, *texts)
    assert np.linalg.norm(matrix(together), axis=1) == pytest.approx(1.0, abs=1e-4)
    for i in (0, 5, 31, 32, 39):
        alone = matrix(await embed(embedder, principal, texts[i]))[0]
        # A longer neighbour in its batch changes the last bits only.
        assert float(alone @ matrix(together)[i]) > 0.999
    assert together.usage is not None
    assert together.usage.input_tokens > 40 * 5


async def test_what_means_the_same_is_nearer_than_what_shares_words(embedder: Embedder, principal: Principal) -> None:
    vectors = matrix(
        await embed(
            embedder,
            principal,
            "query: Mon colis n'est pas arrivé",
            "passage: Where is my parcel? Tracking a late delivery.",
            "passage: Le conseil n'est pas arrivé à un accord sur le budget.",
        )
    )
    assert float(vectors[0] @ vectors[1]) > float(vectors[0] @ vectors[2])


async def test_a_text_longer_than_the_model_reads_is_cut(embedder: Embedder, principal: Principal) -> None:
    chunk = await embed(embedder, principal, "passage: " + "livraison " * 2000)
    assert chunk.usage is not None
    assert chunk.usage.input_tokens == 512


async def test_killing_its_process_is_not_noticed_by_the_next_call(embedder: Embedder, principal: Principal) -> None:
    before = await embed(embedder, principal, "query: bonjour")
    (pid,) = embedder.pids
    os.kill(pid, signal.SIGKILL)
    assert (await embed(embedder, principal, "query: bonjour")).vectors == before.vectors
    assert embedder.pids != (pid,)


async def test_a_caller_who_leaves_does_not_shift_the_answers_of_others(
    embedder: Embedder, principal: Principal
) -> None:
    expected = await embed(embedder, principal, "query: la facture")
    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            leaver = group.create_task(embed(embedder, principal, *["passage: un texte assez long " * 20] * 16))
            await asyncio.sleep(0.05)
            leaver.cancel()
        assert (await embed(embedder, principal, "query: la facture")).vectors == expected.vectors


async def test_closing_ends_the_process(model_home: pathlib.Path, principal: Principal) -> None:
    embedder = Embedder(model_home, threads=1)
    await embed(embedder, principal, "query: bonjour")
    (pid,) = embedder.pids
    await embedder.close()
    assert not psutil.pid_exists(pid)


async def test_an_idle_process_leaves_and_comes_back(model_home: pathlib.Path, principal: Principal) -> None:
    embedder = Embedder(model_home, threads=1, idle_s=0.05)
    await embed(embedder, principal, "query: bonjour")
    for _ in range(400):
        if not embedder.pids:
            break
        await asyncio.sleep(0.05)
    assert not embedder.pids
    assert (await embed(embedder, principal, "query: bonjour")).vectors
    await embedder.close()


async def test_too_little_time_is_a_timeout_of_the_provider(embedder: Embedder, principal: Principal) -> None:
    with pytest.raises(ProviderTimeout, match="send fewer"):
        await embed(embedder, principal, *["passage: long " * 300] * 64, by=replace(E5, timeout_s=0.01))


async def test_nothing_to_embed_is_the_callers_mistake(embedder: Embedder, principal: Principal) -> None:
    with pytest.raises(Invalid, match="at least one text"):
        await embed(embedder, principal)


async def test_missing_weights_are_said(tmp_path: pathlib.Path, principal: Principal) -> None:
    with pytest.raises(ProviderUnavailable, match="fetch them once"):
        await embed(Embedder(tmp_path), principal, "query: bonjour")


async def test_weights_that_cannot_be_read_fail_with_the_place_of_the_log(
    tmp_path: pathlib.Path, principal: Principal
) -> None:
    weight = next(w for w in weights.known() if w.name == "multilingual-e5-small")
    weights.folder(tmp_path).mkdir(parents=True)
    with (weights.folder(tmp_path) / weight.file).open("wb") as file:
        file.truncate(weight.size)
    embedder = Embedder(tmp_path, threads=1)
    with pytest.raises(ProviderUnavailable, match=r"embedder\.log"):
        await embed(embedder, principal, "query: bonjour")
    await embedder.close()
    assert "does not start with" in (tmp_path / "logs" / "embedder.log").read_text()


async def test_conversion_is_done_once_and_again_when_it_is_not_whole(
    model_home: pathlib.Path, tmp_path: pathlib.Path, principal: Principal
) -> None:
    given = weights.find(model_home, "multilingual-e5-small")
    await weights.pull(tmp_path, "multilingual-e5-small", from_file=given)
    made = weights.folder(tmp_path) / "multilingual-e5-small"
    made.mkdir()
    (made / GRAPH).write_bytes(b"half of a graph")
    embedder = Embedder(tmp_path, threads=1)
    await embed(embedder, principal, "query: bonjour")
    await embedder.close()
    stamp = (made / GRAPH).stat().st_mtime_ns
    embedder = Embedder(tmp_path, threads=1)
    await embed(embedder, principal, "query: bonjour")
    await embedder.close()
    assert (made / GRAPH).stat().st_mtime_ns == stamp
    shutil.rmtree(made)


async def test_pieces_are_those_of_the_original_tokenizer(
    embedder: Embedder, model_home: pathlib.Path, principal: Principal
) -> None:
    await embed(embedder, principal, "query: bonjour")
    vocabulary = Vocabulary(weights.folder(model_home) / "multilingual-e5-small" / VOCABULARY)
    question = [0, 41, 1294, 12, 180, 8612, 22, 437, 291, 131080, 705, 2]
    assert vocabulary.ids("query: Où en est ma livraison ?") == question
    odd = [0, 46692, 12, 155637, 653, 7236, 758, 6, 245060, 245060, 2]
    assert vocabulary.ids("passage: ﬁnancement\tn°５\u200b ☃☃") == odd
