"""Downloads that survive interruption: of a file by its address, and of wheels from a simple package index."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import aiohttp
import orjson
from yarl import URL

from metier.errors import Unavailable

__all__ = ["Offer", "fetch", "offer", "reach", "session"]

_CHUNK = 1 << 20
_TRIES = 4
_INDEX_FORMATS = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.5, text/html;q=0.1"


@dataclass(frozen=True, slots=True)
class Offer:
    """One file a package index offers."""

    file: str
    url: str
    sha256: str | None
    """Hash the index gives; some private indexes give none."""


@asynccontextmanager
async def session(ca_file: Path | None) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client that uses the proxies of the environment and trusts `ca_file`, else what the system trusts."""
    trust = await asyncio.to_thread(ssl.create_default_context, cafile=None if ca_file is None else str(ca_file))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)
    connector = aiohttp.TCPConnector(ssl=trust)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=True) as client:
        yield client


async def reach(client: aiohttp.ClientSession, url: str) -> None:
    """Make sure that a file is offered at `url`, without fetching it."""
    async with client.head(url, allow_redirects=True) as response:
        response.raise_for_status()


async def fetch(
    client: aiohttp.ClientSession, url: str, part: Path, tell: Callable[[int], None], size: int | None = None
) -> None:
    """Bring `url` into the file `part`, going on where it ends, over several broken connections if need be."""
    for attempt in range(_TRIES):
        try:
            await _fetch_once(client, url, part, tell, size)
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, TimeoutError) as error:
            # Who cannot even be reached is given up at once: the next source may do.
            if attempt == _TRIES - 1 or not (_length(part) or isinstance(error, aiohttp.ClientPayloadError)):
                raise
            await asyncio.sleep(0.5 * 2**attempt)
        else:
            return


async def _fetch_once(
    client: aiohttp.ClientSession, url: str, part: Path, tell: Callable[[int], None], size: int | None
) -> None:
    have = _length(part)
    if size is not None and have == size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    async with client.get(url, headers=headers) as response:
        if response.status == 416:
            # The part is as long as the file, or from another one: what checks the hash will tell.
            return
        response.raise_for_status()
        have = have if response.status == 206 else 0
        coming = response.content_length
        if size is not None and coming is not None and have + coming != size:
            raise Unavailable(f"a file of {have + coming} bytes is offered where {size} are pinned")
        file = await asyncio.to_thread(part.open, "ab" if have else "wb")
        try:
            async for chunk in response.content.iter_chunked(_CHUNK):
                await asyncio.to_thread(file.write, chunk)
                have += len(chunk)
                tell(have)
        finally:
            file.close()


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


async def offer(client: aiohttp.ClientSession, index: str, project: str, version: str) -> Offer:
    """Find a wheel of one version of a project in a simple index, whether it answers in JSON or in HTML."""
    page = URL(f"{index.rstrip('/')}/{project}/")
    async with client.get(page, headers={"Accept": _INDEX_FORMATS}) as response:
        response.raise_for_status()
        body = await response.read()
        offers = _read_json(body) if response.content_type.endswith("json") else _read_html(body)
    start = f"{project}-{version}-".replace("-", "_").lower()
    for found in sorted(offers, key=lambda o: o.file):
        if found.file.replace("-", "_").lower().startswith(start) and found.file.endswith(".whl"):
            url = response.url.join(URL(found.url, encoded=True))
            return Offer(found.file, str(url), found.sha256)
    raise Unavailable(f"no wheel of {project!r} {version} is offered")


def _read_json(body: bytes) -> list[Offer]:
    files = orjson.loads(body)["files"]
    return [Offer(f["filename"], f["url"], f.get("hashes", {}).get("sha256")) for f in files]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.offers: list[Offer] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href") if tag == "a" else None
        if link:
            url, _, fragment = link.partition("#")
            sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
            self.offers.append(Offer(URL(url, encoded=True).name, url, sha256))


def _read_html(body: bytes) -> list[Offer]:
    reader = _Links()
    reader.feed(body.decode())
    return reader.offers
