"""What a worker does: moves runs and batches, and listens to triggers, until it is asked to stop."""

from __future__ import annotations

import asyncio
import signal

import uvloop

from metier.api import starting
from metier.api.batches import runner
from metier.app import App
from metier.cli.terminal import Terminal, run

__all__ = ["alone", "stopped", "working"]


def alone(as_json: bool) -> None:
    """Open the platform and work until asked to stop."""

    async def work(app: App, terminal: Terminal) -> None:
        stop = stopped()
        terminal.data({"status": "working"})
        terminal.say("Working. Ctrl-C stops after the steps in progress.")
        await app.engine.recover()
        await working(app, stop)

    run(work, as_json=as_json, loop=uvloop.new_event_loop)


async def working(app: App, stop: asyncio.Event) -> None:
    """Move runs and batches and listen to triggers until asked to stop; what is under way then gets a while to end."""
    async with asyncio.TaskGroup() as group:
        group.create_task(app.engine.work(stop, [app.review.sweep, app.releases.watch]))
        group.create_task(runner(app).work(stop))
        group.create_task(app.notices.work(stop))
        group.create_task(starting.triggers(app).runner().work(stop))


def stopped() -> asyncio.Event:
    """Give an event that SIGINT and SIGTERM set; a second signal ends the process as usual."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    return stop
