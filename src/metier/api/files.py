"""OpenAI's files: what clients bring for batches and what batches give, each for its project alone."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from metier.api import multipart
from metier.api.parsing import refuse_unknown
from metier.api.transfer import Transfer, listed
from metier.batches import Files, Purpose, StoredFile, Writing
from metier.calls import Principal
from metier.errors import Invalid, Mistaken

__all__ = ["FilesPages"]

_PURPOSES: Final[dict[str, Purpose]] = {"batch": "batch", "user_data": "user_data"}
_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_KNOWN: Final = frozenset({"file", "purpose", _ANCHOR, _SECONDS})
_LONGEST_FIELD: Final = 1_024
_AROUND: Final = 64 * 1024
"""Bytes of a form around its file."""


class FilesPages:
    """Answers what clients ask of the files of their project."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def several(self, exchange: Transfer, principal: Principal) -> None:
        """POST and GET /v1/files: bring a file, list those of the project."""
        if exchange.method == "POST":
            await self._bring(exchange, principal)
            return
        asked = exchange.query("purpose", "limit", "after", "order")
        limit = exchange.number(asked, "limit", 1_000, 10_000)
        found = await self._files.list(
            principal.project, purpose=asked.get("purpose") or None, after=asked.get("after") or None,
            limit=limit + 1, newest=exchange.newest_first(asked),
        )  # fmt: skip
        await exchange.json(listed([_file(file) for file in found], limit))

    async def one(self, exchange: Transfer, principal: Principal) -> None:
        """GET and DELETE /v1/files/{id}: what a file is, and its end."""
        if exchange.method == "DELETE":
            await self._files.delete(principal.project, exchange.target)
            await exchange.json(orjson.dumps({"id": exchange.target, "object": "file", "deleted": True}))
            return
        await exchange.json(orjson.dumps(_file(await self._files.get(principal.project, exchange.target))))

    async def content(self, exchange: Transfer, principal: Principal) -> None:
        """GET /v1/files/{id}/content: the bytes of a file as they came or as a batch wrote them."""
        file = await self._files.get(principal.project, exchange.target)
        async with aclosing(self._files.content(file.id, file.bytes)) as pieces:
            await exchange.download(file.bytes, pieces)

    async def _bring(self, exchange: Transfer, principal: Principal) -> None:
        limit = self._files.rules.file_bytes
        if exchange.announced() > limit + _AROUND:
            await exchange.too_large(limit)
            return
        form = _Form(self._files, principal, limit)
        try:
            cutter = multipart.Cutter(exchange.content_type())
            async with aclosing(exchange.chunks()) as chunks:
                async for chunk in chunks:
                    if not await form.take(cutter.feed(chunk)):
                        await form.discard()
                        await exchange.too_large(limit)
                        return
            stored = await form.stored()
        except BaseException:
            # Whoever leaves in the middle leaves nothing behind.
            await asyncio.shield(form.discard())
            raise
        await exchange.json(orjson.dumps(_file(stored)))


@dataclass(slots=True)
class _Form:
    """The form of an upload, while it comes: its fields in any order, its file straight into pieces."""

    files: Files
    principal: Principal
    limit: int
    _fields: dict[str, bytearray] = field(default_factory=dict)
    _writing: Writing | None = None
    _name: str = ""
    _open: str = ""
    _whole: bool = False

    async def take(self, found: list[multipart.Opened | bytes | multipart.Ended]) -> bool:
        """Take what the form says next; False once its file is too large."""
        for each in found:
            if isinstance(each, multipart.Opened):
                await self._begin(each)
            elif isinstance(each, multipart.Ended):
                self._whole = True
            elif self._open == "file":
                assert self._writing is not None
                if self._writing.size + len(each) > self.limit:
                    return False
                await self._writing.feed(each)
            else:
                value = self._fields[self._open]
                value += each
                if len(value) > _LONGEST_FIELD:
                    raise Invalid(f"{self._open[:80]} is longer than {_LONGEST_FIELD} bytes", param=self._open[:80])
        return True

    async def stored(self) -> StoredFile:
        """Make the file known, once the form is whole and says what the file is for."""
        if not self._whole:
            raise Mistaken("the form ends before its last boundary: send it whole")
        if self._writing is None or self._writing.size == 0:
            raise Invalid("file is missing or empty: send one file as the field 'file'", param="file")
        purpose = self._text("purpose")
        if purpose not in _PURPOSES:
            known = " or ".join(map(repr, _PURPOSES))
            raise Invalid(f"purpose is {(purpose or '')[:60]!r}: files are taken for {known}", param="purpose")
        return await self.files.store(self._writing, self._name, _PURPOSES[purpose], self._keep_s())

    async def discard(self) -> None:
        """Forget what came."""
        if self._writing is not None:
            await self.files.discard(self._writing)

    async def _begin(self, opened: multipart.Opened) -> None:
        refuse_unknown({opened.name: ""}, _KNOWN, (), {})
        if opened.name in self._fields or (opened.name == "file" and self._writing is not None):
            raise Invalid(f"{opened.name} is there twice: send it once", param=opened.name)
        self._open = opened.name
        if opened.name != "file":
            self._fields[opened.name] = bytearray()
            return
        self._name = (opened.filename or "file").replace("\\", "/").rpartition("/")[2]
        self._writing = await self.files.begin(self.principal)

    def _text(self, name: str) -> str | None:
        if name not in self._fields:
            return None
        return multipart.Field(bytes(self._fields[name])).text

    def _keep_s(self) -> int | None:
        anchor, seconds = self._text(_ANCHOR), self._text(_SECONDS)
        if anchor is None and seconds is None:
            return None
        if anchor != "created_at" or seconds is None or not seconds.isdecimal() or len(seconds) > 9:
            raise Invalid(
                "expires_after needs the anchor 'created_at' and a number of seconds: send both", param="expires_after"
            )
        return int(seconds)


def _file(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
