"""`metier key`: virtual keys, shown once when they are issued, and the projects that pay for them."""

from __future__ import annotations

import datetime
import functools
import getpass
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import click
from rich.markup import escape

from metier.app import App
from metier.cli import preparation
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.errors import NotFound
from metier.policy import budgets
from metier.policy.keys import SURFACES, Scopes
from metier.policy.limits import UNITS, amount_text

__all__ = ["command"]


def _scopes(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what keys may do, handed on as one value."""

    @click.option("--model", "models", multiple=True, help="Model that may be used; several times; none means all.")
    @click.option(
        "--surface", "surfaces", multiple=True, type=click.Choice(sorted(SURFACES)),
        help="Surface that may be used; several times; none means all.",
    )  # fmt: skip
    @click.option("--tool", "tools", multiple=True, help="Function that calls may offer to a model; none means any.")
    @functools.wraps(function)
    def gathered(models: tuple[str, ...], surfaces: tuple[str, ...], tools: tuple[str, ...], **given: Any) -> None:
        named = (frozenset(names) or None for names in (models, surfaces, tools))
        function(scopes=Scopes(*named), **given)

    return gathered


@click.group()
def command() -> None:
    """Issue, rotate and revoke virtual keys; make the projects and organisations that own them.

    A key belongs to a project, the project to an organisation, and the key to a registered system, without which none
    is issued. Limits of all of them are set with `metier budget`.
    """


@command.command(name="issue")
@click.argument("name")
@click.option("--system", required=True, help="Id or name of the registered system the key is for.")
@click.option("--project", default="default", show_default=True, help="Project that pays, by its id or name.")
@_scopes
@click.option("--group", "groups", multiple=True, help="Group whose documents the key may read; several times.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Days until it expires.")
@as_json_option
def _issue(
    name: str, system: str, project: str, scopes: Scopes, groups: tuple[str, ...], days: int, as_json: bool
) -> None:
    """Issue a key and show its secret, this once; it can have no more than its project and organisation.

    Example: metier key issue "chat of the shop" --system support-reply --project default
    """

    async def work(app: App, terminal: Terminal) -> None:
        owner = await app.keys.project(project)
        issued = await app.keys.issue(
            name,
            owner.id,
            await preparation.system_id(app, system),
            getpass.getuser(),
            scopes=scopes,
            groups=groups,
            expires_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days),
        )
        terminal.data({"key": issued.key, "secret": issued.secret})
        terminal.say(f"[bold]{issued.secret}[/bold]")
        terminal.say("Copy it now: it is kept nowhere and cannot be shown again.")
        for model in sorted((scopes.models or frozenset()) - {*app.catalog.names()}):
            terminal.say(f"Warning: there is no model {escape(repr(model))} here yet: metier models list shows them.")

    administer(work, as_json=as_json)


@command.command(name="list")
@click.option("--project", help="Only the keys of this project, by its id or name.")
@as_json_option
def _list(project: str | None, as_json: bool) -> None:
    """List keys, newest first; only their public part is known."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.keys.list((await app.keys.project(project)).id if project else None)
        terminal.data({"keys": found})
        paying = {one.id: one.name for one in await app.keys.projects()}
        systems = {one.id: one.name for one in await app.register.list()}
        terminal.table(
            ["public part", "name", "project", "system", "models", "groups", "expires", "state"],
            [
                [
                    key.id, key.name, paying.get(key.project, key.project), systems.get(key.system, key.system),
                    _shown(key.models), ", ".join(sorted(key.groups)),
                    key.expires_at.date() if key.expires_at else "never", "revoked" if key.revoked_at else "good",
                ]
                for key in found
            ],
        )  # fmt: skip

    administer(work, as_json=as_json)


@command.command(name="show")
@click.argument("key")
@as_json_option
def _show(key: str, as_json: bool) -> None:
    """Show one key by its public part: what it may do, under which owners, and where its limits stand."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await app.keys.get(key)
        owner = await app.keys.project(found.project)
        standing = await budgets.standings(app.admission.limits, found.id)
        terminal.data({"key": found, "project": owner, "limits": standing})
        terminal.table(
            ["", ""],
            [
                ["public part", found.id], ["name", found.name], ["project", f"{owner.name} ({owner.id})"],
                ["organisation", owner.organisation], ["system", found.system], ["models", _shown(found.models)],
                ["surfaces", _shown(found.surfaces)], ["tools", _shown(found.tools)],
                ["groups", ", ".join(sorted(found.groups))], ["expires", found.expires_at or "never"],
                ["state", f"revoked {found.revoked_at}" if found.revoked_at else "good"],
                ["rotated", found.rotated_at or "never"], ["secret before taken until", found.before_until or "-"],
            ],
        )  # fmt: skip
        for one in standing:
            limit = f"{amount_text(one.limit.amount)} {UNITS[one.limit.measure]} per {one.limit.period}"
            terminal.say(f"{limit}: {amount_text(one.used)} used, {amount_text(one.held)} held")

    administer(work, as_json=as_json)


@command.command(name="rotate")
@click.argument("key")
@click.option(
    "--grace", type=click.FloatRange(0, 2160), default=24.0, show_default=True,
    help="Hours the secret before still works.",
)  # fmt: skip
@as_json_option
def _rotate(key: str, grace: float, as_json: bool) -> None:
    """Give a key another secret and show it, this once; the one before works until its grace is over.

    Example: metier key rotate 3f9c0a41b2d7 --grace 48
    """

    async def work(app: App, terminal: Terminal) -> None:
        issued = await app.keys.rotate(key, grace * 3600)
        terminal.data({"key": issued.key, "secret": issued.secret})
        terminal.say(f"[bold]{issued.secret}[/bold]")
        terminal.say(f"Copy it now. The secret before works until {issued.key.before_until}.")

    administer(work, as_json=as_json)


@command.command(name="organisation")
@click.argument("name")
@_scopes
@click.option("--unbound", is_flag=True, help="Let its keys do everything again.")
@as_json_option
def _organisation(name: str, scopes: Scopes, unbound: bool, as_json: bool) -> None:
    """Make an organisation, or say what its keys may do at most, those that exist included.

    Example: metier key organisation subsidiary --model writer --surface chat --surface embeddings
    """

    async def work(app: App, terminal: Terminal) -> None:
        try:
            found = await app.keys.organisation(name)
        except NotFound:
            found = await app.keys.create_organisation(name)
            terminal.say(f"Organisation {found.name} made.")
        if unbound or scopes != Scopes():
            await app.keys.bound(found, Scopes() if unbound else scopes)
            found = await app.keys.organisation(name)
        terminal.data(
            {"organisation": found, "projects": [p for p in await app.keys.projects() if p.organisation == found.id]}
        )
        terminal.say(_bounds(f"{found.name} ({found.id})", found.scopes))

    administer(work, as_json=as_json)


@command.command(name="revoke")
@click.argument("key")
@as_json_option
def _revoke(key: str, as_json: bool) -> None:
    """End a key for good, everywhere within a second."""

    async def work(app: App, terminal: Terminal) -> None:
        # Named by its public part, also where the whole key was given.
        public = (await app.keys.get(key)).id
        try:
            await app.keys.revoke(public, getpass.getuser())
        except NotFound:
            # Somebody was quicker: what was wanted holds.
            ended = (await app.keys.get(public)).revoked_at
            if ended is None:
                raise
            terminal.say(f"Was revoked already, {ended.isoformat(' ', 'seconds')}.")
        else:
            terminal.say("Revoked.")
        terminal.data({"revoked": public})

    administer(work, as_json=as_json)


@command.command(name="project")
@click.argument("name")
@click.option("--limit", type=click.FloatRange(min=0), help="Money the project may spend, in euros.")
@click.option("--period", type=click.Choice(["day", "month", "total"]), default="month", show_default=True)
@click.option("--organisation", default="main", show_default=True, help="Who owns it, when it is made.")
@_scopes
@as_json_option
def _project(name: str, limit: float | None, period: Any, organisation: str, scopes: Scopes, as_json: bool) -> None:
    """Make a project, or set the budget of one that exists; without --limit, show where it stands.

    --model, --surface and --tool say what its keys may do at most, those that exist included.

    A budget is reserved before each call and settled after it: calls that would pass the limit are refused.

    Example: metier key project shop --limit 50 --period month
    """

    async def work(app: App, terminal: Terminal) -> None:
        try:
            found = await app.keys.project(name)
        except NotFound:
            found = await app.keys.create_project(name, organisation)
            terminal.say(f"Project {found.name} made.")
        if limit is not None:
            await app.admission.set_budget(found.id, Decimal(str(limit)), period)
        if scopes != Scopes():
            await app.keys.bound(found, scopes)
            found = await app.keys.project(name)
            terminal.say(_bounds(found.name, found.scopes))
        budget = await app.admission.budget(found.id)
        terminal.data({"project": found, "budget": budget})
        if budget is None:
            terminal.say(f"{found.name} ({found.id}) has no budget: its calls are not limited. Give one with --limit.")
            return
        terminal.say(
            f"{found.name} ({found.id}): {budget.spent_eur:.6f} € spent and {budget.held_eur:.6f} € held of "
            f"{budget.limit_eur:.2f} € ({budget.period})"
        )

    administer(work, as_json=as_json)


def _shown(names: frozenset[str] | None) -> str:
    return "all" if names is None else ", ".join(sorted(names)) or "none"


def _bounds(name: str, scopes: Scopes) -> str:
    return (
        f"Keys of {name} may have at most: models {_shown(scopes.models)}; surfaces {_shown(scopes.surfaces)}; "
        f"tools {_shown(scopes.tools)}."
    )
