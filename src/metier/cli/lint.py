"""`metier lint`: every reference of a workflow checked before it runs."""

from __future__ import annotations

import pathlib

import click
from rich.markup import escape

from metier.cli import flows
from metier.cli.terminal import Terminal, as_json_option, without_platform
from metier.errors import Invalid
from metier.settings import Settings
from metier.workflow.lint import lint, unread

__all__ = ["command"]


@click.command()
@click.argument("flow")
@as_json_option
def command(flow: str, as_json: bool) -> None:
    """Check a workflow: its form, every reference, its prompts and its rules.

    FLOW is a template's name or the path of a flow.yaml. Exit code 0 with warnings only, 1 when there is an error,
    2 when it cannot be read at all.
    """

    async def work(settings: Settings, terminal: Terminal) -> None:
        try:
            workflow = flows.find(flow)
        except Invalid as wrong:
            findings, name, hash = unread(wrong), None, None
            if not findings:
                raise
        else:
            findings, name, hash = lint(workflow, flows.known(settings.config)), workflow.name, workflow.hash
        terminal.data({"workflow": name, "hash": hash, "findings": findings})
        for finding in findings:
            colour = "red" if finding.severity == "error" else "yellow"
            hint = f" ({finding.suggestion})" if finding.suggestion else ""
            place = f"{finding.file}:{finding.line}:{finding.column}"
            terminal.say(f"[{colour}]{finding.severity}[/{colour}] {escape(f'{place} {finding.message}{hint}')}")
        if not findings:
            terminal.say(f"{name}: nothing to say. {pathlib.Path(flow).name} {str(hash)[:12]}")
        if any(finding.severity == "error" for finding in findings):
            raise SystemExit(2 if hash is None else 1)

    without_platform(work, as_json=as_json)
