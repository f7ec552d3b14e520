"""`metier worker`: moves runs until it is asked to stop."""

from __future__ import annotations

import asyncio
import signal

import click

from metier.app import App
from metier.cli.terminal import Terminal, as_json_option, run

__all__ = ["command", "stopped"]


@click.command()
@as_json_option
def command(as_json: bool) -> None:
    """Run workflows until asked to stop (Ctrl-C or SIGTERM); several workers share the work.

    A worker that dies loses nothing: its runs are picked up by another one, or at the next start, from their last
    journalled step.
    """

    async def work(app: App, terminal: Terminal) -> None:
        stop = stopped()
        terminal.data({"status": "working"})
        terminal.say("Working. Ctrl-C stops after the steps in progress.")
        await app.engine.recover()
        await app.engine.work(stop, [app.review.sweep])

    run(work, as_json=as_json)


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
