"""What a call through the gateway costs in CPU, beside the floor in Python, in the same sitting.

python bench/gateway.py [--seconds 6] [--connections 32] [--limits] [--profile FILE]
    [--floors] [--peers FOLDER] [--grow sizes,keys,deployments,workers] [--drift CALLS]

It is `metier serve` that is measured, with everything on: key, admission with a budget, masking of personal data (each
message differs, so nothing is remembered), the ledger and its spool, metrics, PostgreSQL. CPU is user + system of the
server's whole process tree, the database apart; the load comes from wrk, in a process that is not counted. Everybody
must first deliver what the provider said, every word of it. `--floors` adds nginx and the floor with the parser in
Python; `--peers` runs what a folder has: LiteLLM (bin/litellm of a virtual environment) without a database, and Portkey
(portkey/node_modules/@portkey-ai/gateway); `--grow` adds a table of how the cost grows; `--drift` tells what so many
calls leave in memory. Prints tables and one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

HERE = pathlib.Path(__file__).parent
PATH = "/v1/chat/completions"
PORTKEY = "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
QUESTION = "Bonjour, je souhaite savoir où en est mon dossier de remboursement ouvert la semaine dernière, merci."
FILLER = "Le client écrit au sujet de sa commande et demande quand elle sera livrée à son domicile. "
SCRIPT = """
local n = 0
local keys, key = %(keys)d, "%(key)s"
local more = string.rep("%(filler)s", %(repeated)d)
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer " .. key
%(headers)s
request = function()
  n = n + 1
  if keys > 1 then
    wrk.headers["authorization"] = string.format("Bearer sk-mt-%%012x%%s", n * 7919 %% keys + 1, string.sub(key, 19))
  end
  return wrk.format(nil, nil, nil, '{"model":"bench","messages":[{"role":"system","content":"Tu es un conseiller."},'
    .. '{"role":"user","content":"Dossier ' .. n .. '. %(question)s' .. more .. '"}],"max_tokens":200%(stream)s}')
end
"""


@dataclass(frozen=True)
class Shape:
    """What is asked, by whom, and of what."""

    stream: bool = False
    size: int = 0
    """Characters added to the question."""
    keys: int = 1
    deployments: int = 1
    workers: int = 1
    headers: tuple[tuple[str, str], ...] = ()
    """What a peer must be told with every call."""


class Undelivered(Exception):
    """An answer did not come whole."""


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


def ready(port: int, seconds: float = 60.0) -> None:
    """Wait until calls are served: several workers share a port that listens before any of them does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    sys.exit(f"port {port} was not ready within {seconds:g} s")


def tree(root: int) -> list[psutil.Process]:
    """A process and its living descendants, PostgreSQL apart."""
    process = psutil.Process(root)
    return [one for one in [process, *process.children(recursive=True)] if "postgres" not in one.name()]


def cpu_s(processes: list[psutil.Process]) -> float:
    """CPU seconds of some processes."""
    total = 0.0
    for one in processes:
        try:
            used = one.cpu_times()
            total += used.user + used.system
        except psutil.NoSuchProcess:
            continue
    return total


def memory_mb(root: int) -> float:
    """Resident memory of the largest process of a tree: of a worker."""
    return max(one.memory_info().rss for one in tree(root)) / 1e6


