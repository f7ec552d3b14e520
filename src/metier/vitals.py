"""How a node is: whether calls can be served and recorded, and what people should know before they cannot."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import psycopg

from metier.errors import MetierError
from metier.record.exposition import Family, Sample
from metier.store import Store

__all__ = ["LOW_BYTES", "Books", "Room", "Vitals"]

LOW_BYTES = 512 << 20
"""Below so many free bytes people are told: the journal of the database alone may take as much."""

_RECORD_BYTES = 1 << 20
_LATE_S = 5.0

_log = logging.getLogger(__name__)


class Room(Protocol):
    """What the spool tells of itself."""

    @property
    def room(self) -> int:
        """Bytes of records that may still be kept."""


class Books(Protocol):
    """What the ledger tells of itself."""

    @property
    def spool(self) -> Room:
        """Where records wait on the disk."""

    @property
    def waiting(self) -> int:
        """Ended calls that PostgreSQL does not have yet."""

    @property
    def late_s(self) -> float:
        """Seconds for which PostgreSQL has taken none."""


class Vitals:
    """Looks at the parts without which no call is served, and at the disk they stand on."""

    def __init__(
        self,
        store: Store,
        books: Books,
        home: pathlib.Path,
        models: Callable[[], bool],
        *,
        free: Callable[[pathlib.Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._store = store
        self._books = books
        self._home = home
        self._models = models
        self._free = free
        self._told = False

    async def ready(self) -> Mapping[str, bool]:
        """Tell, part by part, whether calls can be served now; without room for its record none is."""
        try:
            async with asyncio.timeout(5), self._store.connection() as connection:
                await connection.execute("SELECT 1")
                database = True
        except (MetierError, TimeoutError, psycopg.Error):
            database = False
        return {"database": database, "models": self._models(), "records": self._books.spool.room >= _RECORD_BYTES}

    def remarks(self) -> Mapping[str, object]:
        """Say what people should know although calls are served; empty when all is well."""
        found: dict[str, object] = {}
        free = self._left()
        if free is not None and free < LOW_BYTES:
            found["disk"] = {"free_bytes": free}
        if self._books.late_s >= _LATE_S:
            found["records"] = {"waiting": self._books.waiting, "for_s": round(self._books.late_s)}
        return found

    def families(self) -> Sequence[Family]:
        """Say the same to whoever watches."""
        free = self._left()
        disk = [] if free is None else [
            Family("metier_disk_free_bytes", "gauge", "Free bytes on the disk of METIER_HOME.", [Sample({}, free)])
        ]  # fmt: skip
        late = Sample({}, self._books.late_s)
        told = "Seconds for which PostgreSQL has taken no records; 0 when it does."
        return [*disk, Family("metier_spool_late_seconds", "gauge", told, [late])]

    async def look(self) -> None:
        """Warn once when the disk is nearly full, and say when it no longer is."""
        free = self._left()
        low = free is not None and free < LOW_BYTES
        if low and not self._told:
            _log.warning(
                "%d MB are left on the disk of %s: without room calls are refused and the database stops; make room",
                (free or 0) >> 20, str(self._home),
            )  # fmt: skip
        elif self._told and not low:
            _log.info("there is room again on the disk of %s", str(self._home))
        self._told = low

    def _left(self) -> int | None:
        try:
            return self._free(self._home)
        except OSError:
            return None
