"""What commands about runs share: which runs are meant, and the table they are shown in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

import click

from metier.app import App
from metier.cli.terminal import Terminal
from metier.errors import MetierError
from metier.workflow.looking import Chosen
from metier.workflow.port import Run, RunStatus

__all__ = ["begins", "chosen", "mend", "table", "which_runs"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M"]
_OPTIONS = (
    click.option("--workflow", help="Only runs of this workflow."),
    click.option("--project", help="Only runs of this project, by its id or name."),
    click.option(
        "--status", type=click.Choice(get_args(RunStatus)), multiple=True, help="Only this status; repeatable."
    ),
    click.option("--code", help="Only runs that failed with this code, such as unavailable."),
    click.option("--since", type=click.DateTime(_MOMENTS), help="Only runs started from this moment on (UTC)."),
    click.option("--until", type=click.DateTime(_MOMENTS), help="Only runs started before this moment (UTC)."),
)


def which_runs(command: _Command) -> _Command:
    """Give a command the options that say which runs are meant."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


async def chosen(app: App, which: Mapping[str, Any], limit: int) -> Chosen:
    """Read those options; a project is found by its id or name."""
    project = which.get("project")
    return Chosen(
        workflow=which.get("workflow"),
        project=None if project is None else (await app.keys.project(project)).id,
        statuses=tuple(which.get("status") or ()),
        code=which.get("code"),
        since=_utc(which.get("since")),
        until=_utc(which.get("until")),
        limit=limit,
    )


def table(terminal: Terminal, runs: Sequence[Run]) -> None:
    """Show runs to a person, one a row."""
    terminal.table(
        ["run", "workflow", "status", "outcome", "waits on", "€", "started"],
        [
            [
                one.id, one.workflow, one.status, one.outcome, one.parked_on or begins(one), f"{one.cost_eur:.4f}",
                f"{one.created_at:%d/%m %H:%M}",
            ]
            for one in runs
        ],
    )  # fmt: skip


async def mend(app: App, terminal: Terminal, found: Run) -> None:
    """Say what helps a run that failed or died: to resume it, or another definition where this one is at fault."""
    if found.parent is not None:
        terminal.say(f"It is part of {found.parent}: metier runs show {found.parent}")
    elif await _at_fault(app, found):
        terminal.say(
            "The flow itself is at fault, or what this run was given: it keeps the flow it began with, and would fail "
            f"again. Mend the flow, then start another run from it: metier runs fork {found.id} --flow FLOW"
        )
    else:
        terminal.say(f"Mend the cause, then: metier runs resume {found.id}")
        terminal.say(f"Where the flow was the cause, which a run keeps: metier runs fork {found.id} --flow FLOW")


async def _at_fault(app: App, found: Run) -> bool:
    """Whether a failure comes of the definition and the inputs alone: done again, nothing would be asked of anybody."""
    failure = found.failure
    if failure is None or found.status != "failed" or failure.code in ("broken", "run_budget_exceeded"):
        return False
    if not failure.path:
        return True
    try:
        return not (await app.operations.retry(found.id, failure.path, "", dry_run=True)).first
    except MetierError:
        return False  # what cannot be foreseen is not said


def begins(one: Run) -> str:
    """Say when a run may begin that waits for its hours; nothing where it waits for none."""
    if one.status != "queued" or one.opens_at is None or one.opens_at <= datetime.now(UTC):
        return ""
    return f"{one.hours}, next at {one.opens_at:%d/%m %H:%M} UTC"


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
