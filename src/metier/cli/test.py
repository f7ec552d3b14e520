"""`metier test`: the tests written beside a workflow, without model, database or mail."""

from __future__ import annotations

from collections.abc import Iterator

import click
from rich.markup import escape

from metier.cli import flows
from metier.cli.terminal import Terminal, as_json_option, without_platform
from metier.errors import NotFound
from metier.settings import Settings
from metier.workflow import rules
from metier.workflow.definition import Workflow
from metier.workflow.rehearsal import Rehearsed, rehearse
from metier.workflow.steps.functions import FUNCTIONS

__all__ = ["command"]

_NONE = "{} has no tests beside it: write some under `tests:`, with the inputs, what steps give, and what is expected."


@click.command()
@click.argument("flow")
@as_json_option
def command(flow: str, as_json: bool) -> None:
    """Run the tests written beside a workflow and its decision tables.

    Steps give the outputs the test pretends; rules and code run for real. FLOW is a template's name or a path.
    """

    async def work(_: Settings, terminal: Terminal) -> None:
        workflow = flows.find(flow)
        results = [rehearse(workflow, test, FUNCTIONS) for test in workflow.tests]
        results.extend(_tables(workflow))
        terminal.data({"workflow": workflow.name, "tests": results})
        for result in results:
            terminal.say(f"{'[green]passed[/green]' if result.ok else '[red]failed[/red]'} {escape(result.name)}")
            for failure in result.failures:
                terminal.say(f"       {escape(failure)}")
        passed = sum(result.ok for result in results)
        terminal.say(f"{passed} passed, {len(results) - passed} failed" if results else _NONE.format(workflow.name))
        if passed < len(results):
            raise SystemExit(1)

    without_platform(work, as_json=as_json)


def _tables(workflow: Workflow) -> Iterator[Rehearsed]:
    """Play the tests beside every decision table the workflow names, each table once."""
    for reference in dict.fromkeys(str(step.config) for step in workflow.walk() if step.kind == "rules"):
        try:
            table = rules.table(workflow, reference)
        except NotFound:
            continue  # it lies with the platform, not beside the workflow
        for test in table.tests:
            failures = rules.rehearse(table, test)
            yield Rehearsed(f"{reference}: {test.name}", not failures, failures, ())
