"""`metier serve`: the gateway, the review page, and a worker, in one process."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import socket

import click
import uvicorn

from metier.api.server import application
from metier.app import App, Parts
from metier.cli import preparation
from metier.cli.terminal import Terminal, as_json_option, run
from metier.cli.worker import stopped
from metier.console import pages
from metier.errors import ConfigError

__all__ = ["command"]


@click.command()
@click.option("--host", help="Address to listen on; by default METIER_HOST, 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; by default METIER_PORT, 8400.")
@click.option("--work/--no-work", default=True, show_default=True, help="Also run workflows in this process.")
@as_json_option
def command(host: str | None, port: int | None, work: bool, as_json: bool) -> None:
    """Start the gateway and the review page, until Ctrl-C.

    Clients speak the OpenAI API with a virtual key: base URL http://HOST:PORT/v1. The review page is at /review; it is
    opened with a key too.
    """

    async def serve(app: App, terminal: Terminal) -> None:
        address, number = host or app.settings.host, port if port is not None else app.settings.port
        _check(address)
        listening = _listen(address, number)
        config = uvicorn.Config(
            application(app, more=pages(app)), host=address, port=number, log_level="warning", access_log=False,
            http="httptools", proxy_headers=False,
            lifespan="off", timeout_graceful_shutdown=20, server_header=False,
        )  # fmt: skip
        server = _Server(config)
        # What was built lives as long as the process: the collector need not walk it again.
        gc.collect()
        gc.freeze()
        stop = stopped()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listening]))
            working = group.create_task(app.engine.work(stop, [app.review.sweep])) if work else None
            group.create_task(_announce(server, app, f"http://{_shown(listening)}", terminal))
            waiting = group.create_task(stop.wait())
            await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            stop.set()
            await serving
            if working is not None:
                await working

    run(serve, as_json=as_json, parts=Parts(loading=preparation.Loading(Terminal(as_json))))


async def _announce(server: uvicorn.Server, app: App, url: str, terminal: Terminal) -> None:
    """Tell where it listens as soon as it does; uvicorn has no event for that."""
    for _ in range(6_000):
        if server.started or server.should_exit:
            break
        await asyncio.sleep(0.01)
    if server.started:
        terminal.data({"url": url, "models": app.catalog.names()})
        terminal.say(f"Ready: {url}/v1 for clients, {url}/review for people.")


class _Server(uvicorn.Server):
    """Leaves signals to us, so that workers and the ledger end in order."""

    def install_signal_handlers(self) -> None:
        """Signals are handled once, for the whole process."""


def _check(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        if address != "localhost":
            raise ConfigError(
                f"cannot listen on {address!r}: give an IP address such as 127.0.0.1 or 0.0.0.0"
            ) from None


def _listen(address: str, port: int) -> socket.socket:
    """Open the port ourselves: what uvicorn does when it is taken cannot be told to people."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address} port {port}: {error.strerror}; stop what listens there, or give another --port"
        ) from None


def _shown(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
