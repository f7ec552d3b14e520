"""One process that serves: alone, or as a worker among several that share a port; it stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import pathlib
import signal
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import orjson
import uvicorn
import uvloop

from metier.api.duty import Duty
from metier.api.later import Later
from metier.api.server import Watch, application
from metier.api.starting import starts
from metier.app import App, Parts
from metier.cli import preparation
from metier.cli.listening import NO_MODELS, Service, listen, shown
from metier.cli.node import Node
from metier.cli.terminal import Terminal, run
from metier.cli.working import working
from metier.deferred import deferred

if TYPE_CHECKING:
    from metier import console
else:
    console = deferred("metier.console")

__all__ = ["IDLE_S", "alone", "main"]

IDLE_S = 75
"""Seconds an idle connection stays open: longer than proxies and clients keep theirs, usually 60 at most, for a request
that crosses our end of a connection gets no answer, and one that costs money is not sent again by itself."""

_PAGES = "/review"
_COLLECTED = (10_000, 20, 20)
"""When the collector of cycles looks: objects made, then rounds of each generation."""

_AT_ONCE = 4
"""Connections a worker takes before it lets its neighbours have some."""


def alone(service: Service) -> None:
    """Serve in this process."""
    run(functools.partial(_serve, service, None), as_json=service.as_json, parts=_parts(service), loop=_loop)


def main(argument: str) -> None:
    """Serve as a worker: the socket and the line to the process above come by their descriptors."""
    given = json.loads(argument)
    place = _Place(given["number"], pathlib.Path(given["folder"]), given["listening"], given["link"])
    service = Service(**given["service"])
    run(functools.partial(_serve, service, place), as_json=service.as_json, parts=_parts(service), loop=_loop)


class _Place:
    """Which worker this is, and how it is tied to the process above."""

    def __init__(self, number: int, folder: pathlib.Path, listening: int, link: int) -> None:
        self.number = number
        self.folder = folder
        self.listening = socket.socket(fileno=listening)
        self._link = socket.socket(fileno=link)
        self._link.setblocking(False)
        self.retire = asyncio.Event()
        """Another worker has taken this place: end, without a word to those who watch the node."""
        self.orphaned = asyncio.Event()
        """The process above is gone."""

    def hear(self) -> None:
        """Listen to the process above from now on."""
        asyncio.get_running_loop().add_reader(self._link.fileno(), self._heard)

    def ready(self, models: tuple[str, ...]) -> None:
        """Tell the process above that calls are served here."""
        with contextlib.suppress(OSError):
            self._link.sendall(orjson.dumps({"models": models}) + b"\n")

    def _heard(self) -> None:
        try:
            said = self._link.recv(64)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            self.retire.set()
            return
        asyncio.get_running_loop().remove_reader(self._link.fileno())
        self.orphaned.set()


class _Stop:
    """What asks this process to end, and how; a second signal ends it as usual."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.politely = False
        """By a service manager, whose balancers want notice, rather than by a person at a terminal."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._ask, number)

    def _ask(self, number: signal.Signals) -> None:
        self.politely = number == signal.SIGTERM
        self.asked.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(each)


class _Server(uvicorn.Server):
    """Leaves signals to us, so that workers and the ledger end in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are handled once, for the whole process."""
        yield

    def stop_listening(self) -> None:
        """Take no connection any more; those that are open stay so."""
        for server in self.servers:
            server.close()


async def _serve(service: Service, place: _Place | None, app: App, terminal: Terminal) -> None:
    listening = listen(service) if place is None else place.listening
    node = Node(None if place is None else place.folder, 1 if place is None else place.number, app.metrics.families)
    watch = Watch(
        exposition=node.exposition, remarks=app.remarks, everybody=app.settings.metrics == "open",
        behind_proxy=service.behind_proxy, traced=app.spans is not None, pages=_PAGES,
    )  # fmt: skip
    pages = Later(_PAGES, lambda: console.pages(app))
    duty = Duty(application(app, more=[pages, *starts(app)], watch=watch))
    server = _Server(_config(service, duty))
    stop = _Stop()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload.ask)
    # What was built lives as long as the process: the collector need not walk it again.
    gc.collect()
    gc.freeze()
    # A call leaves few cycles behind: looked for less often than by default, they cost 4 % less CPU and 3 MB more.
    gc.set_threshold(*_COLLECTED)
    ended = asyncio.Event()
    async with node, asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listening]))
        moving = group.create_task(working(app, ended)) if service.work else None
        telling = group.create_task(_announce(server, app, service, listening, place, terminal))
        await _until(serving, stop, place)
        ended.set()
        await _drain(server, duty, service, stop, place)
        await serving
        await telling
        if moving is not None:
            await moving


async def _until(serving: asyncio.Task[None], stop: _Stop, place: _Place | None) -> None:
    """Wait for whatever ends this process."""
    events = [stop.asked] if place is None else [stop.asked, place.retire, place.orphaned]
    if place is not None:
        place.hear()
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait([serving, *waiting], return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _drain(server: _Server, duty: Duty, service: Service, stop: _Stop, place: _Place | None) -> None:
    """Say first that this process ends, then close the port; calls under way end within their patience."""
    duty.leaving = True
    if place is not None and place.retire.is_set() and server.started:
        # The others have the port; whoever is connected here is told to come again.
        server.stop_listening()
        await asyncio.sleep(service.notice_s)
    elif stop.politely and server.started:
        duty.stopping = True
        await asyncio.sleep(service.notice_s)
    server.should_exit = True


async def _announce(
    server: _Server, app: App, service: Service, listening: socket.socket, place: _Place | None, terminal: Terminal
) -> None:
    """Tell where it listens as soon as it does; uvicorn has no event for that."""
    for _ in range(6_000):
        if server.started or server.should_exit:
            break
        await asyncio.sleep(0.01)
    if not server.started:
        return
    # uvicorn has shortened the queue to what a worker takes at once.
    listening.listen(2048)
    if place is not None:
        place.ready(app.catalog.names())
        return
    url = shown(service, listening)
    terminal.data({"url": url, "models": app.catalog.names()})
    terminal.say(f"Ready: {url}/v1 for clients, {url}/review for people.")
    if not app.catalog.names():
        terminal.say(NO_MODELS)


def _config(service: Service, duty: Duty) -> uvicorn.Config:
    return uvicorn.Config(
        duty, host=service.host, port=service.port, log_level="warning", access_log=False, http="httptools",
        lifespan="off", timeout_graceful_shutdown=max(1, round(service.patience_s)), server_header=False,
        # A proxy is believed about the scheme, so that cookies are marked secure; about addresses nobody asks.
        proxy_headers=service.behind_proxy, forwarded_allow_ips="*" if service.behind_proxy else None,
        ssl_certfile=service.tls_cert, ssl_keyfile=service.tls_key, backlog=_AT_ONCE,
        timeout_keep_alive=IDLE_S,
    )  # fmt: skip


def _parts(service: Service) -> Parts:
    return Parts(loading=preparation.Loading(Terminal(service.as_json)))


def _loop() -> asyncio.AbstractEventLoop:
    return uvloop.new_event_loop()


if __name__ == "__main__":
    main(sys.argv[1])
