"""`metier worker`: moves runs until it is asked to stop."""

from __future__ import annotations

import importlib

import click

__all__ = ["command"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def command(as_json: bool) -> None:
    """Run workflows and batches until asked to stop (Ctrl-C or SIGTERM); several workers share the work.

    A worker that dies loses nothing: its runs are picked up by another one, or at the next start, from their last
    journalled step.

    Example: metier worker
    """
    # Whoever only asks what it does waits for nothing it works with.
    importlib.import_module("metier.cli.working").alone(as_json)
