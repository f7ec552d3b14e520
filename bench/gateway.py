"""What a call through the gateway costs in CPU, beside the floor in Python, in the same sitting.

python bench/gateway.py [--seconds 6] [--connections 32] [--limits] [--profile FILE]

Everything is on: key, admission with a budget, masking of personal data (each message differs, so nothing is
remembered), the ledger and its spool, PostgreSQL. CPU is user + system of the server's whole process tree, the
database apart; the load comes from wrk, in a process that is not counted. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psutil
import uvicorn
import uvloop

from metier.api.server import application
from metier.app import App, build
from metier.policy.limits import Limit, LimitPeriod, Measure, Scope
from metier.settings import load

HERE = pathlib.Path(__file__).parent
PATH = "/v1/chat/completions"
_LIMITS: tuple[tuple[Measure, LimitPeriod], ...] = (("requests", "minute"), ("tokens", "minute"), ("tokens", "month"))
QUESTION = "Bonjour, je souhaite savoir où en est mon dossier de remboursement ouvert la semaine dernière, merci."
SCRIPT = """
local n = 0
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer %(key)s"
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, '{"model":"bench","messages":[{"role":"system","content":"Tu es un conseiller."},'
    .. '{"role":"user","content":"Dossier ' .. n .. '. %(question)s"}],"max_tokens":200%(stream)s}')
end
"""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def wait(port: int, process: subprocess.Popen[bytes], seconds: float = 90.0) -> None:
    """Wait until something listens there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.3).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}: {process.args!r}")


def cpu_s(root: int) -> float:
    """CPU seconds of a process and its living descendants."""
    total = 0.0
    process = psutil.Process(root)
    for one in [process, *process.children(recursive=True)]:
        try:
            used = one.cpu_times()
            total += used.user + used.system
        except psutil.NoSuchProcess:
            continue
    return total


@contextmanager
def running(port: int, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server of ours until the block ends."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *command], start_new_session=True, stdout=quiet, stderr=quiet)
    try:
        wait(port, process)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def load_up(port: int, key: str, stream: bool, connections: int, seconds: float) -> dict[str, Any]:
    """Drive a server with wrk."""
    question = {"key": key, "question": QUESTION, "stream": ',"stream":true' if stream else ""}
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % question)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", script.name]
        out = subprocess.run(
            [*command, f"http://127.0.0.1:{port}{PATH}"], capture_output=True, text=True, check=True
        ).stdout

    def found(pattern: str, default: str = "0") -> str:
        match = re.search(pattern, out)
        return match[1] if match else default

    faults = int(found(r"Non-2xx or 3xx responses: (\d+)")) + ("Socket errors" in out)
    return {"calls": int(found(r"(\d+) requests in")), "p50": found(r"50%\s+(\S+)", "-"), "faults": faults}


def measure(name: str, port: int, process: subprocess.Popen[bytes], key: str, options: argparse.Namespace, stream: bool,
            database: int | None = None) -> dict[str, Any]:  # fmt: skip
    """CPU per call under load, and the time of one call alone."""
    load_up(port, key, stream, 4, 1)
    before, base = cpu_s(process.pid), cpu_s(database) if database else 0.0
    run = load_up(port, key, stream, options.connections, options.seconds)
    spent, stored = cpu_s(process.pid) - before, (cpu_s(database) if database else 0.0) - base
    alone = load_up(port, key, stream, 1, 2)
    if run["faults"] or alone["faults"]:
        sys.exit(f"{name}: {run['faults'] + alone['faults']} calls went wrong, so its figures mean nothing")
    calls = max(run["calls"], 1)
    return {
        "name": name,
        "stream": stream,
        "cpu_ms": round(1000 * spent / calls, 3),
        "database_cpu_ms": round(1000 * stored / calls, 3),
        "calls_per_s": round(calls / options.seconds),
        "alone_p50": alone["p50"],
        "memory_mb": round(psutil.Process(process.pid).memory_info().rss / 1e6),
    }


async def serve(home: pathlib.Path, port: int, upstream: str, limits: bool) -> None:
    """Serve the whole platform on one model that answers from `upstream`, and leave the key in the home."""
    home.joinpath("metier.yaml").write_text(
        json.dumps(
            {
                "models": {
                    "bench": {
                        "deployments": [
                            {
                                "provider": "openai",
                                "model_id": "m",
                                "base_url": upstream,
                                "price": {"input": 1, "output": 4},
                                "energy": {"active_b": 8, "total_b": 8, "zone": "FRA"},
                            }
                        ]
                    }
                }
            }
        )
    )
    async with build(load({"METIER_HOME": str(home)})) as app:
        await prepare(app, home, limits)
        config = uvicorn.Config(
            application(app), port=port, log_level="error", access_log=False, lifespan="off", http="httptools"
        )
        await uvicorn.Server(config).serve()


