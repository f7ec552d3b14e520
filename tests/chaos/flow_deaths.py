"""Deaths of the chaos matrix: each place is died at once, the first time it is reached; files survive the process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import signal
import time
import zlib
from dataclasses import dataclass

__all__ = ["Deaths", "Fault", "Holder"]

_RUN = re.compile(r"run_[0-9a-zA-Z]+")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has taken a run, and the epoch it has it under."""

    pid: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Fault:
    """One death that happened."""

    at: float
    place: str
    pid: int
    """The process that was killed; 0 where only the database was."""


@dataclass(frozen=True, slots=True)
class Deaths:
    """Kills whoever reaches a place first; one in `every` places, or every one."""

    folder: pathlib.Path
    every: int = 1
    database: pathlib.Path | None = None
    """The file with the process id of a PostgreSQL that dies too; at half of the places it dies alone."""

    def reach(self, place: str, run: str | None = None) -> None:
        """Die here, or let the process die that holds the run, unless somebody has died here before."""
        victim = os.getpid() if run is None else getattr(self.holder(run), "pid", 0)
        if not victim or not self._first("seen", place):
            return
        number = zlib.crc32(_RUN.sub("run", place).encode())
        if number % self.every:
            return
        alone = self.database is not None and number // self.every % 2 == 0
        self.write("faults", f"{time.time()}\t{place}\t{0 if alone else victim}")
        self._first("died", place)
        if self.database is not None:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(self.database.read_text().split("\n", 1)[0]), signal.SIGKILL)
        if not alone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

    def take(self, run: str, epoch: int) -> None:
        """Write down that this process holds a run."""
        fresh = self.folder / f"holder {run}.{os.getpid()}"
        fresh.write_text(f"{os.getpid()} {epoch}")
        fresh.replace(self.folder / f"holder {run}")

    def holder(self, run: str) -> Holder | None:
        """Say who took a run last."""
        try:
            pid, epoch = (self.folder / f"holder {run}").read_text().split()
        except FileNotFoundError:
            return None
        return Holder(int(pid), int(epoch))

    def write(self, name: str, line: str) -> None:
        """Append a line that survives the process."""
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def lines(self, name: str) -> list[list[str]]:
        """Read what was written down."""
        file = self.folder / name
        return [line.split("\t") for line in file.read_text().splitlines()] if file.exists() else []

    def faults(self) -> list[Fault]:
        """Give every death, oldest first."""
        return sorted((Fault(float(at), place, int(pid)) for at, place, pid in self.lines("faults")), key=_at)

    def count(self, what: str) -> int:
        """How many places were seen, or died at."""
        return len([*self.folder.glob(f"{what}-*")])

    def _first(self, what: str, place: str) -> bool:
        mark = self.folder / f"{what}-{hashlib.sha1(place.encode(), usedforsecurity=False).hexdigest()}"
        try:
            with mark.open("x", encoding="utf-8") as file:
                file.write(place)
        except FileExistsError:
            return False
        return True


def _at(fault: Fault) -> float:
    return fault.at
