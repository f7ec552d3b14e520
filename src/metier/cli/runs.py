"""`metier runs`: what runs did, step by step, with values masked unless asked otherwise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.calls import JSON, RunId
from metier.cli import runs_looking, runs_many, runs_moving
from metier.cli.runs_chosen import begins, chosen, mend, table, which_runs
from metier.cli.terminal import Terminal, as_json_option, plain, run
from metier.connectors.deliveries import Delivery
from metier.guardrails.pii import Table, hide
from metier.workflow.engine import StepRecord
from metier.workflow.review import Task

__all__ = ["command"]

_SHOWN = 220
_MOVING = ("queued", "pending", "running")


@click.group()
def command() -> None:
    """Look after runs: list, show, pause, cancel, do again, fork, look back, delete."""


for _part in (runs_moving, runs_looking, runs_many):
    _part.add_to(command)


@command.command(name="list")
@which_runs
@click.option("--before", help="The next page: runs older than this one.")
@click.option("--children", is_flag=True, help="Also runs that others have started as their steps.")
@click.option("--limit", type=click.IntRange(1, 200), default=30, show_default=True)
@as_json_option
def _list(before: str | None, children: bool, limit: int, as_json: bool, **which: Any) -> None:
    """List runs, newest first."""

    async def work(app: App, terminal: Terminal) -> None:
        wanted = await chosen(app, which, limit)
        found = await app.engine.search(
            dataclasses.replace(wanted, before=RunId(before) if before else None, children=children)
        )
        terminal.data({"runs": found})
        table(terminal, found)
        if len(found) == limit:
            terminal.say(f"More: metier runs list --before {found[-1].id}")

    run(work, as_json=as_json)


@command.command(name="dead")
@which_runs
@click.option("--limit", type=click.IntRange(1, 200), default=30, show_default=True)
@as_json_option
def _dead(limit: int, as_json: bool, **which: Any) -> None:
    """List the runs that go no further by themselves, and why: those that failed, and those that killed workers.

    One goes on with `metier runs resume`, all of them with `metier runs again resume`.
    """

    async def work(app: App, terminal: Terminal) -> None:
        wanted = await chosen(app, {**which, "status": which["status"] or ("failed", "dead")}, limit)
        found = await app.engine.search(dataclasses.replace(wanted, children=True, stuck=True))
        terminal.data({"runs": found})
        terminal.table(
            ["run", "workflow", "status", "of run", "code", "at", "since", "why"],
            [
                [
                    one.id, one.workflow, one.status, one.parent, one.failure.code if one.failure else "",
                    one.failure.path if one.failure else "", f"{one.updated_at:%d/%m %H:%M}",
                    hide(one.failure.message[:_SHOWN], Table()) if one.failure else "",
                ]
                for one in found
            ],
        )  # fmt: skip

    run(work, as_json=as_json)


@command.command(name="show")
@click.argument("run_id")
@click.option("--clear", is_flag=True, help="Show values as they are, personal data included.")
@as_json_option
def _show(run_id: str, clear: bool, as_json: bool) -> None:
    """Show the steps of a run with what went in and out, its calls, cost, energy, carbon and duration.

    Personal values are replaced by placeholders unless --clear is given.
    """

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.engine.get(RunId(run_id))
        await app.ledger.flush()
        calls = await app.ledger.of_run(found.id)
        steps = [_masked(step, clear) for step in await app.engine.steps(found.id)]
        asked = [_told(task, clear) for task in await app.review.of_run(found.id)]
        letters = [_letter(each, clear) for each in await app.deliveries.of_run(found.id)]
        below = await app.engine.below(found.id)
        aside = [(cut, one.path) for cut, one in await app.operations.history(found.id)]
        terminal.data(
            {
                "run": found, "steps": steps, "tasks": asked, "deliveries": letters, "calls": calls, "below": below,
                "set_aside": [{"retry": cut, "path": path} for cut, path in aside],
            }
        )  # fmt: skip
        terminal.say(
            f"[bold]{found.id}[/bold] {found.workflow} {found.definition[:12]}: {found.status}"
            + (f" ({found.outcome})" if found.outcome else "")
            + (f", waits on {found.parked_on}" if found.parked_on else "")
            + (f", of {found.parent}" if found.parent else "")
            + (f", forked from {found.forked_from}" if found.forked_from else "")
            + (", to stand still at its next boundary" if found.paused_at and found.status in _MOVING else "")
            + (f", begins in its hours, {hours}" if (hours := begins(found)) else "")
        )
        if found.failure:
            place = f" at {escape(found.failure.path)}" if found.failure.path else ""
            terminal.say(f"[red]{found.failure.code}[/red]{place}: {escape(found.failure.message)}")
            if found.status in ("failed", "dead"):
                await mend(app, terminal, found)
        for step in steps:
            _say(step, terminal)
        for task in asked:
            _say_task(task, terminal)
        for letter in letters:
            _say_letter(letter, terminal)
        for cut in sorted({cut for cut, _ in aside}):
            paths = ", ".join(dict.fromkeys(path for number, path in aside if number == cut))
            terminal.say(f"[dim]set aside by retry {cut}: {escape(paths)}[/dim]")
        if below:
            table(terminal, below)
        _say_calls(calls, terminal)

    run(work, as_json=as_json)


def _say_calls(calls: Sequence[Mapping[str, Any]], terminal: Terminal) -> None:
    """Tell the calls of models a run has made, and what each of them took."""
    if not calls:
        terminal.say("No model was called.")
        return
    terminal.say("")
    terminal.table(
        ["step", "model", "outcome", "in/out", "€", "Wh", "gCO2e", "masked", "s"],
        [
            [
                row["path"], row["model"], row["error_cause"] or row["error_code"] or row["outcome"],
                f"{row['input_tokens']}/{row['output_tokens']}", f"{row['cost_eur']:.4f}",
                _range(row["energy_low_kwh"], row["energy_high_kwh"], 1000),
                _range(row["carbon_low_g"], row["carbon_high_g"], 1),
                sum((row["masked"] or {}).values()), f"{row['duration_s']:.1f}",
            ]
            for row in calls
        ],
    )  # fmt: skip


def _say(step: dict[str, Any], terminal: Terminal) -> None:
    """Tell one step in a few lines: what it is, what it was given, what it gave."""
    colour = {"error": "red", "decision": "cyan", "result": "green"}.get(step["kind"], "dim")
    name = step["path"] + (f"/{step['name']}" if step["name"] else "")
    again = f" (try {step['attempt']})" if step["attempt"] > 1 else ""
    seconds = "" if step["seconds"] is None else f"  {step['seconds']:.1f} s"
    terminal.say(f"[bold]{escape(name)}[/bold]{again}  [{colour}]{step['kind']}[/{colour}]{seconds}")
    for label, value in (("given", step["given"]), ("gave", step["value"])):
        if value is not None:
            terminal.say(f"  [dim]{label}[/dim] {escape(_short(value))}")


def _say_task(task: dict[str, Any], terminal: Terminal) -> None:
    """Tell what became of a question to a person: who answered, when, and why."""
    who = (
        f"{task['state']} by {escape(task['by'])}" if task["by"] else f"{task['state']}, for {escape(task['assignee'])}"
    )
    at = f" {task['decided_at']:%d/%m %H:%M}" if task["decided_at"] else ""
    note = f": {escape(_short(task['note']))}" if task["note"] else ""
    terminal.say(f"[bold]{escape(task['path'])}[/bold]  [dim]{task['id']}[/dim] {who}{at}{note}")


def _say_letter(letter: dict[str, Any], terminal: Terminal) -> None:
    """Tell where an e-mail of the run is, and what somebody found out about it."""
    state = f"in doubt: metier review settle {letter['key']}" if letter["doubtful"] else letter["state"]
    settled = f", settled as {letter['settled_as']} by {letter['settled_by']}" if letter["settled_by"] else ""
    at = f" {letter['settled_at']:%d/%m %H:%M}" if letter["settled_at"] else ""
    name, to = escape(letter["path"]), escape(_short(letter["recipient"]))
    terminal.say(f"[bold]{name}[/bold]  [dim]e-mail to {to}[/dim] {escape(state + settled)}{at}")


def _letter(given: Delivery, clear: bool) -> dict[str, Any]:
    """What is told of an e-mail; its text is among the steps already."""
    shown: dict[str, Any] = {f.name: getattr(given, f.name) for f in dataclasses.fields(given) if f.name != "body"}
    if not clear:
        table = Table()
        shown["recipient"], shown["subject"] = hide(given.recipient, table), hide(given.subject, table)
    return shown


def _told(task: Task, clear: bool) -> dict[str, Any]:
    """What is told of a task; the reason is masked like everything people write."""
    return {
        "id": task.id,
        "path": task.path,
        "state": task.state,
        "assignee": task.assignee,
        "by": task.decider,
        "decided_by": task.decided_by,
        "decided_id": task.decided_id,
        "decided_at": task.decided_at,
        "note": task.note if clear else hide(task.note, Table()),
    }


def _masked(step: StepRecord, clear: bool) -> dict[str, Any]:
    seconds = (step.ended_at - step.started_at).total_seconds() if step.started_at else None
    shown = {
        "path": step.path,
        "attempt": step.attempt,
        "name": step.name,
        "kind": step.kind,
        "given": plain(step.given),
        "value": plain(step.value),
        "cost_eur": float(step.cost_eur),
        "calls": step.calls,
        "seconds": None if seconds is None else round(seconds, 2),
    }
    if not clear:
        table = Table()
        shown["given"], shown["value"] = hide(shown["given"], table), hide(shown["value"], table)
    return shown


def _short(value: JSON) -> str:
    if value is None:
        return ""
    text = "".join(one if one.isprintable() else "\ufffd" for one in json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _range(low: float | None, high: float | None, factor: float) -> str:
    return "not estimated" if low is None or high is None else f"{low * factor:.2g}–{high * factor:.2g}"
