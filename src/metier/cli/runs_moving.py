"""`metier runs pause`, `unpause`, `resume`, `cancel`, `retry` and `fork`: what is done to one run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import click
from rich.markup import escape

from metier.app import App
from metier.calls import RunId, new_id
from metier.cli import flows
from metier.cli.review_who import operator, reviewer
from metier.cli.terminal import Terminal, as_json_option, run
from metier.errors import Invalid
from metier.triggers.askers import Askers
from metier.workflow.cutting import Cut, with_models
from metier.workflow.definition import Workflow
from metier.workflow.operations import Moving

__all__ = ["add_to", "dry_run_option", "models_option", "other_models", "say_cut", "window_option"]

_Move: TypeAlias = Callable[[App, RunId], Awaitable[object]]

dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
"""The option of every command that changes something."""

models_option = click.option(
    "--model", "models", multiple=True, metavar="OLD=NEW", help="Another model or role in the place of one; repeatable."
)
"""Says which models another run uses."""

window_option = click.option(
    "--window", help="Begin in these hours only, or always; by default, as the run it comes from was asked to."
)
"""Says in which hours another run begins."""


def add_to(group: click.Group) -> None:
    """Give the group of runs these commands."""
    for command in (_pause, _unpause, _resume, _cancel, _retry, _fork):
        group.add_command(command)


def other_models(models: tuple[str, ...]) -> dict[str, str]:
    """Read OLD=NEW pairs."""
    found = {}
    for pair in models:
        old, separator, new = pair.partition("=")
        if not separator or not old or not new:
            raise Invalid(f"{pair!r} is not OLD=NEW: write --model writer=writer-large", param="model")
        found[old] = new
    return found


def say_cut(cut: Cut, terminal: Terminal) -> None:
    """Tell what of a run holds, and what is done again."""
    terminal.say(f"{len(cut.kept)} lines hold: {cut.kept_calls} calls and {cut.kept_eur:.6f} € are not paid again.")
    if cut.aside:
        terminal.say(f"Set aside, and done again where the run comes to it: {escape(', '.join(cut.redone))}")
    if cut.first:
        terminal.say(f"It goes on at {escape(', '.join(cut.first))}")
    if cut.outward:
        terminal.say(f"[yellow]May act outside:[/yellow] {escape(', '.join(cut.outward))}")


@click.command(name="pause")
@click.argument("run_id")
@dry_run_option
@as_json_option
def _pause(run_id: str, dry_run: bool, as_json: bool) -> None:
    """Make a run and those it has started stand still at their next boundary.

    Steps under way end and are kept; what people decide meanwhile is kept too.
    """
    _move(run_id, "pause", lambda app, one: app.operations.pause(one), dry_run=dry_run, as_json=as_json)


@click.command(name="unpause")
@click.argument("run_id")
@dry_run_option
@as_json_option
def _unpause(run_id: str, dry_run: bool, as_json: bool) -> None:
    """Let a paused run, and those it has started, go on where they stood still."""
    _move(run_id, "unpause", lambda app, one: app.operations.unpause(one), dry_run=dry_run, as_json=as_json)


@click.command(name="resume")
@click.argument("run_id")
@dry_run_option
@as_json_option
def _resume(run_id: str, dry_run: bool, as_json: bool) -> None:
    """Make a failed or dead run go on from the step that failed; nothing that was done is done again."""
    _move(run_id, "resume", lambda app, one: app.operations.resume(one), dry_run=dry_run, as_json=as_json)


@click.command(name="cancel")
@click.argument("run_id")
@dry_run_option
@as_json_option
def _cancel(run_id: str, dry_run: bool, as_json: bool) -> None:
    """End a run where it is, with those it has started; their open tasks are withdrawn."""
    _move(run_id, "cancel", lambda app, one: app.engine.cancel(one), dry_run=dry_run, as_json=as_json)


@click.command(name="retry")
@click.argument("run_id")
@click.option("--from", "path", required=True, help="Path of the step, as `metier runs show` writes it.")
@dry_run_option
@as_json_option
def _retry(run_id: str, path: str, dry_run: bool, as_json: bool) -> None:
    """Do a run again from a step: what came before holds and is not paid again, what came of it is set aside.

    An e-mail or action that a tool has already done is not done a second time by the same run.

    Example: metier runs retry run_0a1b --from draft --dry-run
    """

    async def work(app: App, terminal: Terminal) -> None:
        by = reviewer(None, ()).name
        cut = await app.operations.retry(RunId(run_id), path, by, dry_run=dry_run)
        terminal.data({"run": await app.engine.get(RunId(run_id)), "dry_run": dry_run, **_told(cut)})
        say_cut(cut, terminal)
        _said(terminal, dry_run)

    run(work, as_json=as_json)


@click.command(name="fork")
@click.argument("run_id")
@click.option("--flow", help="Another definition: the name of a template, or the path of a flow.yaml.")
@click.option("--release", help="Another definition: a released version in the project of the run, such as refund@3.")
@models_option
@click.option("--afresh", is_flag=True, help="Keep nothing of it: only its inputs and its rights.")
@click.option("--once", help="A name of yours: with the same one, no second run is started.")
@window_option
@dry_run_option
@as_json_option
def _fork(run_id: str, as_json: bool, **how: Any) -> None:
    """Start another run from one, with another definition or other models: what is the same holds and is not paid.

    The run it comes from stays as it is; `metier runs diff` compares the two.

    Example: metier runs fork run_0a1b --model writer=writer-large --dry-run
    """

    async def work(app: App, terminal: Terminal) -> None:
        workflow = await _definition(app, RunId(run_id), how)
        made = None
        if how["dry_run"]:
            cut = await app.operations.reuse(RunId(run_id), workflow, afresh=how["afresh"])
        else:
            once, project = how["once"] or new_id("fork"), (await app.engine.get(RunId(run_id))).project
            await Askers(app.store).note(operator(), project, workflow.name, once)
            made, cut = await app.operations.fork(
                RunId(run_id), workflow, afresh=how["afresh"], dedupe=once, window=how["window"]
            )
        terminal.data(
            {"run": None if made is None else await app.engine.get(made), "hash": workflow.hash, **_told(cut)}
        )
        if made is not None:
            terminal.say(f"[bold]{made}[/bold]")
        say_cut(cut, terminal)
        _said(terminal, how["dry_run"])

    run(work, as_json=as_json)


async def _definition(app: App, run_id: RunId, how: Mapping[str, Any]) -> Workflow:
    if how["flow"] and how["release"]:
        raise Invalid("give --flow or --release, not both", param="flow")
    if how["flow"]:
        workflow = flows.find(how["flow"])
    elif how["release"]:
        workflow = await app.releases.resolve(how["release"], (await app.engine.get(run_id)).project)
    else:
        workflow = await app.engine.definition(run_id)
    models = other_models(how["models"])
    return with_models(workflow, models) if models else workflow


def _move(run_id: str, what: Moving, move: _Move, *, dry_run: bool, as_json: bool) -> None:
    async def work(app: App, terminal: Terminal) -> None:
        if dry_run:
            touched = await app.operations.touched(RunId(run_id), what)
            terminal.data({"would": what, "runs": touched})
            for one in touched:
                terminal.say(f"{one.id} {one.workflow} {one.status}")
            _said(terminal, dry_run)
            return
        await move(app, RunId(run_id))
        now = await app.engine.get(RunId(run_id))
        terminal.data({"run": now})
        terminal.say(_AFTER[what])

    run(work, as_json=as_json)


_AFTER: Mapping[Moving, str] = {
    "pause": "It stands still, or does at the next boundary: metier runs unpause lets it go on.",
    "unpause": "It goes on as soon as a worker is free: metier worker",
    "resume": "It goes on as soon as a worker is free: metier worker",
    "cancel": "Cancelled.",
}


def _said(terminal: Terminal, dry_run: bool) -> None:
    terminal.say("Nothing was done." if dry_run else "It goes on as soon as a worker is free: metier worker")


def _told(cut: Cut) -> dict[str, object]:
    return {
        "kept": list(cut.holding),
        "kept_calls": cut.kept_calls,
        "kept_eur": cut.kept_eur,
        "aside": list(cut.redone),
        "first": list(cut.first),
        "outward": list(cut.outward),
    }
