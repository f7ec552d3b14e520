"""`metier runs`: what runs did, step by step, with values masked unless asked otherwise."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.calls import JSON, RunId
from metier.cli.terminal import Terminal, as_json_option, plain, run
from metier.connectors.deliveries import Delivery
from metier.guardrails.pii import Table, mask
from metier.workflow.engine import StepRecord
from metier.workflow.review import Task

__all__ = ["command"]

_SHOWN = 220


@click.group()
def command() -> None:
    """List, show, resume or cancel runs."""


@command.command(name="list")
@click.option("--workflow", help="Only this workflow.")
@click.option(
    "--status",
    type=click.Choice(["queued", "pending", "running", "waiting", "parked", "done", "failed", "cancelled", "dead"]),
    help="Only this status.",
)
@click.option("--before", help="The next page: runs older than this one.")
@click.option("--limit", type=click.IntRange(1, 200), default=30, show_default=True)
@as_json_option
def _list(workflow: str | None, status: Any, before: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.engine.list(
            workflow=workflow, status=status, before=RunId(before) if before else None, limit=limit
        )
        terminal.data({"runs": found})
        terminal.table(
            ["run", "workflow", "status", "outcome", "waits on", "€", "started"],
            [
                [
                    r.id, r.workflow, r.status, r.outcome, r.parked_on, f"{r.cost_eur:.4f}",
                    f"{r.created_at:%d/%m %H:%M}",
                ]
                for r in found
            ],
        )  # fmt: skip
        if len(found) == limit:
            terminal.say(f"More: metier runs list --before {found[-1].id}")

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
        terminal.data({"run": found, "steps": steps, "tasks": asked, "deliveries": letters, "calls": calls})
        terminal.say(
            f"[bold]{found.id}[/bold] {found.workflow} {found.definition[:12]}: {found.status}"
            + (f" ({found.outcome})" if found.outcome else "")
            + (f", waits on {found.parked_on}" if found.parked_on else "")
        )
        if found.failure:
            terminal.say(f"[red]{found.failure.code}[/red] at {found.failure.path}: {escape(found.failure.message)}")
        for step in steps:
            _say(step, terminal)
        for task in asked:
            _say_task(task, terminal)
        for letter in letters:
            _say_letter(letter, terminal)
        terminal.say("")
        terminal.table(
            ["step", "model", "outcome", "in/out", "€", "Wh", "gCO2e", "masked", "s"],
            [
                [
                    row["path"], row["model"], row["error_code"] or row["outcome"],
                    f"{row['input_tokens']}/{row['output_tokens']}", f"{row['cost_eur']:.4f}",
                    _range(row["energy_low_kwh"], row["energy_high_kwh"], 1000),
                    _range(row["carbon_low_g"], row["carbon_high_g"], 1),
                    sum((row["masked"] or {}).values()), f"{row['duration_s']:.1f}",
                ]
                for row in calls
            ],
        )  # fmt: skip

    run(work, as_json=as_json)


@command.command(name="resume")
@click.argument("run_id")
@as_json_option
def _resume(run_id: str, as_json: bool) -> None:
    """Make a failed or dead run go on from the step that failed; nothing that was done is done again."""

    async def work(app: App, terminal: Terminal) -> None:
        await app.engine.resume(RunId(run_id))
        terminal.data({"run": await app.engine.get(RunId(run_id))})
        terminal.say("It goes on as soon as a worker is free: metier worker")

    run(work, as_json=as_json)


@command.command(name="cancel")
@click.argument("run_id")
@as_json_option
def _cancel(run_id: str, as_json: bool) -> None:
    """End a run where it is; its open tasks are withdrawn."""

    async def work(app: App, terminal: Terminal) -> None:
        await app.engine.cancel(RunId(run_id))
        terminal.data({"run": await app.engine.get(RunId(run_id))})
        terminal.say("Cancelled.")

    run(work, as_json=as_json)


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
        shown["recipient"], shown["subject"] = _hidden(given.recipient, table), _hidden(given.subject, table)
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
        "note": task.note if clear else _hidden(task.note, Table()),
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
        shown["given"], shown["value"] = _hidden(shown["given"], table), _hidden(shown["value"], table)
    return shown


def _hidden(value: JSON, table: Table) -> JSON:
    """Replace personal values in every string of a JSON value."""
    if isinstance(value, str):
        return mask(value, table)[0]
    if isinstance(value, list):
        return [_hidden(item, table) for item in value]
    if isinstance(value, dict):
        return {key: _hidden(item, table) for key, item in value.items()}
    return value


def _short(value: JSON) -> str:
    if value is None:
        return ""
    text = "".join(one if one.isprintable() else "\ufffd" for one in json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _range(low: float | None, high: float | None, factor: float) -> str:
    return "not estimated" if low is None or high is None else f"{low * factor:.2g}–{high * factor:.2g}"
