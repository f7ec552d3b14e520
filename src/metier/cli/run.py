"""`metier run`: starts a workflow on an e-mail, a JSON file or named values, and follows it."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import time
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.calls import JSON, Principal, RunId
from metier.cli import flows
from metier.cli.emails import inputs_of
from metier.cli.given import content, given
from metier.cli.plan import before_run
from metier.cli.runs_chosen import begins, mend
from metier.cli.terminal import Terminal, as_json_option, run
from metier.errors import Invalid, NotFound
from metier.workflow.definition import Workflow, accept
from metier.workflow.lint import lint

__all__ = ["command", "follow"]


@click.command()
@click.argument("flow")
@click.argument("values", nargs=-1)
@click.option("--eml", type=click.Path(path_type=pathlib.Path), help="An e-mail as it was received (.eml).")
@click.option(
    "--input", "--inputs", "input_file", type=click.Path(path_type=pathlib.Path), help="A JSON file of inputs."
)
@click.option("--detach", is_flag=True, help="Start it and leave it to `metier worker`.")
@click.option("--dry-run", is_flag=True, help="Check the workflow and the inputs, and start nothing.")
@click.option("--plan", is_flag=True, help="Show first what it may cost; above the budget nothing is started.")
@click.option("--yes", is_flag=True, help="With --plan: go on where only the worst case is above the budget.")
@click.option("--priority", type=click.IntRange(-1000, 1000), default=0, help="In line, each point counts a minute.")
@click.option("--window", help="Begin in these hours only, such as '22:00-06:00 Europe/Paris'; or always.")
@as_json_option
def command(
    flow: str,
    values: tuple[str, ...],
    eml: pathlib.Path | None,
    input_file: pathlib.Path | None,
    detach: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Start a workflow and follow it until it is over or waits for a person.

    FLOW is a template's name or the path of a flow.yaml; VALUES are key=value pairs. The same e-mail is never started
    twice: the run it already has is followed.

    Example: metier run support-reply --eml message.eml
    """

    async def work(app: App, terminal: Terminal) -> None:
        workflow = flows.find(flow)
        inputs, dedupe = _inputs(workflow, values, eml, input_file, terminal)
        if how["dry_run"]:
            inputs = _checked(app, workflow, inputs)
            terminal.data({"workflow": workflow.name, "hash": workflow.hash, "inputs": inputs})
            terminal.say(
                f"{workflow.name} {workflow.hash[:12]} would start with {', '.join(inputs) or 'no inputs'}. "
                "Nothing was started."
            )
            return
        principal = await _principal(app, workflow)
        if how["plan"]:
            await before_run(app, terminal, workflow, inputs, principal, yes=how["yes"])
        started = await app.engine.start(
            workflow, inputs, principal, dedupe=dedupe, priority=how["priority"], window=how["window"]
        )
        terminal.say(f"[bold]{started}[/bold]")
        if not detach:
            await _work_and_follow(app, started, terminal)
        terminal.data({"run": await app.engine.get(started)})

    run(work, as_json=as_json)


def _checked(app: App, workflow: Workflow, inputs: dict[str, JSON]) -> dict[str, JSON]:
    """Find before a run what would fail in it: wrong references, and inputs that do not fit."""
    wrong = [finding for finding in lint(workflow, flows.known(app.settings.config)) if finding.severity == "error"]
    if wrong:
        raise Invalid("\n".join(f"{one.file}:{one.line}:{one.column}: {one.message}" for one in wrong))
    return accept(workflow, inputs)


async def _principal(app: App, workflow: Workflow) -> Principal:
    name = f"workflow {workflow.name}"
    try:
        return await app.principal(name)
    except NotFound:
        raise NotFound(
            f"the workflow {workflow.name!r} has no key to run under; give it one: "
            f"metier system register {workflow.name} --purpose ... --owner ..., "
            f"then metier system move {workflow.name} pilot, "
            f"then metier key issue {name!r} --system {workflow.name} --group public"
        ) from None


async def _work_and_follow(app: App, run_id: RunId, terminal: Terminal) -> None:
    stop, followed = asyncio.Event(), False
    try:
        async with asyncio.TaskGroup() as group:
            worker = group.create_task(app.engine.work(stop))
            try:
                await follow(app, run_id, terminal)
            finally:
                stop.set()
                with contextlib.suppress(asyncio.CancelledError):
                    await worker
        followed = True
    finally:
        if not followed:
            terminal.say(f"What it has done is kept, and `metier worker` goes on with it: metier runs show {run_id}")
    found = await app.engine.get(run_id)
    if found.status == "parked":
        for task in await app.review.list(run=run_id):
            terminal.say(f"It waits for {task.assignee}: [bold]metier review show {task.id}[/bold]")
    elif found.status == "queued":
        when = f" in its hours, {hours}" if (hours := begins(found)) else ""
        terminal.say(f"It waits in line, and a worker begins it{when}: [bold]metier runs show {run_id}[/bold]")
    elif found.failure:
        place = f" at {escape(found.failure.path)}" if found.failure.path else ""
        terminal.say(f"[red]{found.failure.code}[/red]{place}: {escape(found.failure.message)}")
        await mend(app, terminal, found)
    else:
        terminal.say(f"{found.outcome or found.status}: metier runs show {run_id}")
    if found.status in ("failed", "dead"):
        terminal.data({"run": found})
        raise SystemExit(1)


async def follow(app: App, run_id: RunId, terminal: Terminal) -> None:
    """Tell each step of a run as it ends, until the run is over or waits for a person."""
    began = time.monotonic()
    async with contextlib.aclosing(app.engine.follow(run_id)) as events:
        async for event in events:
            if event.path and event.kind in ("result", "error", "decision") and not event.name:
                mark = {"error": "[red]failed[/red]", "decision": "[cyan]decided[/cyan]"}
                told = mark.get(event.kind, "[green]done[/green]")
                terminal.say(f"  [dim]{time.monotonic() - began:6.1f} s[/dim]  {event.path} {told}")
            if event.status in ("parked", "waiting", "queued") and await _stands(app, run_id):
                return


async def _stands(app: App, run_id: RunId) -> bool:
    """Tell whether a run that waits does so for others than the runs it has started; wait while those move."""
    pause = 0.1
    while True:
        family = (await app.engine.get(run_id), *await app.engine.below(run_id))
        if family[0].over:
            return False
        if not any(one.status in ("pending", "running") for one in family):
            return True
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 2.0)


def _inputs(
    workflow: Workflow,
    values: tuple[str, ...],
    eml: pathlib.Path | None,
    input_file: pathlib.Path | None,
    terminal: Terminal,
) -> tuple[dict[str, JSON], str | None]:
    inputs: dict[str, JSON] = {}
    dedupe: str | None = None
    if eml is not None:
        email, inputs = inputs_of(content(eml))
        dedupe = email.message_id
        for problem in email.problems:
            terminal.say(f"[yellow]{escape(problem)}[/yellow]")
    return inputs | given(workflow, values, input_file), dedupe
