"""An exchange whose body may be large: taken as it comes, or sent piece by piece; and one that has a query."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import orjson
from starlette.requests import ClientDisconnect

from metier.api.exchange import Exchange
from metier.errors import Invalid, MetierError, Mistaken

__all__ = ["Asking", "Transfer", "listed"]


class Asking(Exchange):
    """One request about a thing its path names, with a query."""

    ignores: ClassVar[tuple[str, ...]] = ()
    """Parameters of the query that ask for what is always given."""

    @property
    def method(self) -> str:
        """Tell what is to be done."""
        method: str = self._scope["method"]
        return method

    @property
    def target(self) -> str:
        """Give the id the path names."""
        target: str = self._scope.get("path_params", {}).get("id", "")
        return target

    def query(self, *names: str) -> dict[str, str]:
        """Read the query, which may have these parameters; any other is refused by name."""
        try:
            found = dict(parse_qsl(self._scope["query_string"].decode(), keep_blank_values=True, max_num_fields=20))
        except ValueError:
            raise Mistaken("the query of the address is no UTF-8, or has over 20 fields: mend it") from None
        for name in found:
            if name not in names and name not in self.ignores:
                raise Invalid(f"the parameter {name[:80]!r} is not supported here: leave it out", param=name[:80])
        return found

    def number(self, given: dict[str, str], name: str, usual: int, most: int) -> int:
        """Read a number of the query, from 1 on."""
        text = given.get(name, str(usual))
        if not (text.isascii() and text.isdecimal()) or len(text) > 9 or not 1 <= int(text) <= most:
            raise Invalid(f"{name} is {text[:40]!r}: give a number from 1 to {most}", param=name)
        return int(text)

    def newest_first(self, given: dict[str, str]) -> bool:
        """Read the order a list is asked in: the newest first, unless that says otherwise."""
        order = given.get("order", "desc")
        if order not in ("asc", "desc"):
            raise Invalid(f"order is {order[:40]!r}: say asc or desc", param="order")
        return order == "desc"


class Transfer(Asking):
    """One request about files or batches."""

    def announced(self) -> int:
        """Read how long the body is said to be; 0 when that is not said."""
        length = self._headers.get(b"content-length", b"")
        return int(length) if length.isdigit() and len(length) <= 18 else 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give the body as it comes; whoever reads it counts."""
        if self._headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Mistaken("the request body is compressed: send it without content-encoding")
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            if part := message.get("body", b""):
                yield part

    async def too_large(self, limit: int) -> None:
        """Answer 413; the rest of the body is not read."""
        await self._too_large(limit)

    async def download(self, size: int, pieces: AsyncIterator[bytes]) -> None:
        """Answer with bytes that are not held in memory."""
        await self._start(200, [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % size)])
        async for piece in pieces:
            await self.write(piece)
        await self.close_stream(b"")

    async def _refuse(self, error: MetierError) -> None:
        if self.started:
            # The client sees fewer bytes than were announced: nothing else can be said in the middle of a file.
            raise error
        await super()._refuse(error)


def listed(data: Sequence[Mapping[str, Any]], limit: int) -> bytes:
    """Write one page of a list of which more than `limit` items may have been found."""
    shown = data[:limit]
    ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
    return orjson.dumps({"object": "list", "data": shown, **ends, "has_more": len(data) > limit})
