"""The main job on the twelve sample e-mails with the real local model, compared with what a careful adviser would say.

    python bench/main_job.py [--home FOLDER] [--only 01,07]

Prints one row per e-mail and one JSON line: category right, route right, citations that exist, facts a right answer
must state, forbidden statements, and personal values found in the bytes made for any provider (must be 0). The model
must be in FOLDER (`metier models pull`); results depend on it and vary little, since it answers at temperature 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import yaml

from metier import settings as configuration
from metier.app import Parts, build
from metier.calls import Call, Chunk
from metier.catalog import Catalog, Deployment
from metier.cli import demo, preparation
from metier.cli.terminal import Terminal
from metier.connectors.smtp import Sink, Smtp
from metier.providers.base import Provider
from metier.providers.local import Local
from metier.providers.openai import OpenAIProvider
from metier.providers.openai_request import chat_body, embed_body
from metier.workflow.definition import load


class Recording:
    """Keeps the bytes each call becomes on its way to a provider, then lets it go on."""

    def __init__(self, inner: Provider) -> None:
        self.inner = inner
        self.sent: list[bytes] = []

    def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        self.sent.append(orjson.dumps((chat_body if call.operation == "chat" else embed_body)(call, deployment)))
        return self.inner.stream(call, deployment)

    async def close(self) -> None:
        await self.inner.close()


def plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").replace("\u202f", " ").split()).lower()


def variants(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


async def work(home: pathlib.Path, only: set[str]) -> None:
    terminal = Terminal(False)
    settings = dataclasses.replace(configuration.load(), home=home)
    truth = yaml.safe_load((demo.TEMPLATE / "sample" / "emails.yaml").read_text(encoding="utf-8"))["emails"]
    chosen = [t for t in truth if not only or t["file"][:2] in only]
    sink = Sink(home / "bench" / f"sent-{time.time():.0f}")
    recording = Recording(Local(home, OpenAIProvider(first_token_s=600)))
    parts = Parts(
        providers={"local": recording}, catalog=Catalog.from_yaml(preparation.local_models()),
        transport=Smtp(await sink.start()), confirm=sink.confirm, mail_from=demo.SENDER,
        customers=demo.TEMPLATE / "sample" / "customers.jsonl",
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    async with build(settings, parts) as app:
        principal = await demo.prepare(app, terminal)
        workflow = load(demo.TEMPLATE / "flow.yaml")
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(app.engine.work(stop))
            for expected in chosen:
                before = len(recording.sent)
                name = expected["file"].removesuffix(".eml")
                outcome = await demo.answer(app, principal, workflow, name, terminal, True)
                steps = {
                    s.path.rsplit(".", 1)[-1]: s.value
                    for s in await app.engine.steps(outcome.run)
                    if s.kind == "result"
                }
                rows.append(compare(expected, outcome, steps, recording.sent[before:]))
            stop.set()
    await sink.stop()
    report(rows, terminal)


def compare(
    expected: dict[str, Any], outcome: demo.Outcome, steps: dict[str, Any], sent: list[bytes]
) -> dict[str, Any]:
    letter, check = steps.get("letter") or {}, steps.get("check") or {}
    answer = plain(str(letter.get("body", "")))
    bytes_sent = plain(b"\n".join(json.dumps(orjson.loads(s), ensure_ascii=False).encode() for s in sent).decode())
    bytes_sent = bytes_sent.replace("\\n", " ")
    values = [*expected["personal"], *expected.get("in_attachment", [])]
    right = outcome.category in (expected["category"], *expected["may_be"])
    return {
        "email": expected["file"][:22], "category": outcome.category, "category_right": right,
        "route": outcome.route, "route_right": outcome.route in expected["routes"], "status": outcome.status,
        "cited": int(check.get("cited", 0)), "verified": int(check.get("verified", 0)),
        "drafted": bool(letter),
        "facts": sum(any(plain(v) in answer for v in variants(f)) for f in expected["facts"]) if letter else 0,
        "facts_all": len(expected["facts"]) if letter else 0,
        "forbidden": sum(plain(f) in answer for f in expected["forbidden"]),
        "leaked": [v for v in values if plain(v) in bytes_sent], "values": len(values), "masked": outcome.masked,
        "open": len(letter.get("open", [])),
        "input_tokens": outcome.input_tokens, "output_tokens": outcome.output_tokens,
        "calls": len(sent), "seconds": round(outcome.seconds, 1), "body": letter.get("body", ""),
    }  # fmt: skip


def report(rows: list[dict[str, Any]], terminal: Terminal) -> None:
    terminal.table(
        ["e-mail", "category", "route", "citations", "facts", "forbidden", "leaked", "s", "status"],
        [
            [
                r["email"], r["category"] + ("" if r["category_right"] else " ✗"),
                r["route"] + ("" if r["route_right"] else " ✗"),
                f"{r['verified']}/{r['cited']}", f"{r['facts']}/{r['facts_all']}", r["forbidden"], len(r["leaked"]),
                r["seconds"], r["status"],
            ]
            for r in rows
        ],
    )  # fmt: skip
    for row in rows:
        terminal.say(f"[bold]{row['email']}[/bold]\n{row['body']}\n")
    total = {
        "emails": len(rows), "category_right": sum(r["category_right"] for r in rows),
        "route_right": sum(r["route_right"] for r in rows), "drafted": sum(r["drafted"] for r in rows),
        "cited": sum(r["cited"] for r in rows), "verified": sum(r["verified"] for r in rows),
        "facts": sum(r["facts"] for r in rows), "facts_all": sum(r["facts_all"] for r in rows),
        "forbidden": sum(r["forbidden"] for r in rows), "personal_values": sum(r["values"] for r in rows),
        "open": sum(r["open"] for r in rows), "input_tokens": sum(r["input_tokens"] for r in rows),
        "output_tokens": sum(r["output_tokens"] for r in rows),
        "leaked": sum(len(r["leaked"]) for r in rows), "calls": sum(r["calls"] for r in rows),
        "seconds": round(sum(r["seconds"] for r in rows), 1),
    }  # fmt: skip
    terminal.say(json.dumps(total))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=pathlib.Path, default=configuration.default_home())
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work(arguments.home, {part for part in arguments.only.split(",") if part}))


main()
