"""Models that run on this machine: chat by a llama.cpp server all processes share, embeddings by a child process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import cast

import orjson

from metier import weights
from metier.calls import Call, Chunk
from metier.catalog import Deployment
from metier.errors import ProviderUnavailable
from metier.providers.anthropic_format import count_body
from metier.providers.base import Provider
from metier.providers.embedder import Embedder
from metier.providers.llama import Llama, Loading
from metier.providers.llama_files import Launch
from metier.providers.local_turn import Turn, ask, check, steady

__all__ = ["Local"]

_TRIES = 3


class Local:
    """Serves weights kept under `home`, by their name or by the path of a GGUF file, through `remote` on loopback."""

    def __init__(
        self,
        home: Path,
        remote: Provider,
        *,
        parallel: int = 2,
        threads: int = 0,
        linger_s: float = 30.0,
        loading: Loading = lambda model, seconds: None,
    ) -> None:
        self._home = home.absolute()
        self._remote = remote
        self._parallel = parallel
        self._threads = threads
        self._linger_s = linger_s
        self._loading = loading
        self._llamas: dict[Launch, Llama] = {}
        self._embedder = Embedder(self._home, threads=threads)

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Answer with the model's own tokens and counts; leaving the stream stops the model."""
        check(call, deployment)
        serve = self._embedder.stream if call.operation == "embed" else self._chat
        async with aclosing(cast(AsyncGenerator[Chunk], serve(call, deployment))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def close(self) -> None:
        """Let go of the shared server and end the embedder; the handed-in remote provider is closed too."""
        for llama in self._llamas.values():
            llama.close()
        self._llamas.clear()
        await self._embedder.close()
        await self._remote.close()

    async def ready(self, deployment: Deployment) -> int:
        """Wait until the model of a chat deployment is loaded; give the process that holds it."""
        return (await self._llama(deployment).server()).pid

    async def count(self, call: Call, deployment: Deployment) -> int:
        """Count the input by the model's own tokenizer, if the model is loaded already."""
        asked = ask(call) if call.tools and call.tool_choice != "none" else call
        bare = Call(call.principal, call.model, messages=asked.messages)
        return await self._llama(deployment).count(orjson.dumps(count_body(bare, deployment)))

    async def _chat(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        call = steady(call)
        turn = Turn(call) if call.tools and call.tool_choice != "none" else None
        asked = replace(call, tools=(), tool_choice=None) if turn is None else ask(call)
        async with aclosing(self._served(asked, deployment)) as chunks:
            async for chunk in chunks:
                shown = chunk if turn is None else turn.feed(chunk)
                if shown is not None:
                    yield shown
        for chunk in () if turn is None else turn.end():
            yield chunk

    async def _served(self, call: Call, deployment: Deployment) -> AsyncGenerator[Chunk]:
        llama = self._llama(deployment)
        # A small machine writes slowly: whether it still does is only seen between two pieces.
        call = replace(call, whole=False) if call.whole else call
        for attempt in range(1, _TRIES + 1):
            server, begun = await llama.server(), False
            served = replace(deployment, base_url=server.url, api_key=server.key)
            try:
                async with aclosing(cast(AsyncGenerator[Chunk], self._remote.stream(call, served))) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                return
            except ProviderUnavailable as error:
                innocent = await llama.examine(server, error.__cause__)
                if begun or attempt == _TRIES or not innocent:
                    raise

    def _llama(self, deployment: Deployment) -> Llama:
        model = self._model(deployment)
        launch = Launch(
            str(self._home), str(model), deployment.context_tokens, self._parallel, self._threads, self._linger_s
        )
        if launch not in self._llamas:
            self._llamas[launch] = Llama(launch, self._loading)
        return self._llamas[launch]

    def _model(self, deployment: Deployment) -> Path:
        name = deployment.model_id
        if name.endswith(".gguf"):
            path: Path | None = Path(name).absolute() if Path(name).is_file() else None
        else:
            path = weights.find(self._home, name)
        if path is None:
            raise ProviderUnavailable(
                f"deployment {deployment.id!r} cannot answer: the weights {name!r} are not on this machine; "
                "fetch them once, or correct `model` in metier.yaml"
            )
        return path
