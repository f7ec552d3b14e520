"""What commands about runs share: which runs are meant, and the table they are shown in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

import click

from metier.app import App
from metier.cli.terminal import Terminal
from metier.workflow.looking import Chosen
from metier.workflow.port import Run, RunStatus

__all__ = ["chosen", "table", "which_runs"]

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
                one.id, one.workflow, one.status, one.outcome, one.parked_on, f"{one.cost_eur:.4f}",
                f"{one.created_at:%d/%m %H:%M}",
            ]
            for one in runs
        ],
    )  # fmt: skip


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
