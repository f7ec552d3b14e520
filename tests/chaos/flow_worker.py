"""A program that forks workers of the whole platform for the chaos matrix, and the next when one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import pathlib
import select
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from typing import Any

import agents  # noqa: F401  # loaded once before the forks: it takes two seconds
from procrastinate.manager import JobManager

from metier.app import App, Parts, build
from metier.calls import JSON
from metier.catalog import Catalog
from metier.connectors.smtp import Account, Smtp
from metier.settings import Settings
from metier.store import Queries, Store, Tx
from metier.triggers import Haste, Triggers
from metier.workflow.dispatch import Pace
from metier.workflow.engine import StepContext, StepFunction
from tests.chaos.flow_deaths import Deaths
from tests.triggers.house import Known

HASTE = Haste(lease_s=1.0, beat_s=0.1, first_s=0.1, most_s=0.2)
OWNERS = ("engine", "journal", "outbox", "review", "triggers", "dispatch")
BEATS = ("renew", "claim", "release", "well", "keep", "keep_blob", "pin", "remind", "reassign", "overdue", "escalate")
"""Statements that are made again and again, or that change nothing the next worker would see."""


class Watch:
    """Dies before and after every statement and transaction that writes what runs are made of."""

    def __init__(self, deaths: Deaths) -> None:
        self.deaths = deaths
        self.under: dict[int, list[tuple[str, Mapping[str, Any]]]] = {}

    def install(self) -> None:
        """Stand between the rooms and the database, in this process."""
        watched = [(Queries, name, self._watched) for name in ("one", "all", "run")]
        for room, name, around in (
            *watched, (Store, "transaction", self._committed), (JobManager, "register_worker", self._registered)
        ):  # fmt: skip
            setattr(room, name, around(getattr(room, name)))

    def _watched(self, inner: Any) -> Any:
        async def watched(
            queries: Queries, name: str, params: Mapping[str, Any] | None = None, tx: Tx | None = None
        ) -> Any:
            text = queries._statement(name)
            if queries._owner not in OWNERS or name in BEATS or not _writes(text):
                return await inner(queries, name, params, tx)
            given = params or {}
            self.deaths.reach(f"{_place(name, given)} before")
            found = await inner(queries, name, params, tx)
            if name == "take" and found is not None:
                self.deaths.take(given["id"], found["epoch"])
            if tx is None:
                self.deaths.reach(f"{_place(name, given)} after")
            else:
                self.under.setdefault(id(tx), []).append((name, given))
            return found

        return watched

    def _committed(self, inner: Any) -> Any:
        @contextlib.asynccontextmanager
        async def transaction(store: Store) -> AsyncIterator[Tx]:
            made: list[tuple[str, Mapping[str, Any]]] = []
            async with inner(store) as tx:
                self.under[id(tx)] = made
                try:
                    yield tx
                finally:
                    self.under.pop(id(tx), None)
            if made:
                self.deaths.reach(f"{_place(*made[-1])} committed")

        return transaction

    def _registered(self, inner: Any) -> Any:
        async def registered(manager: JobManager) -> int:
            number: int = await inner(manager)
            self.deaths.write("workers", f"{os.getpid()}\t{number}")
            return number

        return registered

    def around(self, function: StepFunction) -> StepFunction:
        """Write down each start of a step."""

        async def watched(context: StepContext, with_: dict[str, JSON]) -> JSON:
            place = f"{context.run}\t{context.path}\t{context.attempt}\t{context._hold.epoch}"
            self.deaths.write("started", f"{time.time()}\t{place}")
            return await function(context, with_)

        return watched


def _writes(text: bytes) -> bool:
    return any(word in text for word in (b"INSERT INTO", b"UPDATE ", b"DELETE FROM")) and b"FOR UPDATE OF" not in text


def _place(name: str, given: Mapping[str, Any]) -> str:
    """Name what a statement is about, the same whenever it is made again."""
    run = given.get("run") or given.get("parent")
    if name in ("take", "park", "finish", "give_back", "told", "revive"):
        run = given.get("id")
    if name == "append_one":
        return f"{run} append {given['paths']}/{given['names']}"
    if name == "append":
        lines = [f"{path}/{called}" for path, called in zip(given["paths"], given["names"], strict=True)]
        return f"{run} append {','.join(lines)}"
    # These are about a run that is not there if this fails: the next one has another id.
    if name == "create":
        return f"create {given.get('dedupe')}"
    if name == "add_people":
        return f"add_people {','.join(given['people'])}"
    what = given.get("path") or given.get("key") or given.get("event") or ""
    return f"{run} {name} {what}" if run else f"{name} {what}"


async def work(site: dict[str, Any]) -> None:
    """Be a worker for ever."""
    watch = Watch(deaths_of(site))
    watch.install()
    folder = pathlib.Path(site["folder"])

    async def confirm(identity: str) -> bool | None:
        return (folder / f"mail {identity}").exists()

    pace = Pace(heartbeat_s=0.1, stall_s=site["stall_s"], recover_s=0.1, poll_s=0.1, grace_s=0.3, concurrency=6)
    account = Account("127.0.0.1", site["smtp_port"], starttls=False)
    parts = Parts(
        catalog=Catalog.from_yaml(site["models"]), transport=Smtp(account), confirm=confirm,
        mail_from="Service <service@exemple.fr>", pace=pace, around=watch.around,
    )  # fmt: skip
    settings = Settings(
        home=folder / "home", config_path=folder / "metier.yaml", config={"connectors": site["connectors"]},
        database_url=site["database_url"], master_key=bytes.fromhex(site["key"]), ca_file=site["ca_file"],
    )  # fmt: skip
    async with build(settings, parts) as app:
        # Here a run dies far more often in a row than a step may bring its worker down.
        app.engine._segments._max_strikes = 10_000
        stop = asyncio.Event()
        (folder / f"ready {os.getpid()}").touch()
        async with asyncio.TaskGroup() as group:
            group.create_task(app.engine.work(stop, [app.review.sweep]))
            if site["triggers"]:
                group.create_task(_triggers(app, site).runner(HASTE).work(stop))


def _triggers(app: App, site: dict[str, Any]) -> Triggers:
    return Triggers.built(
        app.store, app.vault, app.engine, app.keys.principal, Known(site["secrets"]), ca_file=site["ca_file"]
    )


def deaths_of(site: dict[str, Any]) -> Deaths:
    """Read which deaths are to be died."""
    database = None if site["postmaster"] is None else pathlib.Path(site["postmaster"])
    return Deaths(pathlib.Path(site["folder"]), site["every"], database)


def _be(path: pathlib.Path) -> None:
    try:
        asyncio.run(work(json.loads(path.read_text())))
    except BaseException:  # noqa: BLE001  # the end of a process: told, and another one is forked
        (path.parent / f"broke {os.getpid()}").write_text(traceback.format_exc())
        time.sleep(0.2)
    os._exit(1)


def main() -> None:
    """Keep as many workers alive as each site wants, told by a line; one that is over has a file that says so."""
    living: dict[int, pathlib.Path] = {}
    gc.freeze()
    while True:
        if select.select([sys.stdin], [], [], 0.02)[0]:
            # Not by readline: that keeps further lines for itself, where select does not see them.
            read = os.read(sys.stdin.fileno(), 65_536).decode()
            if not read:
                break
            for line in read.splitlines():
                site, _, number = line.rpartition(" ")
                for _ in range(int(number)):
                    _fork(pathlib.Path(site), living)
        for pid, path in [*living.items()]:
            # A folder may be gone before a busy machine has looked into it: then nobody is wanted there either.
            over = (path.parent / "over").exists() or not path.exists()
            if over:
                os.kill(pid, signal.SIGKILL)
            if os.waitpid(pid, 0 if over else os.WNOHANG)[0]:
                del living[pid]
                if not over:
                    _fork(path, living)
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _fork(path: pathlib.Path, living: dict[int, pathlib.Path]) -> None:
    pid = os.fork()
    if pid == 0:
        _be(path)
    living[pid] = path


if __name__ == "__main__":
    main()
