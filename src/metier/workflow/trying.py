"""What the step functions of runs stand on here: results kept in the database, and the database itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import orjson
import psycopg
from psycopg_pool import PoolClosed

from metier.calls import JSON, RunId
from metier.errors import Unavailable
from metier.store import Store, away
from metier.vault import Vault
from metier.workflow.calling import Calling, Held, error_value
from metier.workflow.context import Clock, StepFunction
from metier.workflow.definition import Kind
from metier.workflow.journal import Journal, LostRun, pack, unpack

__all__ = ["Held", "Tries", "error_value"]

_PATIENCE_S = 86_400.0
"""As of a write to the journal: a run that is left takes with it what its other steps have under way."""
_PAUSE_S = 0.2

_Given = TypeVar("_Given")


class Tries(Calling):
    """Calls step functions, with the journal and the results kept in the database."""

    def __init__(
        self, store: Store, vault: Vault, journal: Journal, steps: Mapping[Kind, StepFunction], clock: Clock
    ) -> None:
        super().__init__(journal, _Database(store, vault), steps, clock)
        self.journal = journal


class _Database:
    """The shelf of results in the database; owner of the table `kept_results`."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._queries = store.queries("engine")

    async def kept(self, place: JSON) -> JSON:
        """Give what was kept under all that it depends on, while it holds; else None."""
        digest = self._digest(place)
        row = await _through(lambda: self._queries.one("kept", {"digest": digest}))
        return None if row is None else unpack(self._vault.open("kept", row["sealed"], digest.hex()))

    async def keep(self, place: JSON, value: JSON, for_s: float, workspace: str) -> None:
        """Keep a value for some time, under the key of an organisation."""
        digest = self._digest(place)
        sealed = self._vault.seal("kept", pack(value), digest.hex(), workspace)
        await _through(lambda: self._queries.run("keep", {"digest": digest, "sealed": sealed, "for_s": for_s}))

    async def back(self, run: RunId, path: str) -> None:
        """Wait until the database answers; where it does not for long, leave the run to whoever finds it idle."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_S
        while True:
            try:
                async with self._store.connection() as connection:
                    await connection.execute("SELECT 1")
                return
            except (psycopg.OperationalError, Unavailable) as error:
                if loop.time() > deadline or isinstance(error, PoolClosed):
                    raise LostRun(
                        f"{path!r} of {run!r} lost the database, and it is not back within {_PATIENCE_S:g} s: "
                        "the run goes on from its last line once it is"
                    ) from error
            await asyncio.sleep(_PAUSE_S)

    def _digest(self, place: JSON) -> bytes:
        return self._vault.digest("kept", orjson.dumps(place, option=orjson.OPT_SORT_KEYS))


async def _through(work: Callable[[], Awaitable[_Given]]) -> _Given:
    """Do something that may be done twice; again while the database is away."""
    while True:
        try:
            return await work()
        except (psycopg.OperationalError, Unavailable) as error:
            if not away(error):
                raise
        await asyncio.sleep(_PAUSE_S)
