"""`metier cache`: what answers are kept, what they save, and their deletion."""

from __future__ import annotations

import datetime
import getpass

import click

from metier.app import App
from metier.cache.entries import Purge
from metier.cache.reuse import Cache
from metier.cli import preparation
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.errors import Broken, Invalid

__all__ = ["command"]


@click.group()
def command() -> None:
    """Show and delete answers that are kept to be given again.

    Answers are kept only for systems whose rules in metier.yaml say so: see docs/howto/cache.md.
    """


@command.command(name="show")
@click.option("--system", help="Only this system, by its id or its name.")
@as_json_option
def _show(system: str | None, as_json: bool) -> None:
    """Total the answers kept, and what they have saved, by system and model."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await _cache(app).entries.totals(await preparation.system_id(app, system) if system else None)
        names = {str(one.id): one.name for one in await app.register.list()}
        terminal.data({"kept": found, "systems": names})
        terminal.table(
            ["system", "model", "answers", "comparable", "kB", "hits", "€ saved", "Wh saved", "oldest", "newest"],
            [
                [
                    names.get(row.system, row.system), row.model, row.entries, row.comparable, row.bytes // 1000,
                    row.hits, f"{row.saved_eur:.4f}",
                    "not estimated" if row.saved_kwh is None else f"{row.saved_kwh * 1000:.3g}",
                    f"{row.oldest:%d/%m %H:%M}", f"{row.newest:%d/%m %H:%M}",
                ]
                for row in found
            ],
        )  # fmt: skip
        if not found:
            terminal.say("No answer is kept. `cache: exact` under `systems:` in metier.yaml keeps them.")

    administer(work, as_json=as_json)


@command.command(name="purge")
@click.option("--system", help="Of this system, by its id or its name.")
@click.option("--project", help="Of this project, by its id or its name.")
@click.option("--model", help="Of this public model name.")
@click.option("--person", help="Made for this end user, in the words the client calls them by.")
@click.option("--organisation", default="main", show_default=True, help="Whose end user that is.")
@click.option("--before", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M"]), help="Made before this time (UTC).")
@click.option("--all", "every", is_flag=True, help="Every answer there is.")
@as_json_option
def _purge(
    system: str | None,
    project: str | None,
    person: str | None,
    organisation: str,
    before: datetime.datetime | None,
    every: bool,
    as_json: bool,
    **chosen: str | None,
) -> None:
    """Delete kept answers that fit every option given; workers forget them within a second.

    Who deleted what, and when, is kept.
    """

    async def work(app: App, terminal: Terminal) -> None:
        cache = _cache(app)
        criteria = Purge(
            **chosen,
            system=await preparation.system_id(app, system) if system else None,
            project=await preparation.project_id(app, project),
            organisation=organisation if person else None,
            person=cache.places.person(organisation, person),
            before=before.replace(tzinfo=datetime.UTC) if before else None,
        )
        if (criteria == Purge()) != every:
            raise Invalid("which answers to delete is not clear: give --system, --project and so on, or --all alone")
        deleted = await cache.entries.purge(criteria, getpass.getuser())
        terminal.data({"deleted": deleted})
        terminal.say(f"{deleted} kept answers deleted.")

    administer(work, as_json=as_json)


def _cache(app: App) -> Cache:
    if app.gateway.cache is None:
        raise Broken("the platform was built without a cache of answers; report this to whoever runs it")
    return app.gateway.cache
