"""The files by which every Métier process of a machine finds, shares and outlives one running llama.cpp server."""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

__all__ = ["Launch", "LlamaFiles", "Server", "hold", "try_lock"]


@dataclass(frozen=True, slots=True)
class Launch:
    """How one model is to be run; equal launches share one process."""

    home: str
    model: str
    """Path of the GGUF file."""
    context_tokens: int = 8192
    """Longest prompt and answer together, for each slot."""
    parallel: int = 2
    """Slots: calls answered at the same time, each keeping the prefix of its last prompt."""
    threads: int = 0
    """0 takes the physical cores."""
    linger_s: float = 30.0
    """How long the process stays when nobody uses it any more."""

    def text(self) -> str:
        """Write the launch as one argument of a command."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def read(cls, text: str) -> Launch:
        """Read what `text` wrote."""
        return cls(**orjson.loads(text))


@dataclass(frozen=True, slots=True)
class Server:
    """Where a ready server listens, or why it could not become ready."""

    pid: int
    url: str = ""
    key: str = ""
    """Credential made by the server's process, readable by this account alone."""
    error: str = ""

    def __repr__(self) -> str:
        """Show where the server is, never its credential."""
        return f"Server(pid={self.pid}, url={self.url!r}, error={self.error!r})"


class LlamaFiles:
    """Names of the files of one launch, and what may be read from them."""

    def __init__(self, launch: Launch) -> None:
        digest = hashlib.sha256(launch.text().encode()).hexdigest()[:16]
        run = Path(launch.home) / "run"
        self.info = run / f"llama-{digest}.json"
        """Written by the process once it is ready or has failed."""
        self.users = run / f"llama-{digest}.users"
        """Locked, shared, by every process that uses the server; the kernel lets go when one dies."""
        self.owner = run / f"llama-{digest}.owner"
        """Locked by the process of the server for as long as it lives."""
        self.log = Path(launch.home) / "logs" / "llama.log"

    def prepare(self) -> None:
        """Make the folders, closed to other accounts."""
        for folder in (self.info.parent, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, server: Server) -> None:
        """Publish where the server is; readers see the whole file or none."""
        fresh = self.info.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(orjson.dumps(asdict(server)))
        fresh.replace(self.info)

    def read(self) -> Server | None:
        """Tell where the server is, if it has said so."""
        try:
            return Server(**orjson.loads(self.info.read_bytes()))
        except FileNotFoundError:
            return None

    def owned(self) -> bool:
        """Tell whether a process of the server lives, ready or still loading."""
        lock = try_lock(self.owner, fcntl.LOCK_SH)
        if lock is not None:
            os.close(lock)
        return lock is None


def hold(path: Path) -> int:
    """Open a file to lock it; closing the descriptor, or dying, lets go."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(path: Path, kind: int) -> int | None:
    """Lock a file, shared or exclusively, unless another holder is in the way; gives the descriptor to close."""
    lock = hold(path)
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