@contextmanager
def running(port: int, *command: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, start_new_session=True, stdout=quiet, stderr=quiet, env=os.environ | env)
    try:
        wait(port, process)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def load_up(port: int, key: str, shape: Shape, connections: int, seconds: float) -> dict[str, Any]:
    """Drive a server with wrk."""
    question = {
        "key": key, "keys": shape.keys, "question": QUESTION, "stream": ',"stream":true' if shape.stream else "",
        "filler": FILLER, "repeated": shape.size // len(FILLER),
        "headers": "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in shape.headers),
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % question)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "20s"]
        command += ["-s", script.name, f"http://127.0.0.1:{port}{PATH}"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def found(pattern: str, default: str = "0") -> str:
        match = re.search(pattern, out)
        return match[1] if match else default

    faults = int(found(r"Non-2xx or 3xx responses: (\d+)")) + ("Socket errors" in out)
    return {"calls": int(found(r"(\d+) requests in")), "p50": found(r"50%\s+(\S+)", "-"), "faults": faults}


def delivered(name: str, port: int, key: str, shape: Shape) -> None:
    """See that an answer comes whole, with every word of the provider's, before anything is measured."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"model": "bench", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 200}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", **dict(shape.headers)}
    connection.request("POST", PATH, json.dumps(body | {"stream": shape.stream}), headers)
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    text, ended = "", False
    if response.status != http.HTTPStatus.OK:
        pass
    elif shape.stream:
        events = [event.removeprefix("data: ") for event in answer.split("\n\n") if event.startswith("data: ")]
        parts = [json.loads(event)["choices"] for event in events if event != "[DONE]"]
        text, ended = "".join(part[0]["delta"].get("content") or "" for part in parts if part), "[DONE]" in events
    else:
        text, ended = json.loads(answer)["choices"][0]["message"]["content"], True
    if text.split() != [f"mot{number}" for number in range(100)] or not ended:
        raise Undelivered(f"{name}: the answer did not come whole, so there is no figure: {answer[-300:]!r}")


def first_token_ms(port: int, key: str, calls: int = 200) -> float:
    """Milliseconds from a request to the first bytes of its answer, one call at a time: the median."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    took: list[float] = []
    for number in range(calls):
        message = {"role": "user", "content": f"Dossier {number}. {QUESTION}"}
        body = json.dumps({"model": "bench", "messages": [message], "max_tokens": 200, "stream": True})
        began = time.perf_counter()
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", PATH, body, headers)
        response = connection.getresponse()
        response.read1(16)
        took.append(1000 * (time.perf_counter() - began))
        response.read()
    connection.close()
    return round(statistics.median(took), 2)


def measure(name: str, port: int, process: subprocess.Popen[bytes], key: str, options: argparse.Namespace, shape: Shape,
            database: int | None = None) -> dict[str, Any]:  # fmt: skip
    """CPU per call under load, and the time of one call alone."""
    delivered(name, port, key, shape)
    load_up(port, key, shape, 4, 1 + shape.workers)
    ours, base = tree(process.pid), [psutil.Process(database)] if database else []
    base += [child for one in base for child in one.children(recursive=True)]
    before, stored = cpu_s(ours), cpu_s(base)
    run = load_up(port, key, shape, options.connections, options.seconds)
    spent, stored = cpu_s(ours) - before, cpu_s(base) - stored
    alone = load_up(port, key, shape, 1, 2)
    if run["faults"] or alone["faults"]:
        sys.exit(f"{name}: {run['faults'] + alone['faults']} calls went wrong, so its figures mean nothing")
    calls = max(run["calls"], 1)
    row = {
        "name": name,
        **{key: value for key, value in vars(shape).items() if key != "headers"},
        "cpu_ms": round(1000 * spent / calls, 3),
        "database_cpu_ms": round(1000 * stored / calls, 3),
        "calls_per_s": round(calls / options.seconds),
        "alone_p50": alone["p50"],
        "first_token_ms": first_token_ms(port, key) if shape.stream and shape.keys == 1 else None,
        "memory_mb": round(memory_mb(process.pid)),
    }
    print(json.dumps(row, ensure_ascii=False), file=sys.stderr, flush=True)
    return row


@contextmanager
def served(options: argparse.Namespace, upstream: str, shape: Shape) -> Iterator[tuple[int, Any, str, int]]:
    """Serve a house of its own with `metier serve`: its port, process, key, and the process of its database."""
    home, port = pathlib.Path(tempfile.mkdtemp(prefix="metier-bench-")), free_port()
    home.chmod(0o755)
    house = [str(HERE / "gateway_house.py"), str(home), upstream, *(["--limits"] if options.limits else [])]
    house += ["--keys", str(shape.keys), "--deployments", str(shape.deployments)]
    metier = str(pathlib.Path(sys.executable).with_name("metier"))
    profile = ["-m", "cProfile", "-o", options.profile] if options.profile else []
    command = [*profile, metier, "serve", "--port", str(port), "--no-work", "--workers", str(shape.workers)]
    try:
        subprocess.run([sys.executable, *house], check=True, capture_output=True)
        with running(port, sys.executable, *command, METIER_HOME=str(home)) as process:
            ready(port)
            postmaster = int(next(home.rglob("postmaster.pid")).read_text().split()[0])
            yield port, process, home.joinpath("key").read_text(), postmaster
    finally:
        shutil.rmtree(home, ignore_errors=True)


def ours(options: argparse.Namespace, upstream: str, shape: Shape) -> dict[str, Any]:
    """Measure the gateway."""
    with served(options, upstream, shape) as (port, process, key, postmaster):
        return measure("Métier", port, process, key, options, shape, postmaster)


def floor(options: argparse.Namespace, upstream: str, shape: Shape, parser: str = "httptools") -> dict[str, Any]:
    """Measure the pass-through."""
    port = free_port()
    command = [sys.executable, str(HERE / "floor.py"), str(port), f"{upstream}/chat/completions", parser]
    with running(port, *command) as process:
        return measure(f"floor: raw ASGI + aiohttp, {parser}", port, process, "none", options, shape)


def h11_floor(options: argparse.Namespace, upstream: str, shape: Shape) -> dict[str, Any]:
    """Measure the pass-through as uvicorn alone runs it, with its HTTP parser in Python."""
    return floor(options, upstream, shape, "h11")


def nginx(options: argparse.Namespace, upstream: str, shape: Shape) -> dict[str, Any]:
    """Measure a plain proxy in C: what the machine and the sockets cost, whatever the language."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="metier-bench-") as folder:
        place = pathlib.Path(folder, "nginx.conf")
        there = upstream.removeprefix("http://").removesuffix("/v1")
        place.write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log /dev/null; events {{}}\n"
            f"http {{ access_log off; upstream there {{ server {there}; keepalive 64; }}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://there; proxy_http_version 1.1;"
            ' proxy_set_header Connection ""; } } }\n'
        )
        with running(port, "nginx", "-p", folder, "-c", str(place)) as process:
            return measure("nginx, plain proxy", port, process, "none", options, shape)


def portkey(options: argparse.Namespace, upstream: str, shape: Shape) -> dict[str, Any]:
    """Measure Portkey's gateway, which knows no key of its own, no budget and no record."""
    port = free_port()
    told = (("x-portkey-provider", "openai"), ("x-portkey-custom-host", upstream))
    command = ["node", str(options.peers / PORTKEY), f"--port={port}", "--headless"]
    with running(port, *command, NODE_ENV="production", TRUSTED_CUSTOM_HOSTS="127.0.0.1") as process:
        return measure("Portkey", port, process, "none", options, dataclasses.replace(shape, headers=told))


def litellm(options: argparse.Namespace, upstream: str, shape: Shape) -> dict[str, Any]:
    """Measure LiteLLM's proxy with its key check, without its database: with less to do than ours."""
    port, key = free_port(), "sk-peer-measured-here"
    if shape.stream:
        # With as many streams at once as ours takes, none would end within the time measured.
        options = argparse.Namespace(**{**vars(options), "connections": min(4, options.connections)})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        params = {"model": "openai/m", "api_base": upstream, "api_key": "none"}
        model = {"model_name": "bench", "litellm_params": params}
        json.dump({"model_list": [model], "general_settings": {"master_key": key}}, file)
        file.flush()
        command = ["--config", file.name, "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
        # Nothing is fetched from outside: the list of prices is the one it ships with.
        with running(port, str(options.peers / "bin" / "litellm"), *command, LITELLM_LOCAL_MODEL_COST_MAP="True",
                     LITELLM_LOG="ERROR") as process:  # fmt: skip
            return measure("LiteLLM, no database", port, process, key, options, shape)


def drift(options: argparse.Namespace, upstream: str) -> dict[str, Any]:
    """Tell what so many calls leave in memory, after a tenth of them to warm up."""
    with served(options, upstream, Shape()) as (port, process, key, _):
        done, marks = 0, []
        for part in (0.1, 0.55, 1.0):
            while done < part * options.drift:
                run = load_up(port, key, Shape(), options.connections, min(30.0, 1 + options.drift / 5000))
                done += run["calls"]
                if run["faults"]:
                    sys.exit(f"{run['faults']} calls went wrong, so the drift means nothing")
            time.sleep(1)
            marks.append((done, round(memory_mb(process.pid), 1)))
            print(marks[-1], file=sys.stderr, flush=True)
        return {"name": "drift", "marks": marks, "percent": round(100 * (marks[-1][1] / marks[0][1] - 1), 2)}


def grow(options: argparse.Namespace, upstream: str) -> list[dict[str, Any]]:
    """Measure plain calls as one thing grows and the others stay."""
    shapes = {
        "sizes": [Shape(size=size) for size in (1_000, 10_000, 100_000, 1_000_000)],
        "keys": [Shape(keys=number) for number in (10, 100_000)],
        "deployments": [Shape(deployments=number) for number in (2, 500)],
        "workers": [Shape(workers=number) for number in (1, 2)],
    }
    return [ours(options, upstream, shape) for what in options.grow.split(",") for shape in shapes[what]]


def subjects(options: argparse.Namespace) -> list[Callable[[argparse.Namespace, str, Shape], dict[str, Any]]]:
    """Say who is measured, in this order."""
    found: list[Callable[[argparse.Namespace, str, Shape], dict[str, Any]]] = [floor, ours]
    if options.floors:
        found = [nginx, floor, h11_floor, ours]
    if options.peers and options.peers.joinpath("bin", "litellm").exists():
        found.append(litellm)
    if options.peers and options.peers.joinpath(PORTKEY).exists():
        found.append(portkey)
    return found


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure floor, gateway and peer on plain calls and streams."""
    rows: list[dict[str, Any]] = []
    # Chunks sent at once can be handled together; a millisecond apart, each one costs its own turn.
    for kind, pause in (("at once", 0.0), ("1 ms apart", 0.001)):
        with mocked(pause) as upstream:
            for stream in (False, True):
                if not stream and pause:
                    continue
                for subject in subjects(options):
                    try:
                        row = subject(options, upstream, Shape(stream))
                    except Undelivered as reason:
                        if subject is ours:
                            raise
                        print(reason, file=sys.stderr)
                        continue
                    rows.append({**row, "chunks": kind if stream else "-"})
    return rows


@contextmanager
def mocked(pause: float) -> Iterator[str]:
    """A provider in a process of its own."""
    port = free_port()
    with running(port, sys.executable, str(HERE / "mock_upstream.py"), str(port), "100", str(pause)):
        yield f"http://127.0.0.1:{port}/v1"


def show(rows: list[dict[str, Any]], what: list[str]) -> None:
    """Print a table; `what` are the columns that tell the rows apart."""
    columns = [*what, "cpu_ms", "database_cpu_ms", "calls_per_s", "alone_p50", "first_token_ms", "memory_mb"]
    lines = [columns, *([str(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print()


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--limits", action="store_true", help="rates, quotas and budgets at every level too")
    parser.add_argument("--profile", default="", help="write a cProfile of our server there")
    parser.add_argument("--floors", action="store_true", help="nginx, and the floor with the parser in Python, too")
    parser.add_argument("--peers", type=pathlib.Path, help="a folder with LiteLLM, Portkey or both")
    parser.add_argument("--grow", default="", help="any of sizes,keys,deployments,workers")
    parser.add_argument("--drift", type=int, default=0, help="a number of calls")
    parser.add_argument("--only", action="store_true", help="leave the first table out")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    told: dict[str, Any] = {"bench": "gateway", "python": sys.version.split()[0]}
    if not options.only:
        told["rows"] = compare(options)
        show(told["rows"], ["name", "stream", "chunks"])
    with mocked(0.0) as upstream:
        if options.grow:
            told["growth"] = grow(options, upstream)
            show(told["growth"], ["size", "keys", "deployments", "workers"])
        if options.drift:
            told["drift"] = drift(options, upstream)
            print(f"memory after so many calls, MB: {told['drift']['marks']}, {told['drift']['percent']} %\n")
    print(json.dumps(told, ensure_ascii=False))


if __name__ == "__main__":
    main()
