"""Batches around a model that is a function: what a test of them needs, with a clock that stands still."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from metier.api import answers, chat_body, failures
from metier.batches import Batch, Batches, Files, Prepared, Road, Rules, Runner, StoredFile
from metier.calls import Answer, Call, KeyId, Message, Principal, ProjectId, SystemId, Usage
from metier.errors import MetierError
from metier.store import Store
from metier.testing import StillClock
from metier.vault import Vault

CHAT: Final = "/v1/chat/completions"
WHO = Principal(KeyId("key_1"), ProjectId("sales"), SystemId("support"))
OTHER = replace(WHO, project=ProjectId("legal"), key_id=KeyId("key_2"))
NOON = datetime(2027, 1, 12, 12, 0, tzinfo=UTC)


def line(custom_id: Any = "a", text: str = "Bonjour", **more: Any) -> dict[str, Any]:
    """One line of a batch's file."""
    body = {"model": "petit", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **more}


def jsonl(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """Lines as they stand in a file."""
    return b"".join(orjson.dumps(each) + b"\n" for each in lines)


def said(call: Call) -> str:
    """What a call asks."""
    message: Message = call.messages[-1]
    return message.content


def chat(body: bytes, principal: Principal) -> Prepared:
    """The surface of chat completions."""
    asked = chat_body.parse(body, principal, None)
    return Prepared(asked.call, lambda answer: answers.chat(asked.call, answer))


class House:
    """Files, batches and a worker, whose model answers `re: ` and what it was asked."""

    def __init__(self, store: Store, vault: Vault, rules: Rules | None = None) -> None:
        self.store, self.vault = store, vault
        self.clock = StillClock(NOON)
        self.files = Files(store, vault, rules or Rules(), clock=self.clock)
        self.batches = Batches(store, vault, self.files, clock=self.clock)
        self.asked: Counter[str] = Counter()
        self.calls: list[Call] = []
        self.most = 0
        """Calls that were under way at the same time."""
        self.meets: Callable[[str], BaseException | None] = lambda text: None
        """What a call meets instead of an answer."""
        self.before: Callable[[str], Any] | None = None
        self.who: Callable[[], Principal] = lambda: WHO
        self._under_way = 0
        self.runner = self.worker()

    def worker(self) -> Runner:
        """Another worker of the same house."""
        return Runner(self.batches, {CHAT: chat}, Road(self.ask, self._principal, failures.body))

    async def bring(self, data: bytes, purpose: Any = "batch", who: Principal = WHO, step: int = 70_000) -> StoredFile:
        """Send a file in pieces."""
        writing = await self.files.begin(who)
        for at in range(0, len(data), step):
            await writing.feed(data[at : at + step])
        return await self.files.store(writing, "essai.jsonl", purpose)

    async def batch(self, *lines: Mapping[str, Any] | bytes, window: str | None = None) -> Batch:
        """Send lines and make a batch of them."""
        data = b"".join(each if isinstance(each, bytes) else jsonl([each]) for each in lines)
        file = await self.bring(data)
        return await self.batches.create(WHO, CHAT, file.id, {"metier_window": window} if window else None)

    async def turn(self, batch: Batch) -> Batch:
        """Let the worker move it as far as it goes."""
        await self.runner.turn(batch.id)
        return await self.batches.get(batch.id)

    async def read(self, id: str | None) -> list[Any]:
        """The lines of a file a batch wrote."""
        if id is None:
            return []
        file = await self.files.get(WHO.project, id)
        data = b"".join([piece async for piece in self.files.content(id, file.bytes)])
        return [orjson.loads(each) for each in data.splitlines()]

    async def _principal(self, key: KeyId) -> Principal:
        return self.who()

    async def ask(self, call: Call) -> Answer:
        """Be the one road: answer, and count."""
        text = said(call)
        self.asked[text] += 1
        self.calls.append(call)
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            await asyncio.sleep(0)
            if self.before is not None:
                await self.before(text)
            error = self.meets(text)
            if error is not None:
                raise error
            return Answer(f"re: {text}", (), "stop", Usage(3, 2), None)
        finally:
            self._under_way -= 1


def waits(error: MetierError, seconds: float) -> MetierError:
    """The same refusal with the wait it asks for."""
    vars(error)["retry_after_s"] = seconds
    return error


async def bytes_of(pieces: AsyncIterator[bytes]) -> bytes:
    """Everything that comes."""
    return b"".join([piece async for piece in pieces])
