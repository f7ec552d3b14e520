"""The process above several workers: it holds the port, starts them, replaces them, and serves nothing itself."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import time

import click

from metier.cli.listening import NO_MODELS, Service, listen, shown

__all__ = ["supervise"]

_READY_S = 180.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_RECENT_S = 120.0
_MARGIN_S = 15.0

_log = logging.getLogger(__name__)


def supervise(service: Service, workers: int, log_level: str) -> int:
    """Serve with several workers until a signal; gives the exit code."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="WARNING")
    logging.getLogger("metier").setLevel(log_level.upper())
    listening = listen(service)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="metier-serve-"))
    try:
        return asyncio.run(_Supervisor(service, workers, listening, folder).run())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Worker:
    """One worker process and the line to it."""

    def __init__(
        self, number: int, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, line: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.process = process
        self.leaving = False
        """It was asked to end: nobody is surprised when it does."""
        self.ready: asyncio.Future[list[str] | None] = asyncio.get_running_loop().create_future()
        """The models it serves; None when it ended before it served."""
        self._reader = reader
        self._line = line

    async def hear(self) -> None:
        """Wait until it says that it serves."""
        said = await self._reader.readline()
        if not self.ready.done():
            self.ready.set_result(json.loads(said)["models"] if said else None)

    def retire(self) -> None:
        """Have it end: another worker has its place."""
        self.leaving = True
        self._line.write(b"retire\n")

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        self.leaving = True
        if self.process.returncode is None:
            self.process.send_signal(number)

    def hang_up(self) -> None:
        """Close the line to a worker that is gone."""
        self._line.close()


class _Supervisor:
    """Keeps as many workers as asked, whatever happens to them."""

    def __init__(self, service: Service, workers: int, listening: socket.socket, folder: pathlib.Path) -> None:
        self._service = service
        self._wanted = workers
        self._listening = listening
        self._folder = folder
        self._started = 0
        self._workers: list[_Worker] = []
        self._deaths: list[float] = []
        self._stop = asyncio.Event()
        self._renew = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> int:
        """Start the workers, watch over them, end them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked, number)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        async with asyncio.TaskGroup() as group:
            self._group = group
            # The first one alone: it makes what all share, and says what is wrong with the house once.
            first = await self._start(as_json=self._service.as_json)
            models = await self._served(first)
            if models is None and not self._stop.is_set():
                return await first.process.wait() or 1
            others = [await self._start() for _ in range(self._wanted - 1)] if not self._stop.is_set() else []
            await asyncio.gather(*(self._served(worker) for worker in others))
            if not self._stop.is_set():
                self._announce(models or [])
            renewing = group.create_task(self._renewals())
            await self._stop.wait()
            renewing.cancel()
            await self._end()
        return 0

    async def _start(self, *, as_json: bool = False) -> _Worker:
        self._started += 1
        ours, theirs = socket.socketpair()
        service = dataclasses.replace(self._service, as_json=as_json)
        told = {
            "number": self._started, "folder": str(self._folder), "listening": self._listening.fileno(),
            "link": theirs.fileno(), "service": dataclasses.asdict(service),
        }  # fmt: skip
        # A session of its own: Ctrl-C reaches this process alone, which ends the workers in order.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "metier.cli.serving", json.dumps(told),
            pass_fds=(self._listening.fileno(), theirs.fileno()), start_new_session=True,
        )  # fmt: skip
        theirs.close()
        worker = _Worker(self._started, process, *await asyncio.open_connection(sock=ours))
        self._workers.append(worker)
        assert self._group is not None
        self._group.create_task(worker.hear())
        self._group.create_task(self._watch(worker))
        if self._stop.is_set():
            worker.signal(signal.SIGTERM)
        return worker

    async def _served(self, worker: _Worker) -> list[str] | None:
        """Wait until a worker serves; one that takes too long is ended."""
        try:
            async with asyncio.timeout(_READY_S):
                return await asyncio.shield(worker.ready)
        except TimeoutError:
            _log.error("worker %d was not ready within %.0f s: it is ended", worker.number, _READY_S)
            worker.process.kill()
            return None

    async def _watch(self, worker: _Worker) -> None:
        """Replace a worker that dies; the more have died of late, the longer the pause before the next."""
        code = await worker.process.wait()
        self._workers.remove(worker)
        worker.hang_up()
        if not worker.ready.done():
            worker.ready.set_result(None)
        if worker.leaving or self._stop.is_set() or (worker.number == 1 and worker.ready.result() is None):
            return
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if now - at < _RECENT_S] + [now]
        pause = min(_FIRST_PAUSE_S * 2 ** (len(self._deaths) - 1), _LONGEST_PAUSE_S)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        _log.error("worker %d %s; another one starts in %.1f s", worker.number, how, pause)
        if not await self._stopped_within(pause):
            await self._start()

    async def _renewals(self) -> None:
        """Replace the workers one after the other at each SIGHUP: the new one serves before the old one goes."""
        while True:
            await self._renew.wait()
            self._renew.clear()
            for old in list(self._workers):
                if old.leaving or old not in self._workers:
                    continue
                new = await self._start()
                # Until it serves, its death is no reason for yet another one.
                new.leaving = True
                if await self._served(new) is None:
                    _log.error("the new worker did not start: worker %d and those after it stay", old.number)
                    break
                new.leaving = False
                old.retire()
                if not await self._gone(old):
                    _log.error("worker %d does not end: it is killed", old.number)
                    old.process.kill()
            else:
                _log.info("every worker was replaced")

    async def _gone(self, worker: _Worker) -> bool:
        limit = self._service.notice_s + self._service.patience_s + _MARGIN_S
        try:
            async with asyncio.timeout(limit):
                await worker.process.wait()
        except TimeoutError:
            return False
        return True

    async def _end(self) -> None:
        for worker in list(self._workers):
            if not await self._gone(worker):
                _log.error("worker %d does not end: it is killed", worker.number)
                worker.process.kill()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    def _asked(self, number: signal.Signals) -> None:
        """End in order at the first signal; pass on a second one, which ends workers as usual."""
        self._stop.set()
        for worker in self._workers:
            worker.signal(number)

    def _announce(self, models: list[str]) -> None:
        url = shown(self._service, self._listening)
        if self._service.as_json:
            click.echo(json.dumps({"url": url, "models": models}, ensure_ascii=False, indent=2))
        else:
            click.echo(f"Ready: {url}/v1 for clients, {url}/review for people; {self._wanted} workers.")
            if not models:
                click.echo(NO_MODELS)
