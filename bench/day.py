"""A day in the life of two nodes: mixed calls of four projects through restarts, a kill and outages; then the books.

    python bench/day.py [--calls 2000] [--rate 250] [--users 24] [--workers 2] [--outage 20] [--database 10]
                        [--brisk] [--direct]

Starts PostgreSQL, two nodes with homes of their own, nginx before them with deploy/nginx/metier.conf (where nginx is
installed; --direct goes without), and a provider that writes down what it served. In the course of the day node A is
restarted worker by worker, a system is suspended and approved again, a key is rotated and another revoked, a worker of
node B is killed, PostgreSQL is stopped and started, and the provider hangs, refuses, breaks and cuts streams. In the
end both nodes stop, and clients, provider and ledger must tell one story: nothing lost, nothing double, budgets exact.
Prints the report and one JSON line; leaves with 1 when anything disagrees.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import platform
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import aiohttp
import psycopg
import uvloop
from day_books import Books, House, read_journal
from day_clients import Address, Day, Phase, users
from day_nodes import Node, free_port, until
from psycopg.rows import dict_row

from metier.governance.register import ADMITTED, Register
from metier.policy.admission import Admission
from metier.policy.keys import Keys
from metier.policy.limits import Limit
from metier.postgres import Embedded
from metier.store import Store, create_database
from metier.vault import Vault

HERE = pathlib.Path(__file__).resolve().parent
SHARES = {"alpha": 30, "alpha 2": 8, "hurried": 4, "beta": 22, "gamma": 22, "delta": 14}
"""Keys, and how many of a hundred calls are made with each."""
PRICES = {"chat-a": (1, 4), "chat-b": (2, 8), "solo-a": (1, 4), "embed-a": (1, 1), "embed-b": (1, 1)}
_HURRIED = 30
_TOGETHER = 4


def sheet(provider: int) -> dict[str, Any]:
    """The metier.yaml of both nodes."""

    def one(name: str, **more: object) -> dict[str, Any]:
        price = PRICES[name]
        return {"id": name, "provider": "openai", "model_id": "m", "base_url": f"http://127.0.0.1:{provider}/{name[-1]}/v1",
                "price": {"input": price[0], "output": price[1]}, "first_token_s": 3, "between_s": 3, "timeout_s": 6,
                "context_tokens": 8192, "max_output_tokens": 400, **more}  # fmt: skip

    return {
        "models": {
            "chat": {"deployments": [one("chat-a"), one("chat-b")]},
            "solo": {"deployments": [one("solo-a")]},
            "embed": {"operation": "embed", "deployments": [one("embed-a"), one("embed-b")]},
        },
        "systems": {"repeats": {"cache": "exact"}},
    }


class World:
    """Everything that runs for the day, and what happens to it."""

    def __init__(self, folder: pathlib.Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.provider = free_port()
        self.a, self.b = Node("A", folder / "a", free_port()), Node("B", folder / "b", free_port())
        self.master = secrets.token_bytes(32)
        self.embedded = Embedded(folder / "database", options=("max_connections=300",))
        self.house = House({}, PRICES, frozenset(), frozenset())
        self.day: Day | None = None
        self.ids: dict[str, str] = {}
        self.notes: list[str] = []
        self.front = 0
        """The port nginx has for clients; 0 without it."""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """Start everything, and end whatever still runs."""
        url = await asyncio.to_thread(self.embedded.start)
        await create_database(self.embedded.url("postgres"), "metier")
        (self.folder / "metier.yaml").write_text(json.dumps(sheet(self.provider)))
        environment = {"METIER_DATABASE_URL": url, "METIER_MASTER_KEY": self.master.hex(),
                       "METIER_CONFIG": str(self.folder / "metier.yaml")}  # fmt: skip
        provider = self._mock()
        running = [provider]
        try:
            # Both at once: they find the same empty database, and one of them makes the tables.
            for node in (self.a, self.b):
                node.start(environment, self.options.workers)
                assert node.process is not None
                running.append(node.process)
            for node in (self.a, self.b):
                await node.ready()
            if not self.options.direct and shutil.which("nginx") is not None:
                running.append(self._nginx())
            async with Store(url, size=4) as store:
                yield store
        finally:
            for process in reversed(running):
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            for process in reversed(running):
                try:
                    await asyncio.to_thread(process.wait, 60)
                except subprocess.TimeoutExpired:
                    process.kill()
            await asyncio.to_thread(self.embedded.stop)

    def _mock(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "day_provider.py"), str(self.provider), str(self.folder / "journal")]
        return subprocess.Popen(command, start_new_session=True)

    def _nginx(self) -> subprocess.Popen[bytes]:
        """Run nginx on the configuration this repository ships, with the addresses of here."""
        place = self.folder / "nginx"
        place.mkdir()
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ai.example",
             "-addext", "subjectAltName=DNS:ai.example", "-keyout", place / "key.pem", "-out", place / "cert.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        self.front = free_port()
        text = (HERE.parent / "deploy/nginx/metier.conf").read_text()
        for before, after in (
            ("10.0.0.11:8400", f"127.0.0.1:{self.a.port}"), ("10.0.0.12:8400", f"127.0.0.1:{self.b.port}"),
            ("listen 80;", f"listen 127.0.0.1:{free_port()};"), ("listen 443", f"listen 127.0.0.1:{self.front}"),
            ("/etc/ssl/ai.example.pem", str(place / "cert.pem")),
            ("/etc/ssl/private/ai.example.key", str(place / "key.pem")),
        ):  # fmt: skip
            if before not in text:
                sys.exit(f"deploy/nginx/metier.conf has no {before!r} any more")
            text = text.replace(before, after)
        (place / "metier.conf").write_text(text)
        # The rest is what a distribution puts around the files of its conf.d.
        (place / "nginx.conf").write_text(
            f"worker_processes 1; pid {place}/pid; error_log {place}/error.log; daemon off;\n"
            "events { worker_connections 2048; }\n"
            f"http {{ access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;\n"
            f"fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n"
            f"keepalive_requests 1000000; include {place}/metier.conf; }}\n"
        )
        done = subprocess.run(["nginx", "-t", "-p", place, "-c", place / "nginx.conf"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"nginx does not take deploy/nginx/metier.conf: {done.stderr}")
        return subprocess.Popen(["nginx", "-p", place, "-c", place / "nginx.conf"], start_new_session=True)

    def addresses(self) -> list[Address]:
        """Where clients go: to nginx, or to both nodes."""
        if not self.front:
            return [Address(self.a.port), Address(self.b.port)]
        return [Address(self.front, ssl.create_default_context(cafile=self.folder / "nginx" / "cert.pem"))]

    async def furnish(self, store: Store) -> Day:
        """Make two organisations, four projects, their systems, keys, budgets and rates."""
        register, by = Register(store), "bench"
        self.register, self.keys = register, Keys(store, Vault(self.master), register.statuses, frozenset(ADMITTED))
        self.admission = Admission(store, "bench", register.statuses, frozenset(ADMITTED))
        found: dict[str, str] = {}
        for organisation, projects in {"north": ("alpha", "beta"), "south": ("gamma", "delta")}.items():
            owner = await self.keys.create_organisation(organisation)
            self.ids[organisation] = owner.id
            for project in projects:
                self.ids[project] = (await self.keys.create_project(project, owner.id)).id
        for key, project in {"alpha": "alpha", "alpha 2": "alpha", "hurried": "alpha", "beta": "beta",
                             "repeats": "beta", "gamma": "gamma", "delta": "delta"}.items():  # fmt: skip
            system = await register.register(key, "A day", by)
            await register.approve(system.id, by)
            self.ids[f"system {key}"] = system.id
            issued = await self.keys.issue(key, self.ids[project], system.id, by)
            found[key], self.ids[f"key {key}"] = issued.secret, issued.key.id
        set_ = self.admission.limits.set
        await set_(Limit("", "organisation", self.ids["north"], "money", "month", Decimal(1000)), by)
        await set_(Limit("", "project", self.ids["alpha"], "money", "month", Decimal(500)), by)
        await set_(Limit("", "project", self.ids["gamma"], "money", "day", Decimal(500)), by)
        # About half of what this project would spend.
        thin = (Decimal(self.options.calls) * Decimal("0.0000075")).quantize(Decimal("0.000001"))
        await set_(Limit("", "project", self.ids["delta"], "money", "month", thin), by)
        await set_(Limit("", "key", self.ids["key hurried"], "requests", "minute", Decimal(_HURRIED)), by)
        await set_(Limit("", "project", self.ids["beta"], "concurrency", "now", Decimal(_TOGETHER)), by)
        self.house.keys = {self.ids[f"key {key}"]: key for key in found}
        self.house.hurried = ("hurried", _HURRIED)
        self.house.together = (frozenset({"beta", "repeats"}), _TOGETHER)
        self.day = Day(self.options.seed, found, SHARES, max(20, self.options.calls // 200))
        return self.day

    def phases(self) -> list[Phase]:
        """The day: who is disturbed when, and for how many of the calls."""
        outage, database = self.options.outage, self.options.database
        planned: list[tuple[str, float, float, Callable[[], Any] | None]] = [
            ("a quiet morning", 0.2, 0, None),
            ("node A restarted, worker by worker", 0.15, 6 * self.options.workers, self.restarted),
            ("suspended, approved; keys rotated, revoked", 0.1, 8, self.decided),
            ("a worker of node B killed -9", 0.1, 5, self.killed),
            (f"PostgreSQL stopped for {database:g} s", 0.15, database + 3, self.database_stopped),
            (f"the provider out for {outage:g} s", 0.15, outage + 2, self.provider_out),
            ("a quiet evening", 0.15, 0, None),
        ]
        if self.options.brisk:
            planned[1:4] = [("restart, kill and decisions at once", 0.35, 12, self.all_at_once)]
        first = 1 if self.options.brisk else 3
        self.house.harsh, self.house.trying = frozenset({first}), frozenset({first, first + 1, first + 2})
        made = []
        for name, share, seconds, event in planned:
            calls = max(1, round(self.options.calls * share))
            pace = min(self.options.rate, calls / seconds) if seconds else self.options.rate
            made.append(Phase(name, calls, pace, event))
        return made

    async def restarted(self) -> None:
        """Replace the workers of node A."""
        assert self.a.process is not None
        before, began = {one.pid for one in self.a.workers()}, time.monotonic()
        self.a.process.send_signal(signal.SIGHUP)
        await until(lambda: not before & {one.pid for one in self.a.workers()}, "the end of the old workers")
        self.notes.append(f"node A: {len(before)} workers replaced in {time.monotonic() - began:.1f} s")

    async def all_at_once(self) -> None:
        """For a short day."""
        await asyncio.gather(self.restarted(), self.killed(), self.decided())

    async def decided(self) -> None:
        """Suspend a system and approve it again; rotate a key; revoke another."""
        assert self.day is not None
        await asyncio.sleep(0.5)
        since = time.time()
        await self.register.suspend(self.ids["system gamma"], "bench", "an incident")
        self.house.suspended = ("gamma", since, float("inf"))
        issued = await self.keys.rotate(self.ids["key alpha"], 3600)
        self.day.secrets["alpha"] = issued.secret
        await asyncio.sleep(4)
        self.house.suspended = ("gamma", since, time.time())
        await self.register.approve(self.ids["system gamma"], "bench")
        await self.keys.revoke(self.ids["key alpha 2"], "bench")
        self.house.revoked = ("alpha 2", time.time())
        await asyncio.sleep(2)

    async def killed(self) -> None:
        """Kill a worker of node B in the middle of its calls."""
        await asyncio.sleep(0.5)
        victim, began = self.b.workers()[0], time.monotonic()
        number = len(self.b.workers())
        victim.kill()
        await until(lambda: victim.pid not in {w.pid for w in self.b.workers()} and len(self.b.workers()) == number,
                    "another worker")  # fmt: skip
        await asyncio.sleep(1)
        self.notes.append(f"node B: a worker killed, another started within {time.monotonic() - began:.1f} s")

    async def database_stopped(self) -> None:
        """Stop PostgreSQL, and start it again."""
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await asyncio.to_thread(self.embedded.stop)
        await asyncio.sleep(max(0.0, self.options.database - (time.monotonic() - began)))
        await asyncio.to_thread(self.embedded.start)
        self.notes.append(f"PostgreSQL was away for {time.monotonic() - began:.1f} s")
        await asyncio.sleep(1)

    async def provider_out(self) -> None:
        """Let the first house hang, refuse, break, and cut its answers, one after the other."""
        for mode in ("hang", "storm", "error", "cut"):
            await self.tell("mode", {"a": mode})
            await asyncio.sleep(self.options.outage / 4)
        await self.tell("mode", {"a": "ok"})
        await asyncio.sleep(1)

    async def tell(self, path: str, body: object) -> None:
        """Say something to the provider itself."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{self.provider}/{path}", json=body) as response,
        ):
            assert response.status == 200

    async def drained(self) -> list[str]:
        """Wait until the dead worker's records are taken over, stop both nodes, and look at what they leave."""
        wrong = []
        for node in (self.a, self.b):
            living = len(node.workers())
            try:
                await until(lambda n=node, w=living: len([*(n.home / "spool").iterdir()]) <= w, "the take-over", 40)
            except TimeoutError:
                wrong.append(f"node {node.name}: the spool of a dead worker was not taken over within 40 s")
        codes = await asyncio.gather(self.a.stop(), self.b.stop())
        for node, code in zip((self.a, self.b), codes, strict=True):
            wrong += [f"node {node.name} left with {code}"] if code else []
            wrong += [f"node {node.name} left in its spool: {left}" for left in node.left()]
            log = (node.home / "log").read_text(errors="replace")
            wrong += [f"node {node.name} said: {line}" for line in log.splitlines() if "Traceback" in line][:2]
        return wrong


