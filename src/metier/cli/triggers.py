"""`metier triggers`: which flows start by themselves, what their sources say, and events that became no run."""

from __future__ import annotations

import getpass
import json
import pathlib
from dataclasses import replace
from datetime import UTC, datetime

import click
from rich.markup import escape

from metier.api.starting import triggers
from metier.app import App
from metier.calls import JSON, new_id
from metier.cli import flows
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.errors import Invalid, NotFound
from metier.triggers import Deployed, Event, Taken, Triggers
from metier.workflow.lint import lint

__all__ = ["command"]


@click.group()
def command() -> None:
    """Let flows start by themselves: deploy, list, pause, try, and look at events that became no run."""


@command.command(name="deploy")
@click.argument("flow")
@click.option("--key", help="Key its runs are started under, by its name; else the flow's own, 'workflow FLOW'.")
@click.option("--dry-run", is_flag=True, help="Check the flow and its triggers, and deploy nothing.")
@as_json_option
def _deploy(flow: str, key: str | None, dry_run: bool, as_json: bool) -> None:
    """Deploy the triggers of a flow, instead of those it had; what is alike goes on where it was.

    Runs are started with the definition as it is now, until it is deployed again.
    """

    async def work(app: App, terminal: Terminal) -> None:
        workflow = flows.find(flow)
        room, principal = triggers(app), await app.principal(key or f"workflow {workflow.name}")
        room.deployments.check(workflow)
        wrong = [finding for finding in lint(workflow, flows.known(app.settings.config)) if finding.severity == "error"]
        if wrong:
            raise Invalid("\n".join(f"{one.file}:{one.line}:{one.column}: {one.message}" for one in wrong))
        if dry_run:
            kinds = [trigger.kind for trigger in workflow.triggers]
            terminal.data({"flow": workflow.name, "hash": workflow.hash, "triggers": kinds, "deployed": False})
            terminal.say(
                f"{workflow.name} {workflow.hash[:12]} would start by {', '.join(kinds)}. Nothing is deployed."
            )
            return
        found = await room.deployments.deploy(workflow, principal, getpass.getuser())
        terminal.data({"triggers": found})
        _table(found, terminal)
        for trigger in found:
            for address in _addresses(room.form_path(trigger), trigger):
                terminal.say(address)

    administer(work, as_json=as_json)


@command.command(name="list")
@click.option("--project", help="Only those of this project, by name or id.")
@as_json_option
def _list(project: str | None, as_json: bool) -> None:
    """List triggers: where each runs, how many events it has taken, and why its source fails if it does."""

    async def work(app: App, terminal: Terminal) -> None:
        room = triggers(app)
        owner = None if project is None else (await app.keys.project(project)).id
        found = await room.deployments.list(project=owner)
        terminal.data({"triggers": found})
        _table(found, terminal)
        for trigger in found:
            if trigger.error:
                terminal.say(f"[red]{trigger.id}[/red] {escape(trigger.error)}")
                terminal.say(f"Once that is mended, `metier triggers resume {trigger.id}` tries at once.")
            for address in _addresses(room.form_path(trigger), trigger):
                terminal.say(address)

    administer(work, as_json=as_json)


@command.command(name="pause")
@click.argument("trigger_id")
@as_json_option
def _pause(trigger_id: str, as_json: bool) -> None:
    """Take no event any more until the trigger is resumed; runs under way go on."""
    _enable(trigger_id, False, as_json)


@command.command(name="resume")
@click.argument("trigger_id")
@as_json_option
def _resume(trigger_id: str, as_json: bool) -> None:
    """Take events again, from where the trigger was, and try a source that failed at once."""
    _enable(trigger_id, True, as_json)


@command.command(name="remove")
@click.argument("flow")
@click.option("--project", required=True, help="The project it is deployed in, by name or id.")
@as_json_option
def _remove(flow: str, project: str, as_json: bool) -> None:
    """Let a flow no longer start by itself: its triggers and what they knew are deleted, its runs stay."""

    async def work(app: App, terminal: Terminal) -> None:
        await triggers(app).deployments.remove((await app.keys.project(project)).id, flow)
        terminal.data({"removed": flow})
        terminal.say(f"{escape(flow)} starts by itself no more. Its runs stay.")

    administer(work, as_json=as_json)


@command.command(name="test")
@click.argument("trigger_id")
@click.option("--event", "event_file", type=click.Path(path_type=pathlib.Path), help="A JSON file of the event.")
@click.option("--eml", type=click.Path(path_type=pathlib.Path), help="An e-mail as the event (.eml).")
@as_json_option
def _test(trigger_id: str, event_file: pathlib.Path | None, eml: pathlib.Path | None, as_json: bool) -> None:
    """Show the inputs an event would give, and start nothing."""

    async def work(app: App, terminal: Terminal) -> None:
        room = triggers(app)
        event = _event(room, event_file, eml)
        seen = await room.intake.preview(await room.deployments.get(trigger_id), event)
        terminal.data({"starts": seen.holds, "inputs": dict(seen.inputs), "once_for": seen.cause})
        terminal.say("It would start a run with:" if seen.holds else "`when` does not hold: nothing would start.")
        for name, value in seen.inputs.items():
            terminal.say(f"  {escape(name)}: {escape(json.dumps(value, ensure_ascii=False)[:400])}")
        terminal.say(f"[dim]once for {escape(seen.cause[:200])}[/dim]")

    administer(work, as_json=as_json)


