"""`metier secret`: what connectors and triggers prove themselves with, sealed; values go in and are never shown."""

from __future__ import annotations

import getpass
import pathlib
import sys

import click

from metier.app import App
from metier.cli.terminal import Terminal, administer, as_json_option
from metier.connectors.secrets import Secrets
from metier.errors import Invalid

__all__ = ["command"]

_organisation = click.option("--organisation", default="main", show_default=True, help="Whose secret it is.")
_project = click.option("--project", help="Only for runs of this project, by its name or id.")


@click.group()
def command() -> None:
    """Set, list and remove the secrets of connectors and triggers.

    A secret belongs to an organisation or to one project, and names the connectors that may read it. Values come from
    the standard input or a file, never from the command line, and are shown nowhere again.
    """


@command.command(name="set")
@click.argument("name")
@click.option(
    "--for", "scope", multiple=True, required=True, help="Connector that may read it, '*' for every one; again."
)
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path), help="Holds the value.")
@_project
@_organisation
@as_json_option
def _set(
    name: str, scope: tuple[str, ...], file: pathlib.Path | None, project: str | None, organisation: str, as_json: bool
) -> None:
    """Seal a value under a name, in place of the one before; it is asked for, or read from the standard input.

    Example: metier secret set crm-token --for crm < token.txt
    """
    value = _value(file)

    async def work(app: App, terminal: Terminal) -> None:
        owner, whose = await _owner(app, project, organisation)
        secrets = Secrets.built(app.store, app.vault)
        await secrets.set(name, value, scope=scope, by=getpass.getuser(), organisation=owner, project=whose)
        terminal.data({"secret": name, "scope": sorted(scope), "organisation": owner, "project": whose})
        terminal.say(f"{name} is set, for {', '.join(scope)}.")

    administer(work, as_json=as_json)


@command.command(name="list")
@as_json_option
def _list(as_json: bool) -> None:
    """List secrets without their values: whose they are, and who may read them."""

    async def work(app: App, terminal: Terminal) -> None:
        found = await Secrets.built(app.store, app.vault).list()
        terminal.data({"secrets": found})
        terminal.table(
            ["secret", "organisation", "project", "for", "set by", "set"],
            [
                [s.name, s.organisation, s.project or "all", ", ".join(s.scope), s.set_by, f"{s.set_at:%d/%m/%Y %H:%M}"]
                for s in found
            ],
        )
        if not found:
            terminal.say("No secret is set.")

    administer(work, as_json=as_json)


@command.command(name="remove")
@click.argument("name")
@_project
@_organisation
@as_json_option
def _remove(name: str, project: str | None, organisation: str, as_json: bool) -> None:
    """Delete a secret for good; connectors that need it fail from then on and say so."""

    async def work(app: App, terminal: Terminal) -> None:
        owner, whose = await _owner(app, project, organisation)
        await Secrets.built(app.store, app.vault).remove(name, organisation=owner, project=whose)
        terminal.data({"removed": name})
        terminal.say(f"{name} removed.")

    administer(work, as_json=as_json)


async def _owner(app: App, project: str | None, organisation: str) -> tuple[str, str | None]:
    if project is None:
        return (await app.keys.organisation(organisation)).id, None
    found = await app.keys.project(project)
    return found.organisation, found.id


def _value(file: pathlib.Path | None) -> str:
    """Read a value from a file, the standard input or a person; one line end at its end is none of it."""
    if file is None and sys.stdin.isatty():
        return str(click.prompt("Value", hide_input=True))
    try:
        text = file.read_text(encoding="utf-8") if file is not None else sys.stdin.read(100_000)
    except UnicodeDecodeError:
        raise click.ClickException(Invalid("the value of a secret must be UTF-8 text").message) from None
    return text.removesuffix("\n").removesuffix("\r")
