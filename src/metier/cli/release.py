"""`metier release`: versions of a workflow given to pilots, to a share and to all, compared and taken back."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.cli import flows
from metier.cli.runs_moving import dry_run_option
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.errors import NotFound
from metier.workflow.release_figures import Figure, Figures, measured
from metier.workflow.releases import (
    Change,
    Changed,
    Comparison,
    Release,
    Releases,
    State,
    to_all,
    to_nobody,
    to_pilots,
    to_share,
)

__all__ = ["command"]

_MEASURES = (
    ("errors", "failed runs", "{:.1%}"),
    ("cost_eur", "€ a run", "{:.6f}"),
    ("seconds", "seconds of work", "{:.2f}"),
    ("p95_s", "p95 seconds", "{:.2f}"),
    ("quality", "quality", "{:.3f}"),
)


@click.group()
def command() -> None:
    """Release versions of a workflow: draft, pilot, canary share, all; compare them and take them back.

    A run keeps the version it was started with for life. Who started with a canary keeps it while its share grows.
    """


def _placed(function: Any) -> Any:
    """Give a command the options that say in which project, and the form of the answer."""
    function = as_json_option(function)
    return click.option("--project", help="Project, by its id or name; else that of the workflow's own key.")(function)


def _moving(function: Any) -> Any:
    """Give a command the version it moves, and the revision it was decided on."""
    told = "Refuse if the releases of the flow were changed since this revision, which `list` shows."
    function = click.option("--seen", type=int, help=told)(_placed(dry_run_option(function)))
    return click.argument("flow")(click.argument("version", type=click.IntRange(min=1))(function))


@command.command(name="create")
@click.argument("flow")
@click.option("--score", help="CEL over output, outcome, status, cost_eur and seconds: the quality of a run.")
@click.option("--rule", "rules", multiple=True, help="Take it back when broken: 'error_rate > 5 % over 50 runs'.")
@dry_run_option
@_placed
def _create(flow: str, score: str | None, rules: tuple[str, ...], dry_run: bool, **where: Any) -> None:
    """Keep FLOW, a template's name or a path, as its next version: a draft, which nobody gets yet.

    Example: metier release create support-reply --rule 'error_rate > 5 %' --rule 'cost > 1.5x'
    """

    async def work(app: App, terminal: Terminal) -> None:
        workflow = flows.find(flow)
        place = await _project(app, workflow.name, where["project"])
        made = await _releases(app).create(
            workflow, place, getpass.getuser(), score=score, rules=rules, dry_run=dry_run
        )
        if dry_run:
            _foreseen(terminal, (Changed(None, made),))
        else:
            _told(terminal, made)

    administer(work, as_json=where["as_json"])


@command.command(name="pilot")
@click.option(
    "--to",
    "pilots",
    multiple=True,
    required=True,
    help="user:NAME, the name of a key, or group:NAME, a group of keys; may be given again.",
)
@_moving
def _pilot(flow: str, version: int, pilots: tuple[str, ...], **how: Any) -> None:
    """Give VERSION of FLOW to named users and groups: to those who start runs with a key of that name or group.

    Example: metier release pilot support-reply 2 --to group:sav-pilot
    """
    _move(flow, version, lambda: to_pilots(pilots), how)


@command.command(name="canary")
@click.option("--share", type=click.FloatRange(0, 100, min_open=True, max_open=True), required=True, help="Percent.")
@click.option(
    "--per",
    help="What keeps runs on one side: event, person or CEL over the inputs; else as before, at first person.",
)
@_moving
def _canary(flow: str, version: int, share: float, per: str | None, **how: Any) -> None:
    """Give VERSION of FLOW to a share of the runs, always of the same persons, and to its pilots.

    Example: metier release canary support-reply 2 --share 10 --per inputs.customer
    """
    _move(flow, version, lambda: to_share(share / 100, per), how)


@command.command(name="promote")
@_moving
def _promote(flow: str, version: int, **how: Any) -> None:
    """Make VERSION of FLOW the one for all; the former one is kept to go back to.

    Example: metier release promote support-reply 2 --dry-run
    """
    _move(flow, version, to_all, how)


@command.command(name="rollback")
@click.option("--reason", default="", help="Why, for those who look later.")
@_moving
def _rollback(flow: str, version: int, reason: str, **how: Any) -> None:
    """Take VERSION of FLOW back; from all, the version before it is for all again.

    Example: metier release rollback support-reply 2 --reason "tone of the letters"
    """
    _move(flow, version, lambda: to_nobody(reason), how)


@command.command(name="list")
@click.argument("flow", required=False)
@_placed
def _list(flow: str | None, project: str | None, as_json: bool) -> None:
    """List the releases of FLOW, or of every flow.

    Example: metier release list support-reply
    """

    async def work(app: App, terminal: Terminal) -> None:
        place = (await app.keys.project(project)).id if project else None
        found = await _releases(app).list(place, flow)
        names = {str(one.id): one.name for one in await app.keys.projects()}
        terminal.data({"releases": found})
        terminal.table(
            ["release", "project", "state", "share", "per", "pilots", "definition", "made by", "since", "revision"],
            [
                [
                    f"{one.flow}@{one.version}", names.get(one.project, one.project), one.state, f"{one.share:.0%}",
                    one.per or "", ", ".join(one.pilots), one.definition[:12], one.created_by,
                    _minute(one.released_at), one.revision,
                ]
                for one in found
            ],
        )  # fmt: skip
        if not found:
            of = "" if flow is None else f" of {escape(repr(flow))}"
            terminal.say(f"There is no release{of}: metier release create FLOW makes the first.")

    administer(work, as_json=as_json)


@command.command(name="show")
@click.argument("flow")
@click.argument("version", type=click.IntRange(min=1))
@_placed
def _show(flow: str, version: int, project: str | None, as_json: bool) -> None:
    """Show VERSION of FLOW: its rules, its figures, and what was done with it.

    Example: metier release show support-reply 2
    """

    async def work(app: App, terminal: Terminal) -> None:
        place = await _project(app, flow, project)
        releases = _releases(app)
        one = await releases.get(flow, place, version)
        found = measured(version, await releases.figures(one))
        moves = await releases.moves(flow, place, version)
        terminal.data({"release": one, "figures": found.data(), "moves": moves})
        _told_only(terminal, one)
        for rule in one.rules:
            terminal.say(f"  taken back when {rule}")
        terminal.table(["measure", "value and 95 % interval"], _rows(found), title=f"runs: {found.runs}")
        changes = [[_minute(m.at), m.state, m.by, m.reason] for m in moves]
        terminal.table(["at", "to", "by", "why"], changes, title="Changes")

    administer(work, as_json=as_json)


@command.command(name="compare")
@click.argument("flow")
@click.argument("first", type=click.IntRange(min=1))
@click.argument("second", type=click.IntRange(min=1))
@_placed
def _compare(flow: str, first: int, second: int, project: str | None, as_json: bool) -> None:
    """Compare two versions of FLOW on quality, cost, errors and duration, with intervals.

    Example: metier release compare support-reply 1 2
    """

    async def work(app: App, terminal: Terminal) -> None:
        place = await _project(app, flow, project)
        found = await _releases(app).compare(flow, place, first, second)
        terminal.data({"first": found.first.data(), "second": found.second.data(), "differences": found.differences})
        _side_by_side(terminal, found)

    administer(work, as_json=as_json)


@command.command(name="watch")
@as_json_option
def _watch(as_json: bool) -> None:
    """Look once at the rules of every release, and take back the versions that break one; workers do it by themselves.

    Example: metier release watch
    """

    async def work(app: App, terminal: Terminal) -> None:
        taken = await _releases(app).watch()
        terminal.data({"taken_back": taken})
        terminal.say(f"{taken} taken back.")

    administer(work, as_json=as_json)


def _releases(app: App) -> Releases:
    return Releases(app.store, app.vault)


async def _project(app: App, flow: str, project: str | None) -> str:
    if project is not None:
        return (await app.keys.project(project)).id
    name = f"workflow {flow}"
    try:
        return (await app.principal(name)).project
    except NotFound:
        raise NotFound(
            f"cannot tell the project of {flow!r}: there is no key {name!r}; check the flow's name, issue that key, "
            "or give the project with --project"
        ) from None


def _move(flow: str, version: int, made: Callable[[], Change], how: Mapping[str, Any]) -> None:
    """Change who gets a version, or say what that would change."""

    async def work(app: App, terminal: Terminal) -> None:
        place, dry = await _project(app, flow, how["project"]), how["dry_run"]
        changes = await _releases(app).move(
            flow, place, version, getpass.getuser(), made(), seen=how["seen"], dry_run=dry
        )
        one = changes[0].after
        nobody = await _nobody(app, one) if one.state in ("pilot", "canary") else []
        if dry:
            _foreseen(terminal, changes, nobody)
        else:
            _told(terminal, one, nobody)
        if nobody:
            named = escape(", ".join(nobody))
            terminal.say(f"No key of the project has this name or group yet, so that nobody gets it by it: {named}.")

    administer(work, as_json=how["as_json"])


async def _nobody(app: App, one: Release) -> list[str]:
    """Pilots of a version that no good key of its project is."""
    keys = [key for key in await app.keys.list(one.project) if key.revoked_at is None]
    known = {f"user:{key.name}" for key in keys} | {f"group:{group}" for key in keys for group in key.groups}
    return [pilot for pilot in one.pilots if pilot not in known]


def _foreseen(terminal: Terminal, changes: Sequence[Changed], nobody: Sequence[str] = ()) -> None:
    """Say which versions would stand otherwise, for whom, and that none does."""
    terminal.data({"dry_run": True, "changes": changes, "nobody": nobody})
    for one in changes:
        now = "" if one.before is None else f" {_STANDS[one.before.state](one.before)} and"
        terminal.say(f"[bold]{_named(one.after)}[/bold]{now} would {_WOULD[one.after.state](one.after)}.")
    if changes[0].before is not None:
        terminal.say("Runs under way would keep the version they were started with.")
    terminal.say("Nothing was done.")


def _told(terminal: Terminal, one: Release, nobody: Sequence[str] = ()) -> None:
    terminal.data({"release": one, "nobody": nobody})
    _told_only(terminal, one)


def _told_only(terminal: Terminal, one: Release) -> None:
    stands = _STANDS[one.state](one) + (": nobody gets it yet" if one.state == "draft" else "")
    terminal.say(f"[bold]{_named(one)}[/bold] {one.definition[:12]} {stands}.")


def _minute(at: datetime | None) -> str:
    return "" if at is None else f"{at:%d/%m/%Y %H:%M}"


def _named(one: Release) -> str:
    return escape(f"{one.flow}@{one.version}")


def _some(one: Release) -> str:
    """Who gets a canary."""
    named = f" and {', '.join(one.pilots)}" if one.pilots else ""
    return escape(f"{one.share:.1%} of the runs, per {one.per}{named}")


_STANDS: Mapping[State, Callable[[Release], str]] = {
    "draft": lambda _: "is a draft",
    "pilot": lambda one: f"is given to {escape(', '.join(one.pilots))}",
    "canary": lambda one: f"is given to {_some(one)}",
    "all": lambda _: "is for all",
    "retired": lambda _: "was replaced",
    "rolled_back": lambda _: "was taken back",
}
_WOULD: Mapping[State, Callable[[Release], str]] = {
    "draft": lambda _: "be made, a draft: nobody gets it yet",
    "pilot": lambda one: f"be given to {escape(', '.join(one.pilots))}, and to nobody else",
    "canary": lambda one: f"be given to {_some(one)}",
    "all": lambda _: "be for all",
    "retired": lambda _: "be replaced: no run is started with it, and it is kept to go back to",
    "rolled_back": lambda _: "be taken back: no run is started with it again",
}


def _rows(found: Figures) -> list[list[str]]:
    return [[name, _figure(getattr(found, field), form)] for field, name, form in _MEASURES]


def _figure(one: Figure | None, form: str) -> str:
    if one is None:
        return "no run tells it"
    return f"{form.format(one.value)} ({form.format(one.low)} to {form.format(one.high)}, {one.count} runs)"


def _side_by_side(terminal: Terminal, found: Comparison) -> None:
    apart = {one.measure: one for one in found.differences}
    rows = []
    for field, name, form in _MEASURES:
        one = apart[field]
        known = "" if one.low is None or one.high is None else f" ({form.format(one.low)} to {form.format(one.high)})"
        rows.append([name, _figure(one.first, form), _figure(one.second, form), one.told + known])
    terminal.table(
        ["", f"version {found.first.version}", f"version {found.second.version}", "second less first, 95 %"], rows
    )
