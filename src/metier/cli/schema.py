"""`metier schema`: the JSON Schema of the workflow language, for editors that complete and check while one writes."""

from __future__ import annotations

import json

import click

from metier.cli.terminal import Terminal, as_json_option, without_platform
from metier.settings import Settings
from metier.workflow.editor import schema

__all__ = ["command"]


@click.command()
@as_json_option
def command(as_json: bool) -> None:
    """Print the JSON Schema of the workflow language.

    Keep it beside your workflows and name it in the first line of each:
    # yaml-language-server: $schema=workflow.schema.json
    """

    async def work(_: Settings, terminal: Terminal) -> None:
        found = schema()
        terminal.data(found)
        if not as_json:
            click.echo(json.dumps(found, indent=2, ensure_ascii=False))

    without_platform(work, as_json=as_json)
