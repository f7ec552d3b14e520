"""The command `metier`: one file per command, loaded only when it is called."""

from __future__ import annotations

import importlib
import importlib.metadata

import click

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, str] = {
    "init": "Prepare this machine: database, model, first system, project and key.",
    "demo": "Do the main job on real e-mails with a real local model.",
    "serve": "Start the gateway and the console.",
    "worker": "Run workflows until asked to stop.",
    "run": "Start a workflow and follow it.",
    "plan": "Foresee what a workflow may take before it runs.",
    "means": "Measure code, rules, classifier and model for one step.",
    "release": "Give versions of a workflow to pilots, a share, all.",
    "review": "Answer the tasks that wait for a person.",
    "triggers": "Let flows start by themselves: deploy, look, pause, try.",
    "runs": "Runs: show, pause, cancel, do again, look back, delete.",
    "batches": "List, show or cancel batches.",
    "ingest": "Put documents into a collection.",
    "ask": "Search a collection and answer with citations.",
    "key": "Issue, rotate and revoke virtual keys.",
    "budget": "Limits, quotas and budgets, and where they stand.",
    "system": "Register and approve AI uses.",
    "models": "List, fetch and choose models.",
    "train": "Train a classifier and measure it.",
    "connectors": "Doors to the outside: list, add, test, remove.",
    "secret": "What connectors prove themselves with.",
    "lint": "Check a workflow before it runs.",
    "test": "Run the tests written beside a workflow.",
    "schema": "Print the JSON Schema of the workflow language.",
    "usage": "Calls, tokens, money, energy and carbon.",
    "cache": "Show and delete answers kept to be given again.",
    "calls": "Recorded calls: look, keep contents, erase, delete.",
    "import": "Take over the configuration of another gateway.",
}
"""Every command with its one-line help, in the order people meet them."""


class _Lazy(click.Group):
    """Knows the names of all commands and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        # A module cannot be called by a word of the language.
        module = importlib.import_module(f"metier.cli.{'imports' if cmd_name == 'import' else cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Lazy,
    epilog="Exit codes: 0 done, 1 it failed, 2 the command is wrong, 3 refused by a rule, 4 something outside is away. "
    "Settings come from METIER_* variables and metier.yaml: see docs/reference/settings.md.",
)
@click.version_option(importlib.metadata.version("metier"), prog_name="metier")
def main() -> None:
    """One governed road for every model call, durable workflows for every delegated task."""
