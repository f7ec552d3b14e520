"""A worker whose steps ask a server on loopback, which counts them; stopped by SIGTERM, or killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace

from metier.calls import JSON
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.dispatch import Pace
from metier.workflow.engine import Engine, StepContext
from tests.workflow.flows import flow, step

__all__ = ["asking"]


def asking(steps: int) -> Workflow:
    """Give a flow of some steps that each ask the server; the same in every process."""
    made = flow(*(step(f"s{number}") for number in range(steps)), name=f"asking{steps}")
    return replace(made, hash=f"asking{steps}")


async def work(url: str, key: str, port: int) -> None:
    """Be a worker until told to stop."""

    async def ask(context: StepContext, given: dict[str, JSON]) -> JSON:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"{context.run} {context.path} {os.getpid()}\n".encode())
            await writer.drain()
            return (await reader.readline()).decode().strip()
        finally:
            writer.close()

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Store(url, size=8) as store:
        await Engine(store, Vault(bytes.fromhex(key)), {"code": ask}, pace=Pace(concurrency=6)).work(stop)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], int(sys.argv[3])))