@command.command(name="fire")
@click.argument("trigger_id")
@click.option("--event", "event_file", type=click.Path(path_type=pathlib.Path), help="A JSON file of the event.")
@click.option("--eml", type=click.Path(path_type=pathlib.Path), help="An e-mail as the event (.eml).")
@click.option("--id", "event_id", help="Id of the event: the same again starts nothing.")
@as_json_option
def _fire(
    trigger_id: str, event_file: pathlib.Path | None, eml: pathlib.Path | None, event_id: str | None, as_json: bool
) -> None:
    """Take an event by hand, as if its source had brought it; without --id each call is another event.

    An e-mail is the same event however often it is given, also when its mailbox brings it.
    """

    async def work(app: App, terminal: Terminal) -> None:
        room = triggers(app)
        event = _event(room, event_file, eml)
        _told(await room.fire(trigger_id, replace(event, id=event_id or event.id)), terminal)

    administer(work, as_json=as_json)


@command.command(name="failed")
@click.option("--project", help="Only those of this project, by name or id.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@as_json_option
def _failed(project: str | None, limit: int, as_json: bool) -> None:
    """List events that became no run, with why, oldest first."""

    async def work(app: App, terminal: Terminal) -> None:
        owner = None if project is None else (await app.keys.project(project)).id
        found = await triggers(app).intake.letters(owner, limit=limit)
        terminal.data({"failed": found})
        terminal.table(
            ["event", "flow", "kind", "when", "tries", "why"],
            [[one.id, one.flow, one.kind, f"{one.at:%d/%m %H:%M}", one.tries, one.error] for one in found],
        )
        if found:
            terminal.say("Mend the cause, deploy the flow again if it was the flow, then: metier triggers retry EVENT")

    administer(work, as_json=as_json)


@command.command(name="retry")
@click.argument("event_id")
@click.option("--drop", is_flag=True, help="Give the event up instead.")
@as_json_option
def _retry(event_id: str, drop: bool, as_json: bool) -> None:
    """Take an event again that became no run, with the flow as it is deployed now."""

    async def work(app: App, terminal: Terminal) -> None:
        room = triggers(app)
        if drop:
            await room.intake.drop(event_id)
            terminal.data({"dropped": event_id})
            terminal.say("It is given up.")
            return
        _told(await room.intake.retry(event_id), terminal)

    administer(work, as_json=as_json)


def _enable(id: str, enabled: bool, as_json: bool) -> None:
    async def work(app: App, terminal: Terminal) -> None:
        found = await triggers(app).deployments.enable(id, enabled)
        terminal.data({"trigger": found})
        terminal.say(f"{found.id} of {escape(found.flow)} {'takes events' if enabled else 'is paused'}.")

    administer(work, as_json=as_json)


def _event(room: Triggers, event_file: pathlib.Path | None, eml: pathlib.Path | None) -> Event:
    """Read the event given on the command line; without one it is empty."""
    try:
        if eml is not None:
            return room.message(eml.read_bytes())
        given: JSON = {} if event_file is None else json.loads(event_file.read_bytes())
    except OSError as error:
        raise NotFound(f"cannot read {str(event_file or eml)!r}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{str(event_file)!r} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise Invalid(f"{str(event_file)!r} must hold an object, not {type(given).__name__}")
    return Event(new_id("evt"), given)


def _told(taken: Taken, terminal: Terminal) -> None:
    terminal.data({"outcome": taken.outcome, "run": taken.run, "error": taken.error})
    match taken.outcome:
        case "started":
            terminal.say(f"[bold]{taken.run}[/bold] is started.")
        case "known":
            before = f": {taken.run}" if taken.run else f", and {taken.error}" if taken.error else ""
            terminal.say(f"It was taken before{escape(before)}.")
        case "skipped":
            terminal.say("`when` does not hold: nothing is started.")
        case "failed":
            terminal.say(f"[red]It became no run:[/red] {escape(taken.error)}")
            raise SystemExit(1)


def _table(found: list[Deployed], terminal: Terminal) -> None:
    terminal.table(
        ["trigger", "flow", "kind", "state", "events", "last", "failed"],
        [
            [
                one.id, one.flow, one.kind, _state(one), one.taken,
                "" if one.last_at is None else f"{one.last_at.astimezone():%d/%m %H:%M:%S}", one.letters or "",
            ]
            for one in found
        ],
    )  # fmt: skip


def _state(trigger: Deployed) -> str:
    if not trigger.enabled:
        return "paused"
    if trigger.error:
        waiting = trigger.retry_at if trigger.retry_at and trigger.retry_at > datetime.now(UTC) else None
        return f"fails, {trigger.failures}×" + (f", again {waiting.astimezone():%H:%M:%S}" if waiting else "")
    if trigger.kind in ("api", "form", "webhook"):
        return "open"
    return f"in {trigger.holder}" if trigger.holder else "waits for a worker"


def _addresses(form_path: str, trigger: Deployed) -> list[str]:
    match trigger.kind:
        case "form":
            return [f"{escape(trigger.flow)}: people fill in {form_path}"]
        case "webhook":
            return [f"{escape(trigger.flow)}: other platforms send to /hooks/{trigger.id}"]
        case "api":
            return [f"{escape(trigger.flow)}: programs send to /v1/flows/{escape(trigger.flow)}/runs"]
    return []
