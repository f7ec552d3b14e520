"""`metier key`: virtual keys, shown once when they are issued, and the projects that pay for them."""

from __future__ import annotations

import datetime
import getpass
from decimal import Decimal
from typing import Any

import click

from metier.app import App
from metier.cli import preparation
from metier.cli.terminal import Terminal, as_json_option, run
from metier.errors import NotFound

__all__ = ["command"]


@click.group()
def command() -> None:
    """Issue, list and revoke virtual keys; set the budgets of the projects that pay.

    A key belongs to a project, which has a budget, and to a registered system, without which no key is issued.
    """


@command.command(name="issue")
@click.argument("name")
@click.option("--system", required=True, help="Id or name of the registered system the key is for.")
@click.option("--project", default="default", show_default=True, help="Project that pays, by its id or name.")
@click.option("--model", "models", multiple=True, help="Model the key may use; several times; none means all.")
@click.option("--group", "groups", multiple=True, help="Group whose documents the key may read; several times.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Days until it expires.")
@as_json_option
def _issue(
    name: str, system: str, project: str, models: tuple[str, ...], groups: tuple[str, ...], days: int, as_json: bool
) -> None:
    """Issue a key and show its secret, this once.

    Example: metier key issue "chat of the shop" --system support-reply --project default
    """

    async def work(app: App, terminal: Terminal) -> None:
        owner = await app.keys.project(project)
        issued = await app.keys.issue(
            name,
            owner.id,
            await preparation.system_id(app, system),
            getpass.getuser(),
            models=list(models) or None,
            groups=groups,
            expires_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days),
        )
        terminal.data({"key": issued.key, "secret": issued.secret})
        terminal.say(f"[bold]{issued.secret}[/bold]")
        terminal.say("Copy it now: it is kept nowhere and cannot be shown again.")

    run(work, as_json=as_json)


@command.command(name="list")
@click.option("--project", help="Only the keys of this project, by its id.")
@as_json_option
def _list(project: str | None, as_json: bool) -> None:
    """List keys, newest first; only their public part is known."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.keys.list(project)
        terminal.data({"keys": found})
        terminal.table(
            ["public part", "name", "project", "system", "models", "groups", "expires", "state"],
            [
                [
                    key.id, key.name, key.project, key.system, "all" if key.models is None else ", ".join(key.models),
                    ", ".join(sorted(key.groups)), key.expires_at.date() if key.expires_at else "never",
                    "revoked" if key.revoked_at else "good",
                ]
                for key in found
            ],
        )  # fmt: skip

    run(work, as_json=as_json)


@command.command(name="revoke")
@click.argument("key")
@as_json_option
def _revoke(key: str, as_json: bool) -> None:
    """End a key for good, everywhere within a second."""

    async def work(app: App, terminal: Terminal) -> None:
        await app.keys.revoke(key, getpass.getuser())
        terminal.data({"revoked": key})
        terminal.say("Revoked.")

    run(work, as_json=as_json)


@command.command(name="project")
@click.argument("name")
@click.option("--limit", type=click.FloatRange(min=0), help="Money the project may spend, in euros.")
@click.option("--period", type=click.Choice(["day", "month", "total"]), default="month", show_default=True)
@as_json_option
def _project(name: str, limit: float | None, period: Any, as_json: bool) -> None:
    """Make a project, or set the budget of one that exists; without --limit, show where it stands.

    A budget is reserved before each call and settled after it: calls that would pass the limit are refused.

    Example: metier key project shop --limit 50 --period month
    """

    async def work(app: App, terminal: Terminal) -> None:
        try:
            found = await app.keys.project(name)
        except NotFound:
            found = await app.keys.create_project(name)
            terminal.say(f"Project {found.name} made.")
        if limit is not None:
            await app.admission.set_budget(found.id, Decimal(str(limit)), period)
        budget = await app.admission.budget(found.id)
        terminal.data({"project": found, "budget": budget})
        if budget is None:
            terminal.say(f"{found.name} ({found.id}) has no budget: its calls are not limited. Give one with --limit.")
            return
        terminal.say(
            f"{found.name} ({found.id}): {budget.spent_eur:.6f} € spent and {budget.held_eur:.6f} € held of "
            f"{budget.limit_eur:.2f} € ({budget.period})"
        )

    run(work, as_json=as_json)
