"""The five patterns and an agent, once, with the real local model: what they cost and how often they are right.

    python bench/patterns.py [--home FOLDER] [--only front-desk,product-notice]

Each template runs on small labelled cases (bench/patterns.yaml): share right with its 95 % interval (Wilson),
model calls, tokens, seconds, Wh. Evaluator-optimizer is compared, notice by notice, with its own first turn, which is
what one call gives: the gain with a paired bootstrap interval. The model must be in FOLDER (`metier models pull`). On
two cores it takes about twenty minutes; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import pathlib
import random
import secrets
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml
from rich.markup import escape

from metier import settings as configuration
from metier.app import App, Parts, build
from metier.calls import Principal
from metier.catalog import Catalog
from metier.cli import demo, preparation
from metier.cli.terminal import Terminal
from metier.testing import caller
from metier.workflow.definition import load

CASES = pathlib.Path(__file__).with_name("patterns.yaml")


@dataclass(slots=True)
class Tally:
    """What one pattern cost and how often it was right."""

    right: int = 0
    of: int = 0
    runs: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_eur: Decimal = Decimal(0)
    wh: list[float] = field(default_factory=lambda: [0.0, 0.0])
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def wilson(right: int, of: int) -> tuple[float, float]:
    if not of:
        return 0.0, 1.0
    share, z2 = right / of, 1.96**2
    middle, width = share + z2 / (2 * of), 1.96 * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return (middle - width) / (1 + z2 / of), (middle + width) / (1 + z2 / of)


def bootstrap(gains: list[float]) -> tuple[float, float]:
    draws = random.Random(7)
    means = sorted(sum(draws.choices(gains, k=len(gains))) / len(gains) for _ in range(10_000))
    return means[250], means[9_749]


async def play(app: App, who: Principal, name: str, inputs: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """Run a template once, to its end or to the first person it asks, and give what each step gave by path."""
    began = time.monotonic()
    run = await app.engine.start(load(preparation.TEMPLATES / name / "flow.yaml"), inputs, who)
    await app.engine.drain()
    tally.seconds += time.monotonic() - began
    tally.runs += 1
    await app.ledger.flush()
    for row in await app.ledger.of_run(run):
        tally.calls += 1
        tally.tokens_in += row["input_tokens"]
        tally.tokens_out += row["output_tokens"]
        tally.cost_eur += row["cost_eur"]
        for side, key in enumerate(("energy_low_kwh", "energy_high_kwh")):
            tally.wh[side] += 1000 * float(row[key] or 0)
    found = await app.engine.get(run)
    if found.failure is not None:
        tally.failed.append(f"{found.failure.path}: {found.failure.code}: {found.failure.message[:200]}")
    steps = {s.path: s.value for s in await app.engine.steps(run) if s.kind == "result" and not s.name}
    used = [s.value for s in await app.engine.steps(run) if ".tool." in s.name and not s.name.startswith("!")]
    output = await app.engine.result(run) if found.status == "done" else None
    return {**steps, "output": output, "status": found.status, "used": used}


def judge(name: str, case: dict[str, Any], got: dict[str, Any], tally: Tally) -> None:
    """Count what is right of one run."""
    output = got["output"] if isinstance(got["output"], dict) else {}
    checks: dict[str, bool] = {}
    if name == "meeting-minutes":
        named = sorted({a["who"] for a in output.get("actions", [])})
        checks["who"] = named == case["who"]
        tally.said.append(f"{named}; put aside: {[a['who'] for a in output.get('doubtful', [])]}")
    elif name == "front-desk":
        kind = (got.get("kind") or {}).get("kind")
        checks["kind"] = kind == case["kind"]
        tally.said.append(f"{case['kind']} → {kind}")
    elif name == "contract-check":
        read = {key: value for path, value in got.items() if path.startswith("read.") for key, value in value.items()}
        policy = got.get("policy") or {}
        checks = {key: {**read, **policy}.get(key) == value for key, value in case["want"].items()}
        votes = [got[f"votes[{n}].vote"]["risk"] for n in range(3) if f"votes[{n}].vote" in got]
        tally.said.append(f"{ {k: v for k, v in read.items() if k != 'quote'} } {policy} votes {votes}")
    elif name == "tender-answer":
        workers = sum(path.endswith(".worker") for path in got)
        checks = {"points": workers == case["points"], "open": len(output.get("open", [0] * 9)) == case["open"]}
        tally.said.append(f"{workers} workers, open: {output.get('open')}")
    elif name == "agent-desk":
        # Right is what only the customer file can tell, and was looked up there: naming the question's words is not.
        answer, results = str(output.get("answer", "")), [u.get("ok") for u in got["used"] if isinstance(u, dict)]
        looked = any(isinstance(result, dict) and "orders" in result for result in results)
        checks = {"says": looked and any(part in answer for part in case["says"])}
        tally.said.append(f"{got['status']}, {len(results)} tool calls, looked up: {looked}: {answer[:160]}")
    tally.right += sum(checks.values())
    tally.of += len(checks)


async def notices(app: App, who: Principal, book: dict[str, Any], terminal: Terminal) -> tuple[Tally, dict[str, Any]]:
    """Evaluator-optimizer against one call, on the same notices."""
    tally, pairs = Tally(), []
    for case in book["cases"]:
        got = await play(app, who, "product-notice", {**book["defaults"], **case}, tally)
        first, kept = got.get("refine#1.check"), got["output"]
        if not isinstance(first, dict) or not isinstance(kept, dict):
            pairs.append((0.0, 0.0, False, False, 0))
            continue
        pairs.append((first["score"], kept["score"], first["ok"], kept["ok"], kept["turns"]))
        tally.said.append(
            f"{case['product']}: {first['score']:.2f} → {kept['score']:.2f} in {kept['turns']} {kept['wrong']}"
        )
        terminal.say(escape(f"  {tally.said[-1]}\n    {kept['text']}"))
    tally.right, tally.of = sum(pair[3] for pair in pairs), len(pairs)
    gains = [after - before for before, after, *_ in pairs]
    low, high = bootstrap(gains)
    passes = [float(after) - float(before) for _, _, before, after, _ in pairs]
    first, last = bootstrap(passes)
    return tally, {
        "one_call_score": round(sum(p[0] for p in pairs) / len(pairs), 3),
        "kept_score": round(sum(p[1] for p in pairs) / len(pairs), 3),
        "gain": round(sum(gains) / len(gains), 3), "gain_interval": [round(low, 3), round(high, 3)],
        "one_call_all_met": sum(p[2] for p in pairs), "kept_all_met": sum(p[3] for p in pairs), "notices": len(pairs),
        "all_met_gain": round(sum(passes) / len(passes), 3), "all_met_interval": [round(first, 3), round(last, 3)],
        "turns": sum(p[4] for p in pairs), "worse": sum(gain < 0 for gain in gains),
    }  # fmt: skip


async def work(home: pathlib.Path, only: set[str]) -> None:
    terminal = Terminal(False)
    settings = dataclasses.replace(configuration.load(), home=home)
    book = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    parts = Parts(
        catalog=Catalog.from_yaml(preparation.local_models()), customers=demo.TEMPLATE / "sample" / "customers.jsonl"
    )
    tallies: dict[str, Tally] = {}
    gain: dict[str, Any] = {}
    async with build(settings, parts) as app:
        # A project of its own: agents remember what was said to the same customer in the benches before.
        who = await caller(app, f"patterns {secrets.token_hex(4)}", groups=("public", "sav"))
        for name in [name for name in book if not only or name in only]:
            terminal.say(f"[bold]{name}[/bold]")
            if name == "product-notice":
                tallies[name], gain = await notices(app, who, book[name], terminal)
            else:
                tallies[name] = Tally()
                for case in book[name]:
                    got = await play(app, who, name, case["inputs"], tallies[name])
                    judge(name, case, got, tallies[name])
                    terminal.say(escape(f"  {tallies[name].said[-1]}"))
            for failure in tallies[name].failed:
                terminal.say(escape(f"  failed at {failure}"))
            # Told at once: what took minutes is not lost to a fault in the pattern after it.
            terminal.say(escape(json.dumps({name: facts(tallies[name])})))
    report(tallies, gain, terminal)


def facts(t: Tally) -> dict[str, Any]:
    return {
        "right": t.right, "of": t.of, "interval": [round(side, 3) for side in wilson(t.right, t.of)], "runs": t.runs,
        "calls": t.calls, "tokens_in": t.tokens_in, "tokens_out": t.tokens_out, "cost_eur": str(t.cost_eur),
        "wh": [round(side, 3) for side in t.wh], "seconds": round(t.seconds, 1), "failed": len(t.failed),
    }  # fmt: skip


def report(tallies: dict[str, Tally], gain: dict[str, Any], terminal: Terminal) -> None:
    rows = []
    for name, t in tallies.items():
        low, high = wilson(t.right, t.of)
        rows.append(
            [name, f"{t.right}/{t.of} ({low:.0%}–{high:.0%})", t.runs, t.calls, f"{t.tokens_in}/{t.tokens_out}",
             f"{t.cost_eur:.4f}", f"{t.wh[0]:.2f}–{t.wh[1]:.2f}", f"{t.seconds:.0f}", len(t.failed)]
        )  # fmt: skip
    terminal.table(["pattern", "right (95 %)", "runs", "calls", "tokens in/out", "€", "Wh", "s", "failed"], rows)
    found = {name: facts(t) for name, t in tallies.items()}
    terminal.say(escape(json.dumps({"patterns": found, "evaluator_optimizer": gain})))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=pathlib.Path, default=configuration.default_home())
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work(arguments.home, {part for part in arguments.only.split(",") if part}))


main()
