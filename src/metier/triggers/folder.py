"""Events from files put into a folder: taken once they have stopped growing, then moved to where they went."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import os
import pathlib
import stat
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from metier.calls import JSON
from metier.errors import Invalid, MetierError, Unavailable
from metier.triggers.event import Event, Kind, Mark, Mount, Taken, only
from metier.workflow.quantities import seconds

__all__ = ["KIND", "FolderSource"]

_Look: TypeAlias = tuple[int, int, int]
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart")
_LIMIT = 20 * 1024 * 1024
_TEXT = 400_000


@dataclass(frozen=True, slots=True)
class _Rules:
    path: pathlib.Path
    pattern: str
    poll_s: float
    limit: int
    done: pathlib.Path
    failed: pathlib.Path


class FolderSource:
    """Looks at a folder every few seconds; the same content twice is one event, under whatever name."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._rules = _read(mount.config)
        self._places: dict[str, tuple[pathlib.Path, _Look]] = {}

    async def events(self, state: JSON) -> AsyncGenerator[Event | Mark, None]:
        """Give each file whose size and time stood still between two looks, by name; a closed one stops no other."""
        seen: dict[str, _Look] = {}
        while True:
            found, closed = await asyncio.to_thread(self._look), list[Unavailable]()
            for name in sorted(name for name, look in found.items() if seen.get(name) == look):
                try:
                    event = await asyncio.to_thread(self._read, name, found[name])
                except Unavailable as error:
                    closed.append(error)
                    continue
                if event is not None:
                    self._places[event.id] = self._rules.path / name, found[name]
                    yield event
                    found.pop(name)
            if closed:
                raise closed[0]
            seen = found
            yield Mark()
            await self._mount.sleep(self._rules.poll_s)

    async def settle(self, event: Event, taken: Taken) -> None:
        """Move the file to where it went; one moved before the crash is not there any more, a newer one stays."""
        place, look = self._places.pop(event.id, (None, None))
        bad = taken.outcome == "failed" or (taken.outcome == "known" and bool(taken.error))
        if place is not None and await asyncio.to_thread(_looked, place) == look:
            await asyncio.to_thread(_move, place, self._rules.failed if bad else self._rules.done, event.id)

    def _look(self) -> dict[str, _Look]:
        found: dict[str, _Look] = {}
        try:
            with os.scandir(self._rules.path) as entries:
                for entry in entries:
                    if _wanted(entry.name, self._rules.pattern):
                        told = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(told.st_mode):
                            found[entry.name] = _look_of(told)
        except FileNotFoundError:
            if not self._rules.path.is_dir():
                raise Unavailable(f"there is no folder {str(self._rules.path)!r}: make it, or deploy another") from None
        except OSError as error:
            raise Unavailable(f"cannot look into {str(self._rules.path)!r}: {error.strerror}") from None
        return found

    def _read(self, name: str, look: _Look) -> Event | None:
        path, size = self._rules.path / name, look[0]
        # A name may be any bytes; what runs get is text.
        name = os.fsencode(name).decode("utf-8", "replace")
        data: dict[str, JSON] = {"name": name, "size": size, "text": None, "problem": None}
        if size > self._rules.limit:
            told = (
                f"{name!r} has {size:,} bytes, more than the limit of {self._rules.limit:,}: split it, or raise `limit`"
            )
            return Event(f"huge:{name}:{size}:{look[1]}", {**data, "sha256": None, "problem": told}, fault=told)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(self._rules.limit + 1)
                after = _look_of(os.fstat(file.fileno()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"cannot read {str(path)!r}: {error.strerror}; give access to it") from None
        if after != look or len(content) != size:
            return None
        digest = hashlib.sha256(content).hexdigest()
        data["sha256"] = digest
        if not content.strip():
            told = f"{name!r} is empty: nothing was put into it"
            # Each empty file is told: their content does not tell them apart.
            return Event(f"empty:{name}:{look[1]}", {**data, "problem": told}, fault=told)
        return self._text(Event(digest, data), name, content)

    def _text(self, event: Event, name: str, content: bytes) -> Event:
        try:
            text = self._mount.to_text(name, content)
        except MetierError as error:
            told = f"{name!r} could not be read as text: {error.message}"
            return Event(event.id, {**event.data, "problem": told}, fault=told)
        cut = f"only the first {_TEXT:,} of {len(text):,} characters are used" if len(text) > _TEXT else None
        return Event(event.id, {**event.data, "text": text[:_TEXT], "problem": cut})


def _wanted(name: str, pattern: str) -> bool:
    hidden = name.startswith((".", "~"))
    return not hidden and not name.lower().endswith(_UNFINISHED) and fnmatch.fnmatchcase(name, pattern)


def _look_of(told: os.stat_result) -> _Look:
    return told.st_size, told.st_mtime_ns, told.st_ino


def _looked(place: pathlib.Path) -> _Look | None:
    """What a file looks like now; None where there is none."""
    try:
        return _look_of(place.lstat())
    except OSError:
        return None


def _move(place: pathlib.Path, folder: pathlib.Path, id: str) -> None:
    """Move without overwriting what has the same name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / place.name
        if target.exists():
            target = folder / f"{place.stem}.{hashlib.sha256(id.encode()).hexdigest()[:12]}{place.suffix}"
        place.replace(target)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Unavailable(f"cannot move {str(place)!r} to {str(folder)!r}: {error.strerror}") from None


def _read(config: Mapping[str, JSON]) -> _Rules:
    only(config, "folder", ("path",), ("pattern", "poll", "limit", "done", "failed"))
    path = pathlib.Path(str(config["path"]))
    if not path.is_absolute():
        raise Invalid(f"the folder {str(path)!r} must be written from the root, such as /srv/in")
    limit = config.get("limit", _LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 10 * _LIMIT:
        raise Invalid(f"limit is {limit!r}: write the bytes of the largest file taken, up to {10 * _LIMIT}")
    return _Rules(
        path=path,
        pattern=str(config.get("pattern", "*")),
        poll_s=seconds(config.get("poll", "5s")),
        limit=limit,
        done=path / str(config.get("done", "done")),
        failed=path / str(config.get("failed", "failed")),
    )


def _check(config: Mapping[str, JSON]) -> None:
    _read(config)


KIND = Kind(_check, FolderSource)