async def prepare(app: App, home: pathlib.Path, limits: bool) -> None:
    """One approved system, a project with a budget, a key; where asked, three limits at each level."""
    system = await app.register.register("Mesure", "Mesurer la passerelle", "Métier")
    await app.register.approve(system.id, by="Métier")
    project = await app.keys.create_project("Mesure")
    await app.admission.set_budget(project.id, Decimal(100_000))
    issued = await app.keys.issue("mesure", project.id, system.id, by="Métier")
    levels: list[tuple[Scope, str]] = [
        ("key", issued.key.id), ("system", system.id), ("project", project.id), ("organisation", "main"),
        ("end_user", project.id),
    ]  # fmt: skip
    for scope, subject in levels if limits else ():
        for measure, period in _LIMITS:
            limit = Limit("", scope, subject, measure, period, Decimal(1_000_000_000))
            await app.admission.limits.set(limit, "Métier")
    home.joinpath("key").write_text(issued.secret)


def ours(options: argparse.Namespace, upstream: str, *, stream: bool) -> dict[str, Any]:
    """Measure the gateway, in a process and a database of its own."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="metier-bench-"))
    port = free_port()
    home.chmod(0o755)
    command = [__file__, "--serve", str(port), "--home", str(home), "--upstream", upstream]
    command += ["--profile", options.profile] if options.profile else []
    command += ["--limits"] if options.limits else []
    try:
        with running(port, *command) as process:
            postmaster = int(next(home.rglob("postmaster.pid")).read_text().split()[0])
            key = home.joinpath("key").read_text()
            name = "Métier"
            return measure(name, port, process, key, options, stream, postmaster)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def floor(options: argparse.Namespace, upstream: str, *, stream: bool) -> dict[str, Any]:
    """Measure the pass-through."""
    port = free_port()
    with running(port, str(HERE / "floor.py"), str(port), f"{upstream}/chat/completions") as process:
        return measure("floor: raw ASGI + aiohttp", port, process, "none", options, stream)


def compare(options: argparse.Namespace) -> None:
    """Measure all of it and print the table."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    rows: list[dict[str, Any]] = []
    # Chunks sent at once can be handled together; a millisecond apart, each one costs its own turn.
    for kind, pause in (("at once", 0.0), ("1 ms apart", 0.001)):
        mock = free_port()
        with running(mock, str(HERE / "mock_upstream.py"), str(mock), "100", str(pause)):
            upstream = f"http://127.0.0.1:{mock}/v1"
            for stream in (False, True):
                if not stream and pause:
                    continue
                found = [floor(options, upstream, stream=stream)]
                found.append(ours(options, upstream, stream=stream))
                rows += [{**row, "chunks": kind if stream else "-"} for row in found]
    print(f"{'':28}{'call':>8}{'chunks':>12}{'CPU ms':>9}{'+ db':>7}{'calls/s':>9}{'alone':>10}{'MB':>6}")
    for row in rows:
        call = "stream" if row["stream"] else "plain"
        print(
            f"{row['name']:28}{call:>8}{row['chunks']:>12}{row['cpu_ms']:9.3f}{row['database_cpu_ms']:7.3f}"
            f"{row['calls_per_s']:9d}{row['alone_p50']:>10}{row['memory_mb']:6d}"
        )
    print(json.dumps({"bench": "gateway", "python": sys.version.split()[0], "rows": rows}, ensure_ascii=False))


def main() -> None:
    """Compare, or be the server that is compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--limits", action="store_true", help="rates, quotas and budgets at every level too")
    parser.add_argument("--profile", default="", help="write a cProfile of our server there")
    parser.add_argument("--serve", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.serve:
        compare(options)
        return
    work = serve(options.home, options.serve, options.upstream, options.limits)
    if not options.profile:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(work)
        return
    with cProfile.Profile() as profile:
        try:
            asyncio.Runner(loop_factory=uvloop.new_event_loop).run(work)
        finally:
            profile.dump_stats(options.profile)


if __name__ == "__main__":
    main()
