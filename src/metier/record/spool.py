"""A local append-only file that keeps the records of calls until PostgreSQL has them, through any kill."""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from metier.errors import LedgerBroken

__all__ = ["Frame", "Kind", "Left", "Segment", "Spool", "left_behind"]

Kind = Literal["opened", "contents", "ended"]
"""A call that may cost money from now on; what was said in it, sealed; a call that is over."""

_HEAD = struct.Struct("<4sII")
_MARKS: dict[Kind, bytes] = {"opened": b"MTo1", "contents": b"MTc1", "ended": b"MTe1"}
_KINDS: dict[bytes, Kind] = {mark: kind for kind, mark in _MARKS.items()}
_LOCK = "lock"
_SUFFIX = ".spool"


@dataclass(frozen=True, slots=True)
class Frame:
    """One record as it was written."""

    kind: Kind
    payload: bytes


@dataclass(slots=True, eq=False)
class Segment:
    """One file of the spool, deleted when nothing in it is still needed."""

    path: pathlib.Path
    descriptor: int
    size: int = 0
    needed: int = 0
    """Records in it that PostgreSQL does not have yet."""


class Spool:
    """Appends records for one process; what is appended survives the process, not the loss of the disk.

    Written without fsync: the kernel keeps it through `kill -9`. A power cut may lose the last seconds,
    whose money then stays held by the lease until it is settled.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        worker: str,
        *,
        most_bytes: int = 256 << 20,
        segment_bytes: int = 4 << 20,
    ) -> None:
        self.worker = worker
        self.size = 0
        """Bytes on disk in all segments."""
        self._folder = folder / worker
        self._most_bytes = most_bytes
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        self._number = 0
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder of this process and lock it: a folder nobody locks belongs to the dead."""
        try:
            self._folder.mkdir(parents=True, mode=0o700)
            self._lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._segments.append(self._fresh())
        except FileExistsError as error:
            # Writing into it would destroy what the dead left and mix its leases with ours.
            raise LedgerBroken(
                f"the spool {str(self._folder)!r} belongs to another process: give each process a new worker id"
            ) from error
        except OSError as error:
            raise LedgerBroken(f"the spool {str(self._folder)!r} cannot be written: {error.strerror}") from error

    def append(self, kind: Kind, payload: bytes) -> Segment:
        """Write one record whole or not at all; LedgerBroken says the disk or the allowed size is full."""
        if kind == "opened" and self.size >= self._most_bytes:
            raise LedgerBroken(
                f"{self.size} bytes of records wait for the database, the most allowed: no call is made until it "
                "is back"
            )
        frame = _HEAD.pack(_MARKS[kind], len(payload), zlib.crc32(payload)) + payload
        try:
            segment = self._current()
            written = os.write(segment.descriptor, frame)
            if written != len(frame):
                # Half a record would hide those behind it.
                os.ftruncate(segment.descriptor, segment.size)
                raise OSError(28, "the disk is full")
        except OSError as error:
            raise LedgerBroken(
                f"a call cannot be recorded: {error.strerror}; make room on the disk of METIER_HOME and try again"
            ) from error
        segment.size += written
        segment.needed += 1
        self.size += written
        return segment

    @property
    def room(self) -> int:
        """Bytes of records that may still be kept: on the disk, and within the size allowed."""
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return 0
        return max(0, min(self._most_bytes - self.size, disk.f_bavail * disk.f_frsize))

    def done(self, segment: Segment) -> None:
        """Say that PostgreSQL has one record of `segment`; the file goes with its last one."""
        segment.needed -= 1
        if segment.needed == 0 and segment is not self._segments[-1]:
            self._delete(segment)

    def rotate(self) -> None:
        """Empty the present segment when it holds only records that PostgreSQL has; a full disk has room for that."""
        last = self._segments[-1]
        if last.size and not last.needed:
            os.ftruncate(last.descriptor, 0)
            self.size -= last.size
            last.size = 0

    def close(self, *, keep: bool = False) -> None:
        """Stop writing; a spool that PostgreSQL has whole leaves nothing, unless kept for a successor."""
        needed = keep or any(segment.needed for segment in self._segments)
        for segment in self._segments:
            os.close(segment.descriptor)
        self._segments.clear()
        if not needed:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _current(self) -> Segment:
        if not self._segments:
            raise LedgerBroken("the spool is closed: no call is made any more")
        last = self._segments[-1]
        if last.size >= self._segment_bytes:
            last = self._fresh()
            full = self._segments[-1]
            self._segments.append(last)
            if not full.needed:
                self._delete(full)
        return last

    def _fresh(self) -> Segment:
        self._number += 1
        path = self._folder / f"{self._number:08d}{_SUFFIX}"
        return Segment(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600))

    def _delete(self, segment: Segment) -> None:
        self._segments.remove(segment)
        self.size -= segment.size
        os.close(segment.descriptor)
        segment.path.unlink(missing_ok=True)


class Left:
    """The spool of a process that is gone, held by its lock while it is replayed."""

    def __init__(self, folder: pathlib.Path, lock: int) -> None:
        self.worker = folder.name
        self._folder = folder
        self._lock = lock

    def frames(self) -> Iterator[Frame]:
        """Yield what was written whole, in order; a torn end is what the kill cut off."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            yield from _frames(path.read_bytes())

    def delete(self) -> None:
        """Remove it: everything in it is in PostgreSQL."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)


def left_behind(folder: pathlib.Path) -> Iterator[Left]:
    """Find the spools of processes that are gone; each is locked while the caller handles it."""
    if not folder.is_dir():
        return
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        try:
            lock = os.open(place / _LOCK, os.O_RDWR)
        except FileNotFoundError:
            continue
        left = Left(place, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield left
        except BlockingIOError:
            continue
        finally:
            left.release()


def _frames(data: bytes) -> Iterator[Frame]:
    at = 0
    while at + _HEAD.size <= len(data):
        mark, length, crc = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        if mark in _KINDS and len(payload) == length and zlib.crc32(payload) == crc:
            yield Frame(_KINDS[mark], payload)
            at += _HEAD.size + length
            continue
        # Damage in the middle costs the damaged record, not those after it.
        following = [found for known in _KINDS if (found := data.find(known, at + 1)) >= 0]
        if not following:
            return
        at = min(following)
