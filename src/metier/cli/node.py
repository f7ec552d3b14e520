"""What the workers of one node tell each other, so that any of them can give the metrics of all."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Callable, Sequence

from metier.record.exposition import Family, Sample, packed, text, unpacked

__all__ = ["Node"]

_PATIENCE_S = 2.0
_KEPT_S = 300.0
"""How long the last figures of a worker that ended are still told: longer than any usual scrape takes to come."""


class Node:
    """Answers its siblings in a folder of theirs, and asks them; without a folder it speaks for itself alone."""

    def __init__(self, folder: pathlib.Path | None, number: int, families: Callable[[], Sequence[Family]]) -> None:
        self._folder = folder
        self._number = number
        self._families = families
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Node:
        """Begin to answer siblings."""
        if self._folder is not None:
            self._server = await asyncio.start_unix_server(self._answer, self._folder / f"{self._number}.sock")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the last figures behind, whole: calls that ended after the last look are in them."""
        if self._folder is None or self._server is None:
            return
        self._server.close()
        (self._folder / f"{self._number}.sock").unlink(missing_ok=True)
        if self._folder.is_dir():
            (self._folder / f"{self._number}.new").write_bytes(packed(self._families()))
            (self._folder / f"{self._number}.new").replace(self._folder / f"{self._number}.last")

    async def exposition(self) -> bytes:
        """Write the metrics of every worker of this node."""
        found: dict[int, Sequence[Family]] = {self._number: self._families()}
        up = {self._number: 1}
        if self._folder is not None:
            others = [int(p.stem) for p in self._folder.glob("*.sock") if int(p.stem) != self._number]
            for number, told in zip(others, await asyncio.gather(*map(self._ask, others)), strict=True):
                if told is not None:
                    up[number] = int(bool(told))
                    found[number] = told
            for path in self._folder.glob("*.last"):
                self._departed(path, found)
        for number, well in up.items():
            alive = Family("metier_worker_up", "gauge", "1 while a worker of this node answers.", [Sample({}, well)])
            found[number] = [*found[number], alive]
        return text({str(number): found[number] for number in sorted(found)})

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(packed(self._families()))
        await writer.drain()
        writer.close()

    async def _ask(self, number: int) -> Sequence[Family] | None:
        """What a sibling counted; nothing where it is too busy to say, None where it is gone."""
        assert self._folder is not None
        path = self._folder / f"{number}.sock"
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(path)
                data = await reader.read()
                writer.close()
        except TimeoutError:
            return ()
        except OSError:
            # It was killed: nobody answers at its address any more.
            path.unlink(missing_ok=True)
            return None
        return unpacked(data)

    def _departed(self, path: pathlib.Path, found: dict[int, Sequence[Family]]) -> None:
        try:
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink(missing_ok=True)
                return
            families = unpacked(path.read_bytes())
        except OSError:
            return
        # What it looked like is over; what it counted stays true.
        found.setdefault(int(path.stem), [family for family in families if family.kind != "gauge"])
