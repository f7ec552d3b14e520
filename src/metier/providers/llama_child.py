"""The process that holds a llama.cpp server: started by its first user, detached, gone soon after its last one."""

from __future__ import annotations

import fcntl
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from metier.providers.llama_files import Launch, LlamaFiles, Server, try_lock

__all__ = ["main"]

_LOG_BYTES = 1 << 20
_CACHE_MIB = 256
_LOOK_S = 0.5


def main(arguments: list[str]) -> None:
    """Take ownership and go on in the background; when this returns, the server is loading or another one lives."""
    launch = Launch.read(arguments[0])
    files = LlamaFiles(launch)
    files.prepare()
    owner = _own(files)
    if owner is None:
        return
    files.info.unlink(missing_ok=True)
    # The lock goes over to the fork, so there is no moment at which nobody seems to own the server.
    if os.fork():
        return
    os.setsid()
    os.chdir("/")
    key = secrets.token_urlsafe(32)
    # Threads that wait by spinning lose nine tenths of the speed as soon as anything else runs on the same cores.
    os.putenv("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp  # read at its loading, so after the line above

        wanted = xllamacpp.CommonParams()
        _configure(wanted, launch, key)
        server = xllamacpp.Server(wanted)
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        files.write(Server(os.getpid(), error=str(error) or type(error).__name__))
        raise
    files.write(Server(os.getpid(), f"{server.listening_address}/v1", key))
    _wait_for_last_user(files, launch.linger_s)
    files.info.unlink(missing_ok=True)
    # The native threads have nothing to save; waiting for them could hang.
    os._exit(0)


def _own(files: LlamaFiles) -> int | None:
    for _ in range(20):
        owner = try_lock(files.owner, fcntl.LOCK_EX)
        if owner is not None:
            return owner
        # Somebody looking whether a server lives holds the lock for an instant.
        time.sleep(0.02)
    return None


def _configure(wanted: Any, launch: Launch, key: str) -> None:
    wanted.model.path = launch.model
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = 0
    wanted.api_keys = [key]
    wanted.ui = False
    wanted.use_jinja = True
    wanted.warmup = False
    wanted.n_parallel = launch.parallel
    wanted.n_ctx = launch.context_tokens * launch.parallel
    wanted.cpuparams.n_threads = launch.threads or _physical_cores()
    wanted.cache_prompt = True
    wanted.cache_ram_mib = _CACHE_MIB


def _physical_cores() -> int:
    """Count the cores this process may use, two threads of one core counted once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else str(cpu))
    return max(1, len(cores))


def _wait_for_last_user(files: LlamaFiles, linger_s: float) -> None:
    alone_since: float | None = None
    while True:
        time.sleep(_LOOK_S)
        if files.log.exists() and files.log.stat().st_size > _LOG_BYTES:
            os.truncate(files.log, 0)
        lock = try_lock(files.users, fcntl.LOCK_EX)
        if lock is None:
            alone_since = None
            continue
        now = time.monotonic()
        alone_since = alone_since or now
        if now - alone_since >= linger_s:
            # The lock is kept to the end: who comes now waits, finds no owner and starts another server.
            return
        os.close(lock)


if __name__ == "__main__":
    main(sys.argv[1:])