async def live(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Live the day, make the books, print the report."""
    world = World(folder, options)
    async with world.open() as store:
        day, phases, nodes = await world.furnish(store), world.phases(), (world.a, world.b)
        memory = {node.name: [node.memory()] for node in nodes}
        began = time.monotonic()
        await users(day, world.addresses(), options.users, phases, lambda: sum(node.used() for node in nodes))
        seconds, cpu = time.monotonic() - began, sum(phase.cpu_s for phase in phases)
        for node in nodes:
            memory[node.name].append(node.memory())
        wrong = await world.drained()
        await world.tell("flush", {})
        books = Books(world.house, day.said, read_journal(folder / "journal"))
        books.wrong += wrong
        with psycopg.connect(world.embedded.url(), row_factory=dict_row) as connection:
            books.close(connection, phases, await world.admission.drift())
        calls = len(day.said)
        front = "nginx with TLS in front" if world.front else "no proxy"
        print(
            f"{calls} calls in {seconds:.0f} s ({calls / seconds:.0f} calls/s), two nodes of {options.workers} "
            f"workers, {front}, Python {platform.python_version()}, {os.cpu_count()} cores"
        )
        print("\n".join([*books.lines, *books.added(phases), *world.notes]))
        print(f"CPU of the nodes per call: {1000 * cpu / calls:.2f} ms, waiting for the provider not counted")
        for name, (first, last) in memory.items():
            print(f"node {name}: MB of its workers at the start {first}, at the end {last}")
        print("spool of both nodes: empty" if not any(node.left() for node in nodes) else "spool: NOT EMPTY")
    print("\n".join(f"WRONG: {line}" for line in books.wrong) or "HOLDS: nothing lost, nothing double, budgets exact")
    return {"bench": "day", "calls": calls, "seconds": round(seconds, 1), "proxy": bool(world.front),
            "rows": len(books.rows), "cpu_ms_per_call": round(1000 * cpu / calls, 3), "wrong": len(books.wrong),
            "memory_mb": memory}  # fmt: skip


@contextlib.contextmanager
def workplace(keep: bool) -> Iterator[pathlib.Path]:
    """A folder others may enter, since PostgreSQL runs under another account when we are root."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="metier-day-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"kept: {folder}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, live the day, and fail when anything disagrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2_000, help="calls at least; the whole bar is 200000")
    parser.add_argument("--rate", type=float, default=250.0, help="calls a second at most")
    parser.add_argument("--users", type=int, default=24, help="clients at a time")
    parser.add_argument("--workers", type=int, default=2, help="workers of each node")
    parser.add_argument("--outage", type=float, default=20.0, help="seconds the provider is out")
    parser.add_argument("--database", type=float, default=10.0, help="seconds PostgreSQL is stopped")
    parser.add_argument("--brisk", action="store_true", help="let some of what happens happen at once")
    parser.add_argument("--direct", action="store_true", help="no nginx: clients go to the nodes themselves")
    parser.add_argument("--seed", type=int, default=7, help="of the dice the clients throw")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and journal")
    options = parser.parse_args(arguments)
    with workplace(options.keep) as folder:
        told = uvloop.run(live(options, folder))
    print(json.dumps(told))
    sys.exit(1 if told["wrong"] else 0)


if __name__ == "__main__":
    main()
